//! Layers, most of them hostile, built block by block.

use std::{
    fs::{self, Metadata},
    io::Read,
    os::{
        fd::AsFd as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        },
    },
    path::{Path, PathBuf},
};

use super::{Applied, Apply, Ownership, apply, settle};
use crate::{error::Result, sys::fs::Root};

const HOW: Apply = Apply { ownership: Ownership::Keep, user_xattr: true };

/// A tar in the making. Nothing is checked here, so that anything can be said.
#[derive(Default, Clone)]
pub(super) struct Tar(Vec<u8>);

impl Tar {
    fn raw(mut self, header: &tar::Header, data: &[u8]) -> Self {
        let mut header = header.clone();
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(super) fn file(self, name: &str, data: &str) -> Self {
        self.raw(&header(b'0', name, "", data.len()), data.as_bytes())
    }

    pub(super) fn dir(self, name: &str, mode: u32) -> Self {
        let mut header = header(b'5', name, "", 0);
        header.set_mode(mode);
        self.raw(&header, b"")
    }

    pub(super) fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(&header(b'2', name, target, 0), b"")
    }

    pub(super) fn link(self, name: &str, target: &str) -> Self {
        self.raw(&header(b'1', name, target, 0), b"")
    }

    pub(super) fn device(self, kind: u8, name: &str, major: u32, minor: u32) -> Self {
        let mut header = header(kind, name, "", 0);
        header.set_device_major(major).expect("ustar");
        header.set_device_minor(minor).expect("ustar");
        self.raw(&header, b"")
    }

    pub(super) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} {key}=").as_bytes());
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(&header(b'x', "pax", "", data.len()), &data)
    }

    pub(super) fn long_name(self, name: &[u8]) -> Self {
        self.raw(&header(b'L', "././@LongLink", "", name.len()), name)
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn header(kind: u8, name: &str, link: &str, size: usize) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    let old = header.as_old_mut();
    old.name[..name.len()].copy_from_slice(name.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    old.linkflag[0] = kind;
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_000_000_000);
    header
}

/// An applied layer, in a directory with a witness beside it.
struct Layer {
    dir: tempfile::TempDir,
    applied: Applied,
}

impl Layer {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("layer").join(name)
    }

    fn stat(&self, name: &str) -> Metadata {
        fs::symlink_metadata(self.path(name)).expect(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect(name)
    }

    fn is_whiteout(&self, name: &str) -> bool {
        let stat = self.stat(name);
        stat.file_type().is_char_device() && stat.rdev() == 0
    }

    fn is_opaque(&self, name: &str) -> bool {
        let dir = fs::File::open(self.path(name)).expect(name);
        crate::sys::fs::short_xattr(&dir, b"user.overlay.opaque").expect("xattr")
            == Some(b"y".to_vec())
    }

    fn names(&self) -> Vec<String> {
        let list = fs::read_dir(self.path("")).expect("list");
        let mut names: Vec<String> = list
            .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn implied(&self) -> Vec<&str> {
        self.applied.implied.iter().map(|path| path.to_str().expect("text")).collect()
    }
}

pub(super) fn try_apply(tar: impl AsRef<[u8]>) -> (Result<Applied>, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::create_dir(dir.path().join("layer")).expect("mkdir");
    fs::write(dir.path().join("witness"), "untouched").expect("write");
    let target = fs::File::open(dir.path().join("layer")).expect("open");
    let applied = apply(&mut tar.as_ref(), target.as_fd(), &HOW);
    assert_eq!(fs::read_to_string(dir.path().join("witness")).expect("read"), "untouched");
    assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 2, "something was made outside");
    (applied, dir)
}

fn applied(tar: Tar) -> Layer {
    let (applied, dir) = try_apply(tar.end());
    Layer { dir, applied: applied.expect("apply") }
}

fn refused(tar: Tar) -> String {
    try_apply(tar.end()).0.expect_err("it must be refused").to_string()
}

/// Making devices, owners and caps take root; as anyone else these tests cannot mean anything.
fn root() -> bool {
    let root = crate::sys::fs::creator().0 == 0;
    assert!(root || std::env::var_os("DHOW_MUST_RUN").is_none(), "this test needs root");
    root
}

