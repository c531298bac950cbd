//! Manifests, indexes and configurations are one thing, or refused.
#![no_main]

use dhow::{
    image::{config, pull},
    oci::{
        Digest, Platform,
        image::{ImageIndex, ImageManifest},
        media_type,
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: dhow_fuzz::sow("document", false), |data: &[u8]| {
    let digest = Digest::of(data);
    let headers =
        ["", "text/plain", media_type::OCI_INDEX, media_type::OCI_MANIFEST, media_type::OCI_CONFIG];
    for header in headers {
        let Ok((shape, name)) = pull::shape(&digest, data, header) else { continue };
        assert_eq!(media_type::document(&name).expect("its own name"), shape, "{name:?}");
    }
    let manifest = serde_json::from_slice::<ImageManifest>(data);
    let config = config::parse(data);
    if let (Ok(manifest), Ok(config)) = (&manifest, &config) {
        drop(pull::layer_refs(manifest, config));
    }
    if let Ok(index) = serde_json::from_slice::<ImageIndex>(data) {
        for entry in index.manifests() {
            drop(entry.digest().to_string().parse::<Digest>());
            drop(entry.platform().as_ref().map(|platform| Platform::from(platform).to_string()));
        }
    }
});
