//! Lengths of time as Go writes them, `1m2.5s`, and names of requests as the service makes them.
//!
//! Source: `Duration.String` of Go's `time`; request ids of public answers.

use crate::timestamp::Timestamp;
use std::time::{Duration, SystemTime};

/// China's time is ahead of UTC by eight hours.
const CHINA: Duration = Duration::from_secs(8 * 3600);

/// The length in the largest units that it has, without closing zeros.
pub(super) fn written(length: Duration) -> String {
    let nanoseconds = length.as_nanos();
    match nanoseconds {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => format!("{}µs", decimal(nanoseconds, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", decimal(nanoseconds, 1_000_000)),
        _ => {
            let (minutes, rest) = (length.as_secs() / 60, nanoseconds % 60_000_000_000);
            let seconds = format!("{}s", decimal(rest, 1_000_000_000));
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// A number of parts as a decimal number of wholes.
fn decimal(parts: u128, whole: u128) -> String {
    let digits = whole.ilog10() as usize;
    let fraction = format!("{:0digits$}", parts % whole);
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    format!("{}{point}{fraction}", parts / whole)
}

/// The time in China and twenty digits of the server's own name of the request, by which its log is found.
pub(super) fn request_id(now: SystemTime, server_id: &str) -> String {
    let basic = Timestamp::of(now).plus(CHINA).to_string();
    let time = basic.chars().filter(char::is_ascii_digit);
    let digits = server_id.chars().filter(char::is_ascii_hexdigit).chain(std::iter::repeat('0')).take(20);
    time.chain(digits.map(|digit| digit.to_ascii_uppercase())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    #[test]
    fn lengths_are_written_as_go_writes_them() {
        for (nanoseconds, expected) in [
            (0, "0s"),
            (7, "7ns"),
            (84_448, "84.448µs"),
            (1_000, "1µs"),
            (104_852_309, "104.852309ms"),
            (999_999_999, "999.999999ms"),
            (1_000_000_000, "1s"),
            (6_780_796_541, "6.780796541s"),
            (60_000_000_000, "1m0s"),
            (62_500_000_000, "1m2.5s"),
            (3_600_000_000_000, "1h0m0s"),
            (7_325_250_000_000, "2h2m5.25s"),
        ] {
            assert_eq!(written(Duration::from_nanos(nanoseconds)), expected);
        }
    }

    #[test]
    fn a_request_is_named_by_its_time_in_china() {
        let now = UNIX_EPOCH + Duration::from_secs(1_716_382_785);
        let id = request_id(now, "0b71689b-cb6b-527f-21c0-aaaaaaaaaaaa");
        assert_eq!(id, "202405222059450B71689BCB6B527F21C0");
        assert_eq!(request_id(now, "x").len(), 34);
    }
}