#[test]
fn files_directories_and_links_are_made_as_told() {
    let mut suid = header(b'0', "bin/su", "", 2);
    suid.set_mode(0o4755);
    suid.set_uid(if root() { 33 } else { 0 });
    let layer = applied(
        Tar::default()
            .dir("./", 0o755)
            .dir("bin/", 0o750)
            .raw(&suid, b"su")
            .symlink("bin/sh", "/bin/su")
            .link("bin/sudo", "bin/su")
            .dir("tmp", 0o1777)
            .raw(&header(b'6', "tmp/fifo", "", 0), b""),
    );
    assert_eq!(layer.stat("bin").mode() & 0o7777, 0o750);
    assert_eq!(layer.stat("bin").mtime(), 1_000_000_000, "set after its content");
    assert_eq!(layer.stat("bin/su").mode() & 0o7777, 0o4755, "chown before chmod");
    assert_eq!(layer.stat("bin/su").mtime(), 1_000_000_000);
    assert_eq!(layer.stat("bin/su").ino(), layer.stat("bin/sudo").ino());
    assert_eq!(fs::read_link(layer.path("bin/sh")).expect("link"), Path::new("/bin/su"));
    assert_eq!(layer.stat("bin/sh").mtime(), 1_000_000_000);
    assert_eq!(layer.stat("tmp").mode() & 0o7777, 0o1777);
    assert!(layer.stat("tmp/fifo").file_type().is_fifo());
    assert_eq!((layer.applied.size, layer.applied.entries), (2, 7));
    assert!(layer.applied.implied.is_empty());
    if root() {
        assert_eq!(layer.stat("bin/su").uid(), 33);
    }
}

#[test]
fn absolute_names_are_inside_and_dots_are_refused() {
    let layer = applied(Tar::default().file("/etc//./passwd", "x"));
    assert_eq!(layer.read("etc/passwd"), "x");
    for name in ["../witness", "a/../../witness", "/../witness", "..", "a/.."] {
        let err = refused(Tar::default().file(name, "gone"));
        assert!(err.contains("\"..\""), "{err}");
    }
    let err = refused(Tar::default().link("a", "../witness"));
    assert!(err.contains("\"..\""), "{err}");
}

#[test]
fn links_are_followed_inside_only() {
    let through = |target: &str| {
        Tar::default().dir("real", 0o755).symlink("link", target).file("link/witness", "new")
    };
    for target in ["real", "/real", "../../../real", "/../real"] {
        let layer = applied(through(target));
        assert_eq!(layer.read("real/witness"), "new", "{target}");
    }
    for target in ["..", "../..", "/"] {
        let layer = applied(through(target));
        assert_eq!(layer.read("witness"), "new", "{target}");
    }
    for target in ["/proc/self/root", "/tmp", "real/nothing"] {
        let err = refused(through(target));
        assert!(err.contains("leads to no directory"), "{target}: {err}");
    }
    // Of a link, nothing but the link is changed.
    let layer = applied(Tar::default().symlink("a", "b").file("b", "x").dir("b2", 0o755));
    assert_eq!(layer.stat("b").mode() & 0o777, 0o644);
    assert!(refused(Tar::default().symlink("a", "a").file("a/b", "x")).contains("symbolic links"));
}

#[test]
fn the_last_step_is_never_followed() {
    let layer =
        applied(Tar::default().file("victim", "old").symlink("link", "victim").file("link", "new"));
    assert_eq!((layer.read("victim"), layer.read("link")), ("old".into(), "new".into()));
    let layer = applied(Tar::default().dir("d", 0o700).symlink("l", "d").dir("l", 0o777));
    assert_eq!(layer.stat("d").mode() & 0o777, 0o700, "CVE-2021-32760");
    assert!(layer.stat("l").is_dir());
}

