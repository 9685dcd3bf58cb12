//! Times of the week in which nothing is sent.

use crate::alerts::options::{ClockTime, Day, MuteConfig};
use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;

/// Returns whether one of some times is now.
pub(crate) fn is_muted(mute: &[MuteConfig], now_ms: i64) -> bool {
    mute.iter().any(|mute| holds(mute, now_ms).unwrap_or(false))
}

fn holds(mute: &MuteConfig, now_ms: i64) -> Option<bool> {
    // A zone that is unknown is refused with the configuration.
    let zone = mute.time_zone.as_ref().map_or(Ok(TimeZone::UTC), |name| TimeZone::get(name)).ok()?;
    let now = Timestamp::from_millisecond(now_ms).ok()?.to_zoned(zone).datetime();
    let clock = |time: Option<ClockTime>| time.map_or(Time::midnight(), |ClockTime(time)| time);
    let (from, to) = (clock(mute.from), clock(mute.to));
    let is_on = |weekday: Weekday| mute.days.is_empty() || mute.days.iter().any(|day| of(*day) == weekday);
    let (today, time) = (now.date().weekday(), now.time());
    Some(if from < to {
        is_on(today) && (from..to).contains(&time)
    } else {
        // It ends on the next day.
        (is_on(today) && time >= from) || (is_on(today.previous()) && time < to)
    })
}

fn of(day: Day) -> Weekday {
    match day {
        Day::Mon => Weekday::Monday,
        Day::Tue => Weekday::Tuesday,
        Day::Wed => Weekday::Wednesday,
        Day::Thu => Weekday::Thursday,
        Day::Fri => Weekday::Friday,
        Day::Sat => Weekday::Saturday,
        Day::Sun => Weekday::Sunday,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_muted_at(mute: &str, at: &str) -> bool {
        #[derive(serde::Deserialize)]
        struct Written {
            mute: Vec<MuteConfig>,
        }
        let written: Written = toml::from_str(&format!("mute = [{mute}]")).unwrap();
        is_muted(&written.mute, at.parse::<Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn a_night_reaches_into_the_next_day() {
        // 2026-11-27 is a Friday.
        let nights = "{ days = ['fri'], from = '22:00', to = '07:00' }";
        for (at, expected) in [
            ("2026-11-27T21:59:59Z", false),
            ("2026-11-27T22:00:00Z", true),
            ("2026-11-28T06:59:59Z", true),
            ("2026-11-28T07:00:00Z", false),
            ("2026-11-28T22:00:00Z", false),
            ("2026-11-27T06:00:00Z", false),
        ] {
            assert_eq!(is_muted_at(nights, at), expected, "{at}");
        }
    }

    #[test]
    fn a_day_without_times_is_muted_whole() {
        let weekend = "{ days = ['sat', 'sun'] }";
        for (at, expected) in [
            ("2026-11-27T23:59:59Z", false),
            ("2026-11-28T00:00:00Z", true),
            ("2026-11-29T23:59:59Z", true),
            ("2026-11-30T00:00:00Z", false),
        ] {
            assert_eq!(is_muted_at(weekend, at), expected, "{at}");
        }
    }

    #[test]
    fn times_are_those_of_the_zone_in_summer_and_in_winter() {
        let morning = "{ from = '08:00', to = '09:00', time_zone = 'Europe/Berlin' }";
        for (at, expected) in [
            ("2026-07-01T06:30:00Z", true),
            ("2026-07-01T07:30:00Z", false),
            ("2026-12-01T07:30:00Z", true),
            ("2026-12-01T06:30:00Z", false),
        ] {
            assert_eq!(is_muted_at(morning, at), expected, "{at}");
        }
    }
}
