//! Parts of dates, in UTC.

const SECONDS_PER_DAY: i128 = 86_400;

/// A day of the Gregorian calendar.
struct Day {
    year: i64,
    month: i64,
    day: i64,
    /// Days since 1970.
    number: i64,
}

/// Returns the function of a time in seconds since 1970.
pub(super) fn function(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "minute" => |time| (seconds(time).rem_euclid(3600) / 60) as f64,
        "hour" => |time| (seconds(time).rem_euclid(SECONDS_PER_DAY) / 3600) as f64,
        // The first day of 1970 was a Thursday.
        "day_of_week" => |time| (Day::of(time).number + 4).rem_euclid(7) as f64,
        "day_of_month" => |time| Day::of(time).day as f64,
        "day_of_year" => |time| Day::of(time).of_year() as f64,
        "days_in_month" => |time| Day::of(time).days_in_month() as f64,
        "month" => |time| Day::of(time).month as f64,
        "year" => |time| Day::of(time).year as f64,
        _ => return None,
    })
}

/// Returns whole seconds. In Go, what is no number of 64 bits becomes the smallest one, and its calendar takes that for the
/// one after the largest.
fn seconds(time: f64) -> i128 {
    if time.abs() < i64::MAX as f64 { time as i128 } else { 1 << 63 }
}

impl Day {
    fn of(time: f64) -> Self {
        let number = seconds(time).div_euclid(SECONDS_PER_DAY) as i64;
        // Years that begin in March have the day that is added in leap years at their end.
        let since_march_0 = number + 719_468;
        let era = since_march_0.div_euclid(146_097);
        let of_era = since_march_0.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self { year, month, day, number }
    }

    fn is_in_leap_year(&self) -> bool {
        self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0)
    }

    fn days_in_month(&self) -> i64 {
        match self.month {
            2 if self.is_in_leap_year() => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    fn of_year(&self) -> i64 {
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let before = before.get(self.month as usize - 1).copied().unwrap_or_default();
        before + self.day + i64::from(self.month > 2 && self.is_in_leap_year())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_of_dates_are_those_of_the_calendar(time in -62_000_000_000_i64..250_000_000_000) {
            let date = jiff::Timestamp::from_second(time).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
            for (name, expected) in [
                ("minute", f64::from(date.minute())),
                ("hour", f64::from(date.hour())),
                ("day_of_week", f64::from(date.weekday().to_sunday_zero_offset())),
                ("day_of_month", f64::from(date.day())),
                ("day_of_year", f64::from(date.day_of_year())),
                ("days_in_month", f64::from(date.days_in_month())),
                ("month", f64::from(date.month())),
                ("year", f64::from(date.year())),
            ] {
                prop_assert_eq!(function(name).unwrap()(time as f64), expected, "{}", name);
            }
        }
    }
}