#[test]
fn hard_links_stay_in_the_layer() {
    for target in ["/etc/passwd", "nothing", "witness", "", "."] {
        let err = refused(Tar::default().link("a", target));
        assert!(err.contains("which this layer lacks"), "{target}: {err}");
    }
    let err = refused(Tar::default().symlink("up", "/..").link("a", "up/witness"));
    assert!(err.contains("which this layer lacks"), "{err}");
    assert!(refused(Tar::default().dir("d", 0o755).link("a", "d")).contains("directory"));
    assert!(refused(Tar::default().file(".wh.x", "").link("a", "x")).contains("lacks"));
    // CVE-2014-6408: a link to a link is the link; writing "through" it replaces it.
    let layer = applied(
        Tar::default().symlink("l", "/etc/passwd").link("a", "l").file("a", "x").link("l", "l"),
    );
    assert_eq!(fs::read_link(layer.path("l")).expect("link"), Path::new("/etc/passwd"));
    assert_eq!(layer.read("a"), "x");
    // A further name of what a whiteout in between did not touch.
    let layer = applied(Tar::default().file("f", "x").file(".wh.f", "").link("g", "f"));
    assert_eq!(layer.read("g"), "x");
}

#[test]
fn a_later_entry_replaces_one_of_another_kind() {
    let kinds: [fn(Tar) -> Tar; 4] = [
        |tar| tar.file("x", "file"),
        |tar| tar.dir("x/", 0o755).file("x/inner", "i"),
        |tar| tar.symlink("x", "elsewhere"),
        |tar| tar.raw(&header(b'6', "x", "", 0), b""),
    ];
    for first in kinds {
        for second in kinds {
            let layer = applied(second(first(Tar::default())));
            let alone = applied(second(Tar::default()));
            assert_eq!(layer.stat("x").file_type(), alone.stat("x").file_type());
            assert_eq!(layer.names(), ["x"]);
        }
    }
    // What was remembered of the directory in between is forgotten.
    let layer = applied(
        Tar::default()
            .dir("d", 0o755)
            .file("d/a", "1")
            .symlink("d", "e")
            .dir("e", 0o755)
            .file("d/b", "2"),
    );
    assert_eq!(layer.read("e/b"), "2");
    assert!(refused(Tar::default().file("a", "").file("a/b", "")).contains("not a directory"));
}

#[test]
fn duplicates_keep_the_last() {
    let layer = applied(
        Tar::default().file("f", "first").file("f", "second").dir("d", 0o700).dir("d", 0o711),
    );
    assert_eq!(layer.read("f"), "second");
    assert_eq!(layer.stat("d").mode() & 0o777, 0o711);
}

#[test]
fn whiteouts_hide_lower_names_in_any_order() {
    let layer = applied(
        Tar::default()
            .file("d/.wh.gone", "")
            .file("d/.wh.before", "")
            .file("d/before", "new")
            .file("d/after", "new")
            .file("d/.wh.after", "")
            .file(".wh.dir", "")
            .file("dir/inner", "x")
            .dir("dir2", 0o755)
            .file(".wh.dir2", ""),
    );
    assert!(layer.is_whiteout("d/gone"));
    assert_eq!((layer.read("d/before"), layer.read("d/after")), ("new".into(), "new".into()));
    assert!(layer.is_opaque("dir") && layer.is_opaque("dir2"));
    assert_eq!(layer.implied(), ["", "d"], "dir owes nothing to the one it hides");
    let layer = applied(Tar::default().file(".wh.d", "").dir("d", 0o755));
    assert!(layer.is_opaque("d"));
}

#[test]
fn opaque_marks_their_directory_and_aufs_names_are_left_out() {
    let layer = applied(
        Tar::default()
            .file("d/kept", "x")
            .file("d/.wh..wh..opq", "")
            .file("e/.wh..wh..opq", "")
            .file(".wh..wh.aufs", "")
            .dir(".wh..wh.plnk/", 0o700)
            .file(".wh..wh.plnk/1.2", "x"),
    );
    assert!(layer.is_opaque("d") && layer.is_opaque("e"));
    assert_eq!(layer.read("d/kept"), "x");
    assert_eq!(layer.names(), ["d", "e"]);
}

#[test]
fn whiteouts_cannot_name_more_than_a_name() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..", "a/.wh...", ".wh.a/b"] {
        let err = refused(Tar::default().file(name, ""));
        assert!(err.contains("whiteout"), "{name}: {err}");
    }
    assert!(refused(Tar::default().file("../.wh.witness", "")).contains("\"..\""));
    let layer = applied(Tar::default().symlink("up", "/..").file("up/.wh.witness", ""));
    assert!(layer.is_whiteout("witness"));
    let err = refused(Tar::default().symlink("l", "/proc/self/root").file("l/.wh..wh..opq", ""));
    assert!(err.contains("leads to no directory"), "{err}");
}

