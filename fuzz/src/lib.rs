//! What the fuzz targets share: tars from lines of text, and checks of what came of an input.
//!
//! `seeds/TARGET.txt` holds one case of each kind of malice (the same list as the unit tests of
//! `image::layer` and `image::archive`), parted by lines of `---`; lines that begin with `%` say
//! what a case is. Each target adds those of its own to its corpus before it begins.

use std::{fs, path::Path};

/// Writes the cases of `seeds/TARGET.txt`, as they are or as tars, into `corpus/TARGET`.
pub fn sow(target: &str, as_tars: bool) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(here.join(format!("seeds/{target}.txt"))).expect("the seeds");
    let corpus = here.join("corpus").join(target);
    fs::create_dir_all(&corpus).expect("mkdir");
    for (number, case) in cases(&text).into_iter().enumerate() {
        let bytes = if as_tars { tar(&case) } else { case.into_bytes() };
        fs::write(corpus.join(format!("seed-{number:02}")), bytes).expect("write a seed");
    }
}

/// The cases of a seed file, without what is said about them.
fn cases(text: &str) -> Vec<String> {
    let said = |line: &&str| !line.starts_with('%');
    let cases = text.split("\n---\n");
    cases.map(|case| case.lines().filter(said).collect::<Vec<_>>().join("\n")).collect()
}

/// A tar of one line an entry: `file NAME CONTENT`, `dir NAME MODE`, `symlink NAME TARGET`,
/// `link NAME TARGET`, `char NAME MAJOR:MINOR`, `block`, `fifo`, `pax KEY=VALUE ...`,
/// `long NAME`, `longlink NAME`, `global KEY=VALUE`, `sparse NAME REALSIZE OFFSET:LENGTH ...`,
/// `size BYTES` (what the next header says), `type C`, `field AT HEX`, `cut BYTES`, `end`,
/// `raw BYTES` (what is no tar).
/// `\xHH` is a byte, `*N` behind a word repeats it N times.
fn tar(text: &str) -> Vec<u8> {
    let mut tar = Vec::new();
    let (mut size, mut kind, mut field) = (None, None, None);
    for line in text.lines().filter(|line| !line.is_empty()) {
        let words: Vec<Vec<u8>> = line.split(' ').map(bytes).collect();
        let word = |at: usize| words.get(at).map_or(&b""[..], Vec::as_slice);
        let text = |at: usize| String::from_utf8_lossy(word(at)).into_owned();
        let numbers = |at: usize| -> (u64, u64) {
            let text = text(at);
            let (a, b) = text.split_once(':').unwrap_or((&text, "0"));
            (a.parse().unwrap_or(0), b.parse().unwrap_or(0))
        };
        let records = || words[1..].iter().flat_map(|record| pax(record)).collect::<Vec<u8>>();
        let (flag, name, link, content) = match text(0).as_str() {
            "file" => (b'0', word(1), &b""[..], word(2).to_vec()),
            "dir" => (b'5', word(1), &b""[..], Vec::new()),
            "symlink" => (b'2', word(1), word(2), Vec::new()),
            "link" => (b'1', word(1), word(2), Vec::new()),
            "char" => (b'3', word(1), &b""[..], Vec::new()),
            "block" => (b'4', word(1), &b""[..], Vec::new()),
            "fifo" => (b'6', word(1), &b""[..], Vec::new()),
            "pax" => (b'x', &b"pax"[..], &b""[..], records()),
            "global" => (b'g', &b"pax"[..], &b""[..], records()),
            "long" => (b'L', &b"././@LongLink"[..], &b""[..], word(1).to_vec()),
            "longlink" => (b'K', &b"././@LongLink"[..], &b""[..], word(1).to_vec()),
            "sparse" => (b'S', word(1), &b""[..], Vec::new()),
            "size" => {
                size = text(1).parse::<u64>().ok();
                continue;
            }
            "type" => {
                kind = word(1).first().copied();
                continue;
            }
            "field" => {
                field = Some((usize::try_from(numbers(1).0).unwrap_or(0), word(2).to_vec()));
                continue;
            }
            "cut" => {
                tar.truncate(usize::try_from(numbers(1).0).unwrap_or(0));
                continue;
            }
            "raw" => {
                tar.extend_from_slice(word(1));
                continue;
            }
            "end" => {
                tar.resize(tar.len() + 1024, 0);
                continue;
            }
            other => panic!("a seed says {other:?}"),
        };
        let mut header =
            if flag == b'S' { tar::Header::new_gnu() } else { tar::Header::new_ustar() };
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        let mut content = content;
        if flag == b'5' {
            header.set_mode(u32::from_str_radix(&text(2), 8).unwrap_or(0o755));
        }
        if matches!(flag, b'3' | b'4') {
            let (major, minor) = numbers(2);
            header.set_device_major(u32::try_from(major).unwrap_or(0)).expect("ustar");
            header.set_device_minor(u32::try_from(minor).unwrap_or(0)).expect("ustar");
        }
        if flag == b'S' {
            sparse(&mut header, numbers(2).0, (3..words.len()).map(numbers), &mut content);
        }
        header.set_size(size.take().unwrap_or(content.len() as u64));
        let old = header.as_old_mut();
        old.linkflag[0] = kind.take().unwrap_or(flag);
        put(&mut old.name, name);
        put(&mut old.linkname, link);
        if let Some((at, value)) = field.take() {
            put(&mut header.as_mut_bytes()[at..], &value);
        }
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(&content);
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar
}

fn sparse(
    header: &mut tar::Header,
    real: u64,
    pieces: impl Iterator<Item = (u64, u64)>,
    content: &mut Vec<u8>,
) {
    let octal = |value: u64| format!("{value:011o}\0").into_bytes();
    let gnu = header.as_gnu_mut().expect("gnu");
    put(&mut gnu.realsize, &octal(real));
    for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
        put(&mut slot.offset, &octal(offset));
        put(&mut slot.numbytes, &octal(length));
        content.resize(content.len() + usize::try_from(length.min(4096)).unwrap_or(0), b's');
    }
}

