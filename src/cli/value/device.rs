//! Limits on single block devices: `/dev/sda:1mb`, in docker's grammar and words.

use super::size;
use crate::{
    error::{Error, Result},
    state::record::DeviceLimit,
};

/// `--blkio-weight-device PATH:WEIGHT`.
pub fn weight(text: &str) -> Result<DeviceLimit> {
    let (path, weight) = split(text)?;
    let weight = weight.parse().ok().filter(|weight| (10..=1000).contains(weight));
    let bad = || Error::invalid(format!("invalid weight for device: {text}"));
    Ok(limit(path, weight.ok_or_else(bad)?))
}

/// `--device-read-bps PATH:RATE`, bytes a second, with a unit or none.
pub fn bps(text: &str) -> Result<DeviceLimit> {
    let (path, rate) = split(text)?;
    let bad = |_| {
        Error::invalid(format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. \
             Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        ))
    };
    Ok(limit(path, size::bytes(rate).map_err(bad)?))
}

/// `--device-read-iops PATH:RATE`, operations a second.
pub fn iops(text: &str) -> Result<DeviceLimit> {
    let (path, rate) = split(text)?;
    let bad = |_| {
        Error::invalid(format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. \
             Number must be a positive integer"
        ))
    };
    Ok(limit(path, rate.parse().map_err(bad)?))
}

fn split(text: &str) -> Result<(&str, &str)> {
    let parts = text.split_once(':').filter(|(path, value)| !path.is_empty() && !value.is_empty());
    let (path, value) = parts.ok_or_else(|| Error::invalid(format!("bad format: {text}")))?;
    if !path.starts_with("/dev/") {
        return Err(Error::invalid(format!("bad format for device path: {text}")));
    }
    Ok((path, value))
}

fn limit(path: &str, value: u64) -> DeviceLimit {
    DeviceLimit { path: path.into(), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_dockers() {
        let value = |limit: Result<DeviceLimit>| limit.ok().map(|limit| limit.value);
        assert_eq!(value(weight("/dev/a:300")), Some(300));
        assert_eq!(value(bps("/dev/a:1mb")), Some(1 << 20));
        assert_eq!(value(iops("/dev/a:100")), Some(100));
        for (text, said) in [
            ("/dev/a", "bad format: /dev/a"),
            ("/dev/a:", "bad format: /dev/a:"),
            ("/tmp/a:1", "bad format for device path: /tmp/a:1"),
            ("/dev/a:5", "invalid weight for device: /dev/a:5"),
            ("/dev/a:x", "invalid weight for device: /dev/a:x"),
        ] {
            assert_eq!(weight(text).expect_err(text).to_string(), said);
        }
        assert!(bps("/dev/a:-1").is_err() && iops("/dev/a:1mb").is_err());
    }
}
