//! An archive of images is loaded whole, or nothing of it is left.
#![no_main]

use dhow::{
    image::{
        Silent, Store,
        archive::{Source, load},
        layer::{Apply, Ownership},
        unpack::InProcess,
    },
    state::layout::Layout,
};
use dhow_fuzz::{Witnessed, mend};
use libfuzzer_sys::fuzz_target;

const UNPACK: InProcess = InProcess(Apply { ownership: Ownership::Absorb, user_xattr: true });

fuzz_target!(init: dhow_fuzz::sow("archive", true), |data: &[u8]| {
    let mut tar = data.to_vec();
    // Packed ones as they are.
    let is_skippable = matches!(tar.get(1..4), Some([0x2a, 0x4d, 0x18]));
    if !is_skippable && !tar.starts_with(&[0x1f, 0x8b]) && !tar.starts_with(&[0x28, 0xb5]) {
        mend(&mut tar);
    }
    let dir = Witnessed::new();
    let layout = Layout::new(dir.place().join("root"), dir.place().join("run"));
    let store = Store::open(layout).expect("a store");
    let source = Source { bytes: &mut &tar[..], path: None };
    let loaded = load(source, &store, None, &UNPACK, &Silent);
    let images = store.list().expect("list");
    for image in &images {
        let record = &image.record;
        assert!(record.blobs().all(|blob| store.has_blob(blob)), "{record:?}");
        assert!(record.chain_ids().all(|layer| store.has_layer(layer)), "{record:?}");
        store.config(record).expect("a configuration that reads");
    }
    assert!(loaded.is_err() || !images.is_empty(), "loaded, and no image");
    let staging = std::fs::read_dir(store.layout().staging()).expect("list").count();
    assert_eq!(staging, 0, "left in staging: {loaded:?}");
    drop(store);
    dir.check();
});