#[test]
fn devices_are_made_as_root_and_no_whiteout_comes_disguised() {
    let err = refused(Tar::default().device(b'3', "etc", 0, 0));
    assert!(err.contains("0:0"), "{err}");
    if root() {
        let layer = applied(Tar::default().device(b'3', "null", 1, 3).device(b'4', "ram", 1, 0));
        assert_eq!(layer.stat("null").rdev(), libc::makedev(1, 3));
        assert!(layer.stat("ram").file_type().is_block_device());
    }
}

#[test]
fn attributes_are_kept_but_for_those_that_rule_overlays() {
    // A capability with a newline in it, which a parser by lines would cut.
    let capability = [1, 0, 0, 2, b'\n', 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut file = header(b'0', "ping", "", 0);
    file.set_uid(if root() { 7 } else { 0 });
    let records: &[(&str, &[u8])] = &[("SCHILY.xattr.user.note", b"a\nb")];
    let mut all = records.to_vec();
    if root() {
        all.push(("SCHILY.xattr.security.capability", &capability));
    }
    let layer = applied(Tar::default().pax(&all).raw(&file, b""));
    let open = fs::File::open(layer.path("ping")).expect("open");
    let get = |key: &[u8]| crate::sys::fs::short_xattr(&open, key).expect("xattr");
    assert_eq!(get(b"user.note").as_deref(), Some(&b"a\nb"[..]));
    if root() {
        assert_eq!(get(b"security.capability").as_deref(), Some(&capability[..]), "after chown");
    }
    for key in ["user.overlay.opaque", "trusted.overlay.redirect", "user.fuseoverlayfs.opaque"] {
        let key = format!("SCHILY.xattr.{key}");
        let err = refused(Tar::default().pax(&[(&key, b"y")]).dir("d", 0o755));
        assert!(err.contains("reserved attribute"), "{err}");
    }
}

#[test]
fn pax_says_more_than_the_header() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let layer = applied(
        Tar::default()
            .pax(&[
                ("path", long.as_bytes()),
                ("mtime", b"-1.25"),
                ("size", b"3"),
                ("comment", b"\xff"),
            ])
            .raw(&header(b'0', "short", "", 0), b"abc")
            .pax(&[("linkpath", long.as_bytes())])
            .link("hard", "x"),
    );
    assert_eq!(layer.read(&long), "abc");
    assert_eq!((layer.stat(&long).mtime(), layer.stat(&long).mtime_nsec()), (-2, 750_000_000));
    assert_eq!(layer.stat("hard").nlink(), 2);
    let gnu = applied(Tar::default().long_name(b"gnu/name\0").file("x", "y"));
    assert_eq!(gnu.read("gnu/name"), "y");
}

