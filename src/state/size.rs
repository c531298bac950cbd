//! Sizes and shares: `512m`, `1.5g`, `0.5` of a CPU.
//!
//! Computed in integers, so that `1.5g` is exactly 1610612736 and `0.1` CPU exactly 10^8.

use crate::error::{Error, Result};

/// Bytes, in docker's `--memory` grammar (go-units `RAMInBytes`): a decimal number, a space or
/// none, then `b`, `k`, `m`, `g`, `t` or `p` in either case, each also as `kb` or `kib`. Units
/// are powers of 1024; a fraction of a byte is dropped. 0 is docker's "no limit".
pub fn bytes(text: &str) -> Result<u64> {
    size(text, 1024)
}

/// Bytes as [`bytes`], with units that are powers of 1000 (go-units `FromHumanSize`): what
/// docker's json-file driver makes of `max-size`.
pub fn decimal_bytes(text: &str) -> Result<u64> {
    size(text, 1000)
}

fn size(text: &str, base: u64) -> Result<u64> {
    let bad_size = || {
        Error::invalid(format!("invalid size: '{text}'"))
            .hint("write a number and a unit, such as 512m or 1.5g")
    };
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ');
    let (number, suffix) = text.split_at(end.ok_or_else(bad_size)? + 1);
    let number = number.strip_suffix(' ').unwrap_or(number);

    let unit = unit(suffix, base).ok_or_else(|| {
        Error::invalid(format!("invalid suffix: '{suffix}'")).hint("units are b, k, m, g, t and p")
    })?;
    let (digits, scale) = decimal(number).ok_or_else(bad_size)?;
    let size = digits.checked_mul(unit.into()).ok_or_else(bad_size)? / 10u128.pow(scale);
    // Docker's sizes are signed 64-bit, and so are the kernel's.
    i64::try_from(size).map(i64::cast_unsigned).map_err(|_| bad_size())
}

/// `--memory-swap`: bytes of memory and swap together, or -1 for unlimited swap.
pub fn memory_swap(text: &str) -> Result<i64> {
    if text == "-1" {
        return Ok(-1);
    }
    bytes(text).map(u64::cast_signed)
}

/// `--cpus`: a decimal number of CPUs, as billionths (docker's `NanoCpus`). 0 is "no limit".
pub fn cpus(text: &str) -> Result<u64> {
    let bad = |said: String| Error::invalid(said).hint("write a decimal number, such as 1.5");
    let (digits, scale) =
        decimal(text).ok_or_else(|| bad(format!("failed to parse {text} as a rational number")))?;
    let scaled = digits.checked_mul(1_000_000_000).ok_or_else(|| bad(too_many(text)))?;
    let unit = 10u128.pow(scale);
    if !scaled.is_multiple_of(unit) {
        return Err(bad("value is too precise".into()));
    }
    i64::try_from(scaled / unit).map(i64::cast_unsigned).map_err(|_| bad(too_many(text)))
}

fn too_many(text: &str) -> String {
    format!("{text} is more CPUs than can be counted")
}

fn unit(suffix: &str, base: u64) -> Option<u64> {
    let suffix = suffix.to_ascii_lowercase();
    let mut letters = suffix.chars();
    let power = match letters.next() {
        None => return Some(1),
        Some('b') => return letters.next().is_none().then_some(1),
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some('p') => 5,
        Some(_) => return None,
    };
    matches!(letters.as_str(), "" | "b" | "ib").then(|| base.pow(power))
}

/// `digits / 10^scale`, from `12`, `1.5`, `.5` or `5.`; at most 19 digits, so that a product
/// with a unit fits.
fn decimal(text: &str) -> Option<(u128, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 19 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, u32::try_from(fraction.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_dockers() {
        for (text, size) in [
            ("512m", 512 << 20),
            ("1.5g", 1_610_612_736),
            ("64MiB", 64 << 20),
            ("64MB", 64 << 20),
            ("10", 10),
            ("10b", 10),
            ("1 k", 1024),
            ("1.5", 1),
            (".5K", 512),
            ("0", 0),
            ("2T", 2 << 40),
        ] {
            assert_eq!(bytes(text).ok(), Some(size), "{text}");
        }
        for (text, said) in [
            ("", "invalid size: ''"),
            ("x", "invalid size: 'x'"),
            ("-1", "invalid size: '-1'"),
            ("10q", "invalid suffix: 'q'"),
            ("1mx", "invalid suffix: 'mx'"),
            ("1bb", "invalid suffix: 'bb'"),
            ("1.2.3m", "invalid size: '1.2.3m'"),
            ("9999999p", "invalid size: '9999999p'"),
            ("é", "invalid size: 'é'"),
        ] {
            assert_eq!(bytes(text).expect_err(text).to_string(), said);
        }
    }

    #[test]
    fn log_sizes_are_decimal() {
        assert_eq!(decimal_bytes("10m").ok(), Some(10_000_000));
        assert_eq!(decimal_bytes("1.5kB").ok(), Some(1_500));
    }

    #[test]
    fn swap_may_be_unlimited_and_cpus_are_exact() {
        assert_eq!(memory_swap("-1").ok(), Some(-1));
        assert_eq!(memory_swap("1g").ok(), Some(1 << 30));
        assert!(memory_swap("-2").is_err());
        assert_eq!(cpus("1.5").ok(), Some(1_500_000_000));
        assert_eq!(cpus(".000000001").ok(), Some(1));
        assert_eq!(cpus("0.10").ok(), Some(100_000_000));
        assert_eq!(cpus("0.0000000001").expect_err("0.1 n").to_string(), "value is too precise");
        for bad in ["", "x", "-1", "1e3", ".", "9999999999999999999", "1/2"] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }
}
