//! A layer's tar stays in its directory, whatever it holds.
#![no_main]

use std::{fs::File, os::fd::AsFd as _};

use dhow::image::layer::{Apply, Ownership, apply, settle};
use dhow::sys::fs::Root;
use dhow_fuzz::{Witnessed, mend};
use libfuzzer_sys::fuzz_target;

fuzz_target!(init: dhow_fuzz::sow("layer", true), |data: &[u8]| {
    let mut tar = data.to_vec();
    mend(&mut tar);
    let dir = Witnessed::new();
    let how = Apply { ownership: Ownership::Absorb, user_xattr: true };
    let target = File::open(dir.place()).expect("open");
    if let Ok(applied) = apply(&mut &tar[..], target.as_fd(), &how) {
        let root = Root::from_fd(target.into());
        drop(settle(&root, &applied.implied, &[], &how));
    }
    dir.check();
});
