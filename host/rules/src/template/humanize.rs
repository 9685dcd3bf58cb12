//! Numbers for people, as Prometheus writes them.

use super::printf::general;
use super::value::written_time;
use jiff::Timestamp;

const LARGE: [&str; 8] = ["k", "M", "G", "T", "P", "E", "Z", "Y"];
const LARGE_OF_1024: [&str; 8] = ["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"];
const SMALL: [&str; 8] = ["m", "u", "n", "p", "f", "a", "z", "y"];

/// Writes four significant digits.
fn four(value: f64) -> String {
    general(value, 4)
}

/// `1.234k`, `12.34m`.
pub(super) fn humanize(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return four(value);
    }
    if value.abs() >= 1.0 { scaled(value, 1000.0, &LARGE) } else { small(value, "") }
}

/// `1.234ki`.
pub(super) fn humanize1024(value: f64) -> String {
    if value.abs() <= 1.0 || !value.is_finite() { four(value) } else { scaled(value, 1024.0, &LARGE_OF_1024) }
}

fn scaled(value: f64, by: f64, prefixes: &[&str]) -> String {
    let (mut value, mut prefix) = (value, "");
    for larger in prefixes {
        if value.abs() < by {
            break;
        }
        (value, prefix) = (value / by, larger);
    }
    format!("{}{prefix}", four(value))
}

fn small(value: f64, unit: &str) -> String {
    let (mut value, mut prefix) = (value, "");
    for smaller in SMALL {
        if value.abs() >= 1.0 {
            break;
        }
        (value, prefix) = (value * 1000.0, smaller);
    }
    format!("{}{prefix}{unit}", four(value))
}

/// Writes seconds: `1d 2h 3m 4s`, `4.5s`, `12.3ms`.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return four(seconds);
    }
    if seconds == 0.0 {
        return format!("{}s", four(seconds));
    }
    if seconds.abs() < 1.0 {
        return small(seconds, "s");
    }
    let sign = if seconds < 0.0 { "-" } else { "" };
    let size = seconds.abs();
    let whole = size as i64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{sign}{}s", four(size)),
        (0, 0, _) => format!("{sign}{minutes}m {rest}s"),
        (0, ..) => format!("{sign}{hours}h {minutes}m {rest}s"),
        _ => format!("{sign}{days}d {hours}h {minutes}m {rest}s"),
    }
}

/// Writes a share in percent: `12.34%`.
pub(super) fn percentage(share: f64) -> String {
    format!("{}%", four(share * 100.0))
}

/// Writes seconds since 1970 as a time: `2015-02-08 10:16:15 +0000 UTC`.
pub(super) fn timestamp(seconds: f64) -> Result<String, String> {
    if !seconds.is_finite() {
        return Ok(four(seconds));
    }
    Ok(written_time(time(seconds)?))
}

/// Returns the time of seconds since 1970, in whole milliseconds.
pub(super) fn time(seconds: f64) -> Result<Timestamp, String> {
    let too_large =
        || format!("{} cannot be represented as a nanoseconds timestamp since it overflows int64", general(seconds, 6));
    let nanos = seconds * 1e9;
    if nanos.is_nan() || nanos.abs() > i64::MAX as f64 {
        return Err(too_large());
    }
    Timestamp::from_millisecond(nanos as i64 / 1_000_000).map_err(|_| too_large())
}
