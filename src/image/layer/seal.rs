//! From an upperdir to a layer, in place: nothing is copied.
//!
//! Afterwards the directory holds what its tar says and no more: what is no change is gone, times
//! are whole seconds and not later than told, and of overlayfs's own attributes only those marks
//! are left that hide something. So the same tar can be made of it again, without the layers
//! below, byte for byte: see [`sealed_tar`].

use std::io::{self, Write};

use super::{
    changes::{At, ChangeKind, Form, Over, Sink, Upper, walk},
    tarball::{Dress, TarWriter, joined},
};
use crate::{
    error::{Context as _, Result},
    oci::{Digest, Hasher},
    sys::fs::{Dir, FileType, Time, kind},
};

const BUFFER: usize = 256 << 10;

/// What an upperdir has become.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sealed {
    /// Of the layer's tar.
    pub diff_id: Digest,
    /// Bytes of the tar.
    pub tar_size: u64,
    /// Bytes of file content.
    pub size: u64,
}

/// Makes a layer of an upperdir that nobody changes meanwhile.
pub fn seal(upper: &Upper) -> Result<Sealed> {
    let mut out = io::BufWriter::with_capacity(BUFFER, Count::default());
    let dress = Dress { latest: upper.latest, ..Dress::default() };
    let size = {
        let tar = TarWriter::new(&mut out).dressed(dress);
        let mut sealer = Sealer { tar, latest: upper.latest };
        walk(upper, &mut sealer)?;
        let size = sealer.tar.content();
        sealer.tar.finish()?;
        size
    };
    let Count { hasher, size: tar_size } = out.into_inner().map_err(|err| err.into_error())?;
    Ok(Sealed { diff_id: hasher.finish(), tar_size, size })
}

/// Writes the tar of a layer that [`seal`] has made.
pub fn sealed_tar(layer: Dir, out: &mut dyn Write) -> Result<()> {
    let upper = Upper {
        upper: layer,
        lowers: Vec::new(),
        places: Vec::new(),
        made: Vec::new(),
        latest: None,
        sealed: true,
        form: Form::Overlay,
    };
    super::layer_tar(&upper, out)
}

#[derive(Default)]
struct Count {
    hasher: Hasher,
    size: u64,
}

impl Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Sealer<'out> {
    tar: TarWriter<'out>,
    latest: Option<i64>,
}

impl Sink for Sealer<'_> {
    fn there(&mut self, at: &At<'_>, _kind: ChangeKind) -> Result<()> {
        self.tar.add(at.dir, at.name, &at.path, &at.stat)
    }

    fn gone(&mut self, dir: &[u8], name: &[u8]) -> Result<()> {
        self.tar.mark(&joined(dir, &[b".wh.", name].concat()))
    }

    fn opaque(&mut self, path: &[u8]) -> Result<()> {
        self.tar.mark(&joined(path, b".wh..wh..opq"))
    }

    fn over(&mut self, at: &At<'_>, over: Over) -> Result<()> {
        if over == Over::Untold || kind(&at.stat) == FileType::Socket {
            return at.dir.remove_tree(at.name).doing("leave out what is no change");
        }
        for (key, _) in at.dir.xattrs(at.name)? {
            let is_mark = key.ends_with(b".overlay.opaque");
            let is_overlays =
                [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|own| key.starts_with(own));
            if is_overlays && (!is_mark || over == Over::New) {
                at.dir.remove_xattr(at.name, &key).doing("forget what the overlay has noted")?;
            }
        }
        let seconds = self.latest.map_or(at.stat.st_mtime, |latest| at.stat.st_mtime.min(latest));
        let is_plain = at.stat.st_mtime_nsec == 0 && seconds == at.stat.st_mtime;
        // What was in a directory has gone meanwhile: its time is another now.
        if !is_plain || kind(&at.stat) == FileType::Directory {
            at.dir.set_time(at.name, Time { seconds, nanoseconds: 0 })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs::{self, is_whiteout};
    use std::{fs as host, os::unix::fs::MetadataExt as _, path::Path};

    fn dir(path: &Path) -> Dir {
        host::create_dir_all(path).expect("mkdir");
        Dir::from_fd(host::File::open(path).expect("open").into())
    }

    #[test]
    fn a_sealed_directory_gives_its_tar_again() {
        let top = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| top.path().join(name);
        let (upper, lower) = (dir(&at("upper")), dir(&at("lower")));
        for path in ["lower/kept/in", "lower/same/sub", "lower/hidden", "lower/etc"] {
            host::create_dir_all(at(path)).expect("mkdir");
        }
        host::write(at("lower/gone"), "x").expect("write");
        host::write(at("lower/hidden/x"), "x").expect("write");
        for path in
            ["kept/in", "same/sub", "hidden", "etc", "new/deep", "dev/pts", "stub/empty", "stub2/f"]
        {
            host::create_dir_all(at("upper").join(path)).expect("mkdir");
        }
        for path in ["same/sub", "same"] {
            let time = host::metadata(at("lower").join(path)).and_then(|meta| meta.modified());
            let copy = host::File::open(at("upper").join(path)).expect("open");
            copy.set_modified(time.expect("time")).expect("time");
        }
        host::write(at("upper/kept/in/f"), "content").expect("write");
        host::write(at("upper/etc/hosts"), "").expect("write");
        for name in [&b"gone"[..], b"never-was"] {
            upper.mknod(name, FileType::CharacterDevice, 0, (0, 0)).expect("whiteout");
        }
        for path in ["hidden", "new"] {
            let dir = dir(&at("upper").join(path));
            fs::set_xattr(dir, b"user.overlay.opaque", b"y").expect("xattr");
        }
        fs::set_xattr(dir(&at("upper/new/deep")), b"user.overlay.origin", b"?").expect("xattr");
        drop((upper, lower));
        let whole = || Upper {
            upper: dir(&at("upper")),
            lowers: vec![dir(&at("lower"))],
            places: [&b"dev"[..], b"etc/hosts"].map(<[u8]>::to_vec).into(),
            made: [&b"stub"[..], b"stub/empty", b"stub2"].map(<[u8]>::to_vec).into(),
            latest: Some(1_000_000_000),
            sealed: false,
            form: Form::Overlay,
        };
        let mut before = Vec::new();
        super::super::layer_tar(&whole(), &mut before).expect("tar");
        let sealed = seal(&whole()).expect("seal");
        assert_eq!(sealed.diff_id, Digest::of(&before));
        assert_eq!((sealed.tar_size, sealed.size), (before.len() as u64, 7));

        let mut again = Vec::new();
        sealed_tar(dir(&at("upper")), &mut again).expect("tar");
        assert_eq!(Digest::of(&again), sealed.diff_id);
        assert!(at("upper/stub2/f").is_dir());
        for gone in ["same", "stub", "dev", "etc/hosts", "never-was"] {
            assert!(host::symlink_metadata(at("upper").join(gone)).is_err(), "{gone}");
        }
        let upper = dir(&at("upper"));
        assert!(is_whiteout(&upper.stat(b"gone").expect("stat")));
        let marks = |name: &[u8]| upper.xattrs(name).expect("xattrs").len();
        assert_eq!((marks(b"hidden"), marks(b"new")), (1, 0));
        let meta = host::metadata(at("upper/kept")).expect("stat");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000_000, 0));
    }
}
