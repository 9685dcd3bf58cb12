//! Dates of HTTP (RFC 9110). This crate replaces the public crate `httpdate`, which panics if the clock is before 1970.
//! hyper asks for the date on every connection, even if no response has a `Date` header, so every connection would
//! fail. For a time that HTTP has no date for, this crate writes the nearest date.

use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

/// A date, in whole seconds: 1970 at the earliest, 9999 at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpDate(Timestamp);

/// The text is no date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Error(());

/// Returns a time as HTTP writes it, like `Sun, 06 Nov 1994 08:49:37 GMT`.
pub fn fmt_http_date(time: SystemTime) -> String {
    HttpDate::from(time).to_string()
}

/// Reads a date.
pub fn parse_http_date(text: &str) -> Result<SystemTime, Error> {
    text.parse::<HttpDate>().map(SystemTime::from)
}

impl From<SystemTime> for HttpDate {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX).min(Timestamp::MAX.as_second());
        Self(Timestamp::from_second(seconds).unwrap_or_default())
    }
}

impl From<HttpDate> for SystemTime {
    fn from(date: HttpDate) -> Self {
        date.0.into()
    }
}

impl fmt::Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&self.0).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl FromStr for HttpDate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let read = DateTimeParser::new().parse_timestamp(text.trim()).map_err(|_| Error(()))?;
        if read < Timestamp::UNIX_EPOCH { Err(Error(())) } else { Ok(Self(read)) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no date of HTTP")
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_is_written_as_http_does_and_read_back() {
        let time = UNIX_EPOCH + Duration::from_secs(784_111_777);
        let text = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert_eq!((fmt_http_date(time).as_str(), parse_http_date(text)), (text, Ok(time)));
        assert!(parse_http_date("soon").is_err());
    }

    #[test]
    fn a_time_without_a_date_is_the_nearest_that_has_one_and_as_long() {
        let before = fmt_http_date(UNIX_EPOCH - Duration::from_secs(1 << 31));
        let after = fmt_http_date(UNIX_EPOCH + Duration::from_secs(1 << 50));
        assert_eq!(before, "Thu, 01 Jan 1970 00:00:00 GMT");
        assert!(after.contains("Dec 9999") && after.len() == before.len(), "hyper has room for so many bytes: {after}");
    }
}
