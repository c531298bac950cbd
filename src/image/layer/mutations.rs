//! Layers of every known kind of malice, changed a thousand times over: whatever is applied stays
//! in its directory, and nothing panics or hangs.

use super::tests::{Tar, try_apply};
use crate::image::mutate::{Chance, mend_checksums, mutate};

const ROUNDS: u64 = 40;

/// One tar of each kind in the list of attacks.
fn seeds() -> Vec<Vec<u8>> {
    let tar = Tar::default;
    let deep = "d/".repeat(40) + "f";
    [
        tar().dir("a/", 0o755).file("a/b", "content").link("a/c", "a/b").symlink("a/l", "b"),
        tar().file("../witness", "x").file("/witness", "x").file("a/../../witness", "x"),
        tar()
            .symlink("out", "../witness")
            .file("out", "x")
            .symlink("up", "..")
            .file("up/witness", "x"),
        tar().symlink("d", "/").dir("d/", 0o777).file("d/witness", "x").dir("d/tmp", 0o777),
        tar().link("h", "../witness").symlink("s", "../witness").link("h2", "s").file("h2", "x"),
        tar().file(".wh.a", "").file("d/.wh..wh..opq", "").file(".wh...", "").file("d/.wh...", ""),
        tar().symlink("d", "..").file("d/.wh.witness", "").file("d/.wh..wh..opq", ""),
        tar().device(b'3', "null", 1, 3).device(b'3', "wh", 0, 0).device(b'4', "b", 8, 0),
        tar().device(b'6', "fifo", 0, 0).file("fifo", "x").link("g", "fifo"),
        tar().pax(&[("SCHILY.xattr.user.overlay.opaque", b"y")]).dir("d", 0o755),
        tar().pax(&[("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\0\0\0")]).file("p", "x"),
        tar().file("f", "1").dir("f", 0o700).file("f/g", "2").symlink("f", "x").file("f", "3"),
        tar().pax(&[("path", b"../witness"), ("size", b"3")]).file("x", "abc"),
        tar().pax(&[("linkpath", b"../../witness")]).symlink("x", "y").file("x", "abc"),
        tar().pax(&[("path", b"a\0b"), ("mtime", b"-1e99")]).file("x", "abc"),
        tar().pax(&[("GNU.sparse.map", b"0,1,9,1"), ("GNU.sparse.size", b"99")]).file("s", "ab"),
        tar().long_name(deep.as_bytes()).file("x", "deep").long_name(&[0xff; 200]).file("y", "z"),
        tar().file(".wh..wh.plnk", "").file(".wh..wh.aufs", "").dir(".wh..wh.orph", 0o700),
    ]
    .into_iter()
    .map(Tar::end)
    .collect()
}

#[test]
fn no_change_of_a_layer_gets_out_of_its_directory() {
    let mut accepted = 0;
    for (kind, seed) in (0..).zip(seeds()) {
        for round in 0..ROUNDS {
            let mut tar = mutate(&seed, &mut Chance::new(kind << 32 | round));
            if round % 4 != 0 {
                mend_checksums(&mut tar);
            }
            // It looks for the witness beside the layer itself.
            let (applied, _dir) = try_apply(tar);
            accepted += u64::from(applied.is_ok());
        }
    }
    // A check that refuses everything would find nothing either.
    assert!(accepted > ROUNDS, "only {accepted} were applied");
}

#[test]
fn ten_thousand_entries_are_a_layer() {
    let one = Tar::default().file("f", "").end();
    let header = &one[..512];
    let mut tar = Vec::with_capacity(10_002 * 512);
    for number in 0..10_000_u32 {
        let mut block = header.to_vec();
        block[..8].copy_from_slice(format!("{:02}/{:05}", number % 100, number).as_bytes());
        tar.extend_from_slice(&block);
    }
    tar.extend_from_slice(&[0; 1024]);
    mend_checksums(&mut tar);
    let (applied, _dir) = try_apply(tar);
    assert_eq!(applied.expect("apply").entries, 10_000);
}
