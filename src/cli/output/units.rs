//! Sizes and times as docker says them (go-units; docker's container formatter).

use std::time::Duration;

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// `1.234MB`: units of 1000, four significant digits.
pub fn human_size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 4)
}

/// `1.23MB`: units of 1000, three digits, as `images` and `ps --size` show them.
pub fn short_size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &DECIMAL, 3)
}

/// `64MiB`: units of 1024, four significant digits.
pub fn bytes_size(bytes: u64) -> String {
    scaled(bytes, 1024.0, &BINARY, 4)
}

fn scaled(bytes: u64, base: f64, units: &[&str], digits: usize) -> String {
    let mut value = bytes as f64;
    let mut units = units.iter().peekable();
    let mut unit = units.next();
    while value >= base && units.peek().is_some() {
        value /= base;
        unit = units.next();
    }
    let before_point = format!("{value:.0}").len();
    let text = format!("{value:.*}", digits.saturating_sub(before_point));
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", unit.unwrap_or(&""))
}

/// `3 minutes`, `About an hour`, `2 weeks`.
pub fn human_duration(length: Duration) -> String {
    let seconds = length.as_secs();
    let minutes = seconds / 60;
    let hours = (seconds + 30 * 60) / 3600; // to the nearest
    match () {
        () if seconds < 1 => "Less than a second".into(),
        () if seconds == 1 => "1 second".into(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".into(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".into(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// `3 minutes ago`, the CREATED column.
pub fn ago(length: Duration) -> String {
    format!("{} ago", human_duration(length))
}

/// `Up 3 minutes`, the STATUS column of what runs.
pub fn up(length: Duration) -> String {
    format!("Up {}", human_duration(length))
}

/// `Exited (0) 2 hours ago`, the STATUS column of what has ended.
pub fn exited(code: i32, length: Duration) -> String {
    format!("Exited ({code}) {}", ago(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_significant_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (1024, "1.024kB"),
            (12_340, "12.34kB"),
            (999_960, "1000kB"),
            (1_234_567, "1.235MB"),
            (100_000_000, "100MB"),
            (u64::MAX, "18.45EB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
        assert_eq!(short_size(7_834_000), "7.83MB");
        assert_eq!(short_size(117_400_000), "117MB");
        assert_eq!(bytes_size(64 << 20), "64MiB");
        assert_eq!(bytes_size(1_610_612_736), "1.5GiB");
        assert_eq!(bytes_size(1023), "1023B");
    }

    #[test]
    fn durations_are_dockers() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (47 * 3600, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (2 * 365 * 86400, "2 years"),
        ] {
            assert_eq!(human_duration(Duration::from_secs(seconds)), text);
        }
        assert_eq!(up(Duration::from_secs(180)), "Up 3 minutes");
        assert_eq!(exited(137, Duration::from_secs(7200)), "Exited (137) 2 hours ago");
    }
}
