//! Durations and moments: `1h30m`, `--since 2026-01-02T03:04:05Z`.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Zoned, civil};

use crate::error::{Error, Result};

/// A length of time: Go's grammar (`1h30m`, `1.5s`, `100ms`) or plain seconds (`10`).
pub fn duration(text: &str) -> Result<Duration> {
    let seconds = seconds(text);
    let length = seconds.or_else(|| go_duration(text)).ok_or_else(|| {
        Error::invalid(format!("invalid duration \"{text}\""))
            .hint("write seconds, or numbers with units as in 1h30m, 1.5s or 100ms")
    })?;
    Duration::try_from(length)
        .map_err(|_| Error::invalid(format!("invalid duration \"{text}\": it is negative")))
}

/// A moment for `--since` and `--until`, by docker's rules: Unix seconds with a fraction or
/// none, a Go duration before `now`, RFC 3339, or a date with or without a time in `now`'s zone.
pub fn moment(text: &str, now: &Zoned) -> Result<Timestamp> {
    let found = if let Some(since_epoch) = seconds(text) {
        Timestamp::UNIX_EPOCH.checked_add(since_epoch).ok()
    } else if let Some(ago) = go_duration(text) {
        now.timestamp().checked_sub(ago).ok()
    } else if let Ok(exact) = text.parse::<Timestamp>() {
        Some(exact)
    } else {
        let local = text.parse::<civil::DateTime>().ok();
        local
            .and_then(|local| local.to_zoned(now.time_zone().clone()).ok())
            .map(|zoned| zoned.timestamp())
    };
    found.ok_or_else(|| {
        Error::invalid(format!("failed to parse value as time or duration: \"{text}\"")).hint(
            "write a duration (10m), a date (2026-01-31), RFC 3339 (2026-01-31T12:00:00Z) or Unix seconds",
        )
    })
}

/// `1700000000` or `1700000000.25`: a number with no unit.
fn seconds(text: &str) -> Option<SignedDuration> {
    let starts = text.bytes().next().is_some_and(|b| b.is_ascii_digit());
    let (nanos, rest) = number(text)?;
    if !starts || !rest.is_empty() {
        return None;
    }
    SignedDuration::try_from_nanos_i128(nanos.checked_mul(1_000_000_000)? / SCALE)
}

/// Go's `time.ParseDuration`: a sign or none, then decimal numbers each with a unit.
fn go_duration(text: &str) -> Option<SignedDuration> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let mut rest = unsigned;
    let mut total: i128 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (scaled, after) = number(rest)?;
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let nanos: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3_600 * 1_000_000_000,
            _ => return None,
        };
        total = total.checked_add(scaled.checked_mul(nanos)? / SCALE)?;
        rest = after;
    }
    let total = if text.starts_with('-') { -total } else { total };
    SignedDuration::try_from_nanos_i128(total)
}

/// Numbers are read in billionths; finer digits are below a nanosecond of a second.
const SCALE: i128 = 1_000_000_000;

/// The decimal number at the head of `text`, times [`SCALE`], and what follows it.
fn number(text: &str) -> Option<(i128, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, rest) = text.split_at(digits(text));
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after) => after.split_at(digits(after)),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() || whole.len() > 18 {
        return None;
    }
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i128 = format!("{:0<9.9}", fraction).parse().ok()?;
    Some((whole * SCALE + fraction, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos_or_seconds() {
        let ms = |n| Some(Duration::from_millis(n));
        for (text, length) in [
            ("10", ms(10_000)),
            ("0", ms(0)),
            ("1.5", ms(1_500)),
            ("1h30m", ms(5_400_000)),
            ("1.5h", ms(5_400_000)),
            ("100ms", ms(100)),
            (".5s", ms(500)),
            ("1m0.25s", ms(60_250)),
            ("+1s", ms(1_000)),
            ("1500us", Some(Duration::from_micros(1_500))),
            ("2µs", Some(Duration::from_micros(2))),
        ] {
            assert_eq!(duration(text).ok(), length, "{text}");
        }
        for bad in ["", "x", "1h30", "-1s", "1d", "s", ".s", "+", "1e3", "99999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_are_dockers() {
        let now: Zoned = "2026-01-02T12:00:00+02:00[+02:00]".parse().expect("a zoned time");
        for (text, expected) in [
            ("1h", "2026-01-02T09:00:00Z"),
            ("-30m", "2026-01-02T10:30:00Z"),
            ("2026-01-01", "2025-12-31T22:00:00Z"),
            ("2026-01-01T03:04:05", "2026-01-01T01:04:05Z"),
            ("2026-01-01T03:04", "2026-01-01T01:04:00Z"),
            ("2026-01-01T03:04:05Z", "2026-01-01T03:04:05Z"),
            ("2026-01-01T03:04:05.5+01:00", "2026-01-01T02:04:05.5Z"),
            ("1700000000.25", "2023-11-14T22:13:20.25Z"),
            ("20240102", "1970-08-23T06:15:02Z"),
            ("0", "1970-01-01T00:00:00Z"),
        ] {
            let expected: Timestamp = expected.parse().expect("RFC 3339");
            assert_eq!(moment(text, &now).ok(), Some(expected), "{text}");
        }
        for bad in ["", "yesterday", "2026-13-01", "2026-01-01T25:00:00Z", "999999999999999999"] {
            assert!(moment(bad, &now).is_err(), "{bad}");
        }
    }
}