#[test]
fn tricks_with_extension_headers_are_refused() {
    let file = |tar: Tar| tar.file("x", "");
    let pax = |key, value: &[u8]| refused(file(Tar::default().pax(&[(key, value)])));
    assert!(pax("path", b"a\0b").contains("path"));
    assert!(pax("path", b"../witness").contains("\"..\""));
    assert!(pax("path", &[b'a'; 5000]).contains("path"));
    assert!(pax("linkpath", b"a\0b").contains("linkpath"));
    assert!(pax("size", b"-1").contains("size"));
    assert!(pax("size", b"0x10").contains("size"));
    assert!(pax("size", b"99999999999999999999").contains("size"));
    assert!(pax("mtime", b"soon").contains("mtime"));
    assert!(pax("uid", b"-2").contains("not a possible user"));
    assert!(pax("uid", b"4294967295").contains("not a possible user"), "chown's \"leave it\"");
    assert!(pax("gid", b"4294967296").contains("not a possible user"), "no wrapping");
    assert!(pax("SCHILY.xattr.", b"x").contains("attribute"));
    let bad =
        |data: &[u8]| refused(file(Tar::default().raw(&header(b'x', "pax", "", data.len()), data)));
    for data in [&b"5 a=b\n"[..], b"99 a=b\n", b"a=b\n", b"6 a=b\n\n", b"+6 a=b\n", b"3 \n"] {
        assert!(bad(data).contains("PAX header is damaged"), "{data:?}");
    }
    let twice = Tar::default().pax(&[("path", b"a")]).pax(&[("path", b"b")]);
    assert!(refused(file(twice)).contains("two PAX headers"));
    assert!(refused(file(Tar::default().long_name(b"a\0b\0"))).contains("NUL"));
    assert!(refused(file(Tar::default().long_name(&[b'a'; 5000]))).contains("at most"));
    assert!(refused(Tar::default().pax(&[("path", b"a")])).contains("describes more"));
    let huge = header(b'x', "pax", "", 1 << 30);
    assert!(refused(Tar::default().raw(&huge, b"")).contains("at most"), "before it is read");
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let sized = |field: [u8; 12]| {
        let mut header = header(b'0', "f", "", 0);
        header.as_old_mut().size = field;
        refused(Tar::default().raw(&header, b"abc"))
    };
    assert!(sized([0xff; 12]).contains("-1 bytes"));
    assert!(sized(*b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff").contains("not possible"));
    assert!(sized(*b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff").contains("too large"));
    assert!(sized(*b"\x80\0\0\0\x70\0\0\0\0\0\0\0").contains("middle of an entry"));
    assert!(sized(*b"0000009\0\0\0\0\0").contains("damaged"));
    assert!(sized(*b"-0000000001\0").contains("damaged"));
}

#[test]
fn a_tar_cut_anywhere_is_noticed_or_whole() {
    let whole = Tar::default().pax(&[("path", b"a/b")]).file("x", "content").end();
    for cut in [1, 511, 513, 1023, 1025, 1536 + 3, 1536 + 511] {
        let err = try_apply(&whole[..cut]).0.expect_err("cut").to_string();
        assert!(err.contains("middle") || err.contains("describes more"), "{cut}: {err}");
    }
    // As everywhere, the closing zeros may be missing.
    try_apply(&whole[..2048]).0.expect("whole");
    let mut damaged = whole;
    damaged[3] ^= 1;
    assert!(try_apply(damaged).0.expect_err("damaged").to_string().contains("checksum"));
    assert!(try_apply(vec![b'x'; 4096]).0.is_err());
}

#[test]
fn the_stream_is_read_to_its_end() {
    let bytes = [Tar::default().file("f", "x").end(), vec![7; 1 << 20]].concat();
    let mut stream = &bytes[..];
    let dir = tempfile::tempdir().expect("tempdir");
    let target = fs::File::open(dir.path()).expect("open");
    apply(&mut stream, target.as_fd(), &HOW).expect("apply");
    assert!(stream.is_empty(), "a digest over the stream needs all of it");
}

#[test]
fn names_are_bytes() {
    let name = b"caf\xe9\n\x1b[31m";
    let layer = applied(Tar::default().pax(&[("path", name)]).file("x", "y"));
    let path = layer.path("").join(std::ffi::OsStr::from_bytes(name));
    assert_eq!(fs::read_to_string(path).expect("read"), "y");
    let err = refused(Tar::default().pax(&[("path", b"\x1b[31m/..")]).file("x", ""));
    assert!(!err.contains('\x1b'), "nothing reaches the terminal unescaped: {err}");
}

#[test]
fn deep_and_long_names_are_made_or_refused() {
    let deep = "d/".repeat(2040) + "f";
    let layer = applied(Tar::default().pax(&[("path", deep.as_bytes())]).file("x", "y"));
    assert_eq!(layer.applied.implied.len(), 2041);
    let root = crate::sys::fs::Root::open(&layer.path("")).expect("root");
    assert_eq!(root.read_small(&deep, 10).expect("read"), b"y");
    let deeper = "d/".repeat(4096) + "f";
    assert!(
        refused(Tar::default().pax(&[("path", deeper.as_bytes())]).file("x", "y")).contains("path")
    );
    let component = "n".repeat(256);
    assert!(
        refused(Tar::default().pax(&[("path", component.as_bytes())]).file("x", "y"))
            .contains("too long")
    );
    // Deeper than any name can say, by way of a link.
    let half = "d/".repeat(1200);
    let tar = Tar::default()
        .pax(&[("path", half.as_bytes())])
        .dir("x", 0o755)
        .pax(&[("linkpath", half.as_bytes())])
        .symlink("l", "x");
    let further = "l/".to_owned() + &half;
    let layer = applied(tar.pax(&[("path", further.as_bytes())]).dir("x", 0o755));
    let parent = Root::open(layer.dir.path()).expect("root");
    parent.open_dir("").expect("dir").remove_tree(b"layer").expect("remove");
    assert!(!layer.path("").exists());
}

#[test]
fn sparse_files_keep_their_holes() {
    // GNU's own type: two pieces in the header, one in an extension.
    let mut gnu = tar::Header::new_gnu();
    gnu.as_old_mut().name[..3].copy_from_slice(b"old");
    gnu.as_old_mut().linkflag[0] = b'S';
    gnu.set_mode(0o644);
    gnu.set_size(1027);
    let fields = gnu.as_gnu_mut().expect("gnu");
    fields.set_real_size(1 << 20);
    fields.sparse[0].set_offset(0);
    fields.sparse[0].set_length(512);
    fields.sparse[1].set_offset(4096);
    fields.sparse[1].set_length(512);
    fields.set_is_extended(true);
    let mut more = tar::GnuExtSparseHeader::new();
    more.sparse[0].set_offset(65536);
    more.sparse[0].set_length(3);
    let data = [&[b'a'; 512][..], &[b'b'; 512], b"end"].concat();
    let mut tar = Tar::default().raw(&gnu, b"");
    tar.0.extend_from_slice(more.as_bytes());
    tar.0.extend_from_slice(&data);
    tar.0.resize(tar.0.len().next_multiple_of(512), 0);
    // PAX 1.0: the map stands before the content.
    let mut map = b"2\n0\n3\n1000000\n0\n".to_vec();
    map.resize(512, 0);
    map.extend_from_slice(b"xyz");
    let pax: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"new"),
        ("GNU.sparse.realsize", b"1000000"),
    ];
    let layer =
        applied(tar.pax(&pax).raw(&header(b'0', "GNUSparse/x", "", map.len()), &map).file("z", ""));
    let old = fs::read(layer.path("old")).expect("read");
    assert_eq!(old.len(), 1 << 20);
    assert_eq!((&old[..512], &old[512..4096]), (&[b'a'; 512][..], &[0; 3584][..]));
    assert_eq!((&old[4096..4608], &old[65536..65540]), (&[b'b'; 512][..], &b"end\0"[..]));
    let new = fs::read(layer.path("new")).expect("read");
    assert_eq!((new.len(), &new[..4]), (1_000_000, &b"xyz\0"[..]));
    assert!(layer.stat("new").blocks() * 512 < 20_000, "the hole takes no room");
    assert_eq!(layer.applied.size, (1 << 20) + 1_000_000);

    let bad = |map: &[u8], size: &[u8]| {
        let mut data = map.to_vec();
        data.resize(512, 0);
        data.extend_from_slice(b"xyz");
        let mut records = pax;
        records[3].1 = size;
        refused(Tar::default().pax(&records).raw(&header(b'0', "s", "", data.len()), &data))
    };
    assert!(bad(b"1\n5\n3\n", b"6").contains("do not fit"));
    assert!(bad(b"2\n5\n2\n4\n1\n", b"9").contains("overlap"));
    assert!(bad(b"1\n18446744073709551615\n3\n", b"9").contains("do not fit"));
    assert!(bad(b"1\n0\n2\n", b"9").contains("do not fit"));
    assert!(bad(b"x\n", b"9").contains("list of numbers"));
    assert!(bad(b"99999999999\n", b"9").contains("list of numbers"));
}

#[test]
fn a_sparse_map_that_is_cut_short_ends() {
    let tar = Tar::default().pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.realsize", b"4096"),
    ]);
    assert!(refused(tar.file("x", "1\n0\n4\n")).contains("cut short"));
}