fn put(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

/// One record, whose length counts itself.
fn pax(record: &[u8]) -> Vec<u8> {
    let rest = record.len() + 2;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} ").as_bytes(), record, b"\n"].concat()
}

/// A word: `\xHH` and `*N`.
fn bytes(word: &str) -> Vec<u8> {
    let (word, times) = match word.rsplit_once('*') {
        Some((word, times)) if times.parse::<usize>().is_ok() => (word, times.parse().unwrap_or(1)),
        _ => (word, 1),
    };
    let mut bytes = Vec::new();
    let mut rest = word;
    while let Some(at) = rest.find("\\x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let hex = rest.get(at + 2..at + 4).expect("two digits");
        bytes.push(u8::from_str_radix(hex, 16).expect("hexadecimal"));
        rest = &rest[at + 4..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes.repeat(times)
}

/// Rights the sums of a tar's headers, which no mutation would.
pub fn mend(tar: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = tar.get_mut(at..at + 512) {
        at += 512;
        if block.iter().all(|&byte| byte == 0) {
            continue;
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        put(&mut block[148..156], format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&block[124..135]).ok();
        let size = size.and_then(|text| usize::from_str_radix(text, 8).ok()).unwrap_or(0);
        if !matches!(block[156], b'1'..=b'6') {
            at = at.saturating_add(size).next_multiple_of(512);
        }
    }
}

/// A directory in memory with a witness beside the place where things may be made.
pub struct Witnessed(tempfile::TempDir);

impl Witnessed {
    pub fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").expect("a directory in memory");
        fs::write(dir.path().join("witness"), "untouched").expect("write");
        fs::create_dir(dir.path().join("place")).expect("mkdir");
        Self(dir)
    }

    pub fn place(&self) -> std::path::PathBuf {
        self.0.path().join("place")
    }

    /// Panics if anything beside the place was changed or made.
    pub fn check(self) {
        let witness = fs::read_to_string(self.0.path().join("witness"));
        assert_eq!(witness.expect("the witness"), "untouched");
        assert_eq!(fs::read_dir(self.0.path()).expect("list").count(), 2, "made outside");
        remove(&self.place());
    }
}

impl Default for Witnessed {
    fn default() -> Self {
        Self::new()
    }
}

/// As the store removes what it unpacked, however deep.
fn remove(tree: &Path) {
    use dhow::image::{
        Unpack as _,
        layer::{Apply, Ownership},
        unpack::InProcess,
    };
    let how = Apply { ownership: Ownership::Absorb, user_xattr: true };
    InProcess(how).remove(tree).expect("remove what was unpacked");
}
