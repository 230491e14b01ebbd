//! Points in time as signatures write them.
//!
//! Units: whole seconds since 1970-01-01 UTC, without leap seconds; years 1970 to 9999.
//! Errors: `None` for what is no time. Nothing here reads a clock.
//! Source: the calendar arithmetic is Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A point in time, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(u64);

/// The last second of the year 9999, the last that the basic format can write.
const LATEST: u64 = 253_402_300_799;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

impl Timestamp {
    /// This time, cut to the second and to the years that can be written.
    pub(crate) fn of(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).min(LATEST))
    }

    /// Reads ISO 8601's basic format, `20261121T205028Z`.
    pub(crate) fn from_basic(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
            return None;
        }
        let number = |from, to| digits(text.get(from..to)?);
        Self::from_parts(
            [number(0, 4)?, number(4, 6)?, number(6, 8)?],
            [number(9, 11)?, number(11, 13)?, number(13, 15)?],
        )
    }

    /// Reads HTTP's format, `Sat, 21 Nov 2026 20:50:28 GMT`.
    pub(crate) fn from_http(text: &str) -> Option<Self> {
        let (_weekday, rest) = text.split_once(", ")?;
        let mut words = rest.split(' ');
        let (day, month, year) = (words.next()?, words.next()?, words.next()?);
        let mut clock = words.next()?.split(':');
        let time = [digits(clock.next()?)?, digits(clock.next()?)?, digits(clock.next()?)?];
        let month = 1 + MONTHS.iter().position(|name| *name == month)? as u64;
        let whole = words.next() == Some("GMT") && words.next().is_none() && clock.next().is_none();
        whole.then(|| Self::from_parts([digits(year)?, month, digits(day)?], time))?
    }

    /// The time so much later.
    pub(crate) fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span.as_secs()).min(LATEST))
    }

    /// The time so much earlier.
    pub(crate) fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span.as_secs()))
    }

    /// The day, as `20261121`.
    pub(crate) fn day(self) -> String {
        let (year, month, day) = self.date();
        format!("{year:04}{month:02}{day:02}")
    }

    fn from_parts([year, month, day]: [u64; 3], [hour, minute, second]: [u64; 3]) -> Option<Self> {
        let sensible = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=31).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !sensible {
            return None;
        }
        // Years begin in March, so that the leap day is the last one.
        let from_march = (month + 9) % 12;
        let year_from_march = if month <= 2 { year - 1 } else { year };
        let day_of_year = (153 * from_march + 2) / 5 + day - 1;
        let leap_days = year_from_march / 4 - year_from_march / 100 + year_from_march / 400;
        // 719,468 days lie between the first of March of the year 0 and the first of January 1970.
        let days = year_from_march * 365 + leap_days + day_of_year - 719_468;
        let time = Self(((days * 24 + hour) * 60 + minute) * 60 + second);
        // The 31st of a shorter month would come back as a day of the next one.
        (time.date() == (year, month, day)).then_some(time)
    }

    /// Year, month and day.
    fn date(self) -> (u64, u64, u64) {
        // The inverse of `from_parts`: 146,097 days are 400 years.
        let days = self.0 / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = (from_march + 2) % 12 + 1;
        (era * 400 + year_of_era + u64::from(month <= 2), month, day)
    }
}

impl fmt::Display for Timestamp {
    /// ISO 8601's basic format.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(seconds) = *self;
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        write!(out, "{}T{hour:02}{minute:02}{second:02}Z", self.day())
    }
}

/// A number of decimal digits only: no sign, no space.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_seconds_are_written_and_read_back() {
        let table = [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (1_795_294_228, "20261121T205028Z"),
            (LATEST, "99991231T235959Z"),
        ];
        for (seconds, text) in table {
            assert_eq!(Timestamp(seconds).to_string(), text);
            assert_eq!(Timestamp::from_basic(text), Some(Timestamp(seconds)));
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in 0..146_097 {
            let time = Timestamp(day * 86_400 + 12_345);
            assert_eq!(Timestamp::from_basic(&time.to_string()), Some(time));
        }
    }

    #[test]
    fn http_dates_are_read() {
        let read = Timestamp::from_http("Sat, 21 Nov 2026 20:50:28 GMT").map(|time| time.to_string());
        assert_eq!(read.as_deref(), Some("20261121T205028Z"));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for wrong in [
            "",
            "20261121T205028",
            "20261121 205028Z",
            "20260231T000000Z",
            "20261301T000000Z",
            "20261121T245028Z",
            "19691231T235959Z",
            "+0261121T205028Z",
            "2026112éT20502Z",
        ] {
            assert_eq!(Timestamp::from_basic(wrong), None, "{wrong}");
        }
        for wrong in
            ["Sat, 21 Nov 2026 20:50:28", "21 Nov 2026 20:50:28 GMT", "Sat, 21 Foo 2026 20:50:28 GMT", ""]
        {
            assert_eq!(Timestamp::from_http(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn times_out_of_range_are_cut() {
        assert_eq!(Timestamp::of(UNIX_EPOCH - Duration::from_secs(9)), Timestamp(0));
        assert_eq!(Timestamp(5).minus(Duration::from_secs(9)), Timestamp(0));
        assert_eq!(Timestamp(LATEST).plus(Duration::from_secs(9)), Timestamp(LATEST));
    }
}