#[test]
fn what_has_no_content_has_none_whatever_it_says() {
    // As Go's archive/tar: the next block is the next header.
    let layer = applied(
        Tar::default()
            .raw(&header(b'5', "d", "", 512), b"")
            .file("d/f", "x")
            .raw(&header(b'2', "l", "d", 99), b""),
    );
    assert_eq!(layer.read("l/f"), "x");
    let err = refused(Tar::default().raw(&header(b'D', "d", "", 0), b""));
    assert!(err.contains("unknown type 'D'"), "{err}");
    let layer = applied(Tar::default().raw(&header(b'g', "g", "", 3), b"abc").file("f", "x"));
    assert_eq!(layer.names(), ["f"]);
}

#[test]
fn the_root_is_a_directory() {
    assert!(refused(Tar::default().symlink(".", "/etc")).contains("root"));
    assert!(refused(Tar::default().file("/", "x")).contains("root"));
    assert!(refused(Tar::default().link("./", "x")).contains("root"));
    let layer = applied(Tar::default().dir("./", 0o711));
    assert_eq!(layer.stat("").mode() & 0o777, 0o711);
}

#[test]
fn implied_directories_keep_what_they_have_below() {
    let base = applied(
        Tar::default()
            .dir("./", 0o751)
            .dir("tmp", 0o1777)
            .dir("hidden", 0o700)
            .dir("a", 0o711)
            .dir("a/b", 0o700),
    );
    let middle =
        applied(Tar::default().dir("x", 0o750).file(".wh.hidden", "").file("a/.wh..wh..opq", ""));
    let top = applied(
        Tar::default().file("tmp/f", "").file("x/f", "").file("hidden/f", "").file("a/b/f", ""),
    );
    assert_eq!(top.implied(), ["", "a", "a/b", "hidden", "tmp", "x"]);
    let below = || [&middle, &base].map(|layer| Root::open(&layer.path("")).expect("root"));
    let settle_one = |layer: &Layer, below: &[Root]| {
        let target = Root::open(&layer.path("")).expect("root");
        settle(&target, &layer.applied.implied, below, &HOW).expect("settle");
    };
    settle_one(&middle, &below()[1..]);
    settle_one(&top, &below());
    let mode = |name| top.stat(name).mode() & 0o7777;
    assert_eq!((mode(""), mode("tmp"), mode("x"), mode("a")), (0o751, 0o1777, 0o750, 0o711));
    assert_eq!(mode("hidden"), 0o755, "what a whiteout hides has no say");
    assert_eq!(mode("a/b"), 0o755, "nor what lies under an opaque directory");
    assert_eq!(top.stat("tmp").mtime(), 1_000_000_000);
}

