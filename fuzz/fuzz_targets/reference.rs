//! A name means the same when it is read again, and has no path in it.
#![no_main]

use dhow::oci::{Digest, Platform, Reference};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: dhow_fuzz::sow("reference", false), |text: &str| {
    if let Ok(reference) = text.parse::<Reference>() {
        let whole = reference.to_string();
        assert_eq!(whole.parse::<Reference>().as_ref(), Ok(&reference));
        assert_eq!(reference.familiar().parse::<Reference>().as_ref(), Ok(&reference));
        let mut parts = reference.path().split('/').chain([reference.domain()]);
        assert!(parts.all(|part| !part.is_empty() && !part.contains("..")));
        assert!(whole.chars().all(|c| c.is_ascii_graphic()));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert!(digest.hex().bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(digest.as_str(), text);
    }
    if let Ok(platform) = text.parse::<Platform>() {
        let again = platform.to_string().parse::<Platform>();
        assert_eq!(again.expect("its own words").to_string(), platform.to_string());
    }
});