#[test]
fn a_directory_told_later_is_not_implied() {
    let layer =
        applied(Tar::default().file("d/f", "x").dir("d", 0o700).file("e/f", "").symlink("e", "d"));
    assert_eq!(layer.implied(), [""]);
    assert_eq!(layer.stat("d").mode() & 0o777, 0o700);
}

#[test]
fn an_opaque_root_hides_every_lower_name() {
    let base = applied(Tar::default().dir("a", 0o755).file("b", "").file("c", ""));
    let top = applied(
        Tar::default().dir("./", 0o711).file(".wh..wh..opq", "").file("a/f", "").file("c", "new"),
    );
    let target = Root::open(&top.path("")).expect("root");
    let below = [Root::open(&base.path("")).expect("root")];
    settle(&target, &top.applied.implied, &below, &HOW).expect("settle");
    assert!(top.is_opaque("a") && top.is_whiteout("b"));
    assert_eq!((top.read("c"), top.stat("").mode() & 0o777), ("new".into(), 0o711));
}

#[test]
fn twenty_thousand_entries_of_one_name_are_one_file() {
    struct Many(u32, Vec<u8>);
    impl Read for Many {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            if self.1.is_empty() && self.0 < 20_000 {
                self.0 += 1;
                self.1 = Tar::default().file("same", "").0;
            }
            let length = into.len().min(self.1.len());
            into[..length].copy_from_slice(&self.1[..length]);
            self.1.drain(..length);
            Ok(length)
        }
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let target = fs::File::open(dir.path()).expect("open");
    let applied = apply(&mut Many(0, Vec::new()), target.as_fd(), &HOW).expect("apply");
    assert_eq!(applied.entries, 20_000);
    assert_eq!(
        fs::metadata(dir.path().join("same")).expect("stat").permissions().mode(),
        0o100_644
    );
}
