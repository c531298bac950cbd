//! A layer's tar, entry by entry.
//!
//! Blocks and header fields are the `tar` crate's; how they combine is decided here, because a
//! layer must mean one thing to everybody. Extension headers are capped before they are read,
//! PAX records are split by their length (a file capability may hold a newline), sparse files
//! are streamed as their pieces, and where parsers disagree this one does as Go's `archive/tar`
//! does, which every other engine uses, or refuses.

use std::{
    borrow::Cow,
    io::{self, Read},
};

use tar::{Header, OldHeader};

use crate::{
    error::{Context as _, Error, Result},
    sys::fs::Time,
};

const BLOCK: usize = 512;
/// Room for a name as long as the kernel takes one.
const NAME_MAX: u64 = libc::PATH_MAX as u64;
/// PAX records of one entry; extended attributes of 64 KiB each fit.
const PAX_MAX: u64 = 1 << 20;
/// Pieces of one sparse file.
const SEGMENTS_MAX: usize = 1 << 20;
/// One `read(2)` of the pipe and one `write(2)` of a file.
const BUFFER: usize = 256 * 1024;

/// One thing a layer holds. Names are bytes, as they are to the kernel.
#[derive(Debug)]
pub(in crate::image) struct Entry {
    pub(in crate::image) name: Vec<u8>,
    pub(in crate::image) kind: Kind,
    /// Permission bits, setuid, setgid and sticky.
    pub(in crate::image) mode: u32,
    pub(in crate::image) uid: u32,
    pub(in crate::image) gid: u32,
    pub(in crate::image) modified: Time,
    /// Told by PAX records alone, and applied to nothing.
    pub(in crate::image) accessed: Option<Time>,
    pub(in crate::image) changed: Option<Time>,
    /// Extended attributes, in the order they stand.
    pub(in crate::image) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(in crate::image) enum Kind {
    /// Its content follows: see [`Entries::content`].
    File,
    Directory,
    Symlink(Vec<u8>),
    /// Another name of what this path names.
    Link(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// A piece of a file's content: `length` bytes at `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::image) struct Segment {
    pub(in crate::image) offset: u64,
    pub(in crate::image) length: u64,
}

/// The content of the entry that was read last.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::image) struct Content {
    /// Bytes, holes included.
    pub(in crate::image) size: u64,
    pub(in crate::image) segments: Vec<Segment>,
}

/// Reads a tar from a stream, once, forwards.
pub(in crate::image) struct Entries<'a> {
    input: Input<'a>,
    /// Bytes of the current entry's content and padding that nobody took.
    unread: u64,
    padding: u64,
    content: Content,
}

/// What extension headers said about the entry that follows them.
#[derive(Default)]
struct Extensions {
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    linkpath: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<i64>,
    gid: Option<i64>,
    mtime: Option<Time>,
    atime: Option<Time>,
    ctime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Any `GNU.sparse.` record was there.
    sparse: bool,
    sparse_major: Option<u64>,
    sparse_minor: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
}

impl<'a> Entries<'a> {
    pub(in crate::image) fn new(tar: &'a mut dyn Read) -> Self {
        Self { input: Input::new(tar), unread: 0, padding: 0, content: Content::default() }
    }

    /// The next entry; what was not read of the last one's content is skipped.
    pub(in crate::image) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        let mut described = false;
        loop {
            self.input.skip(self.unread + self.padding)?;
            (self.unread, self.padding) = (0, 0);
            let Some(header) = self.header()? else {
                if described {
                    return Err(Error::invalid("the tar ends after a header that describes more"));
                }
                return Ok(None);
            };
            let size = size_field(header.as_old())?;
            match header.as_old().linkflag[0] {
                b'L' => set(&mut extensions.long_name, self.long(size)?, "long names")?,
                b'K' => set(&mut extensions.long_link, self.long(size)?, "long link names")?,
                b'x' => set(&mut extensions.pax, self.pax(size)?, "PAX headers")?,
                // Comments of git and the like. As every engine does: nothing in it is applied.
                b'g' => {
                    self.expect(size)?;
                    continue;
                }
                _ => return self.entry(&header, extensions, size).map(Some),
            }
            described = true;
        }
    }

    /// The shape of the content of the file that [`Self::next`] returned.
    pub(in crate::image) fn content(&mut self) -> Content {
        std::mem::take(&mut self.content)
    }

    /// The next bytes of the content, at most `limit` (not 0), as they lie in the buffer.
    pub(in crate::image) fn take(&mut self, limit: u64) -> Result<&[u8]> {
        let limit = limit.min(self.unread);
        let chunk = self.input.take(limit)?;
        self.unread -= chunk.len() as u64;
        Ok(chunk)
    }

    /// Bytes that were read from the stream and of which nothing was given out.
    pub(in crate::image) fn ahead(&self) -> usize {
        self.input.end - self.input.start
    }

    /// Reads what may follow the last entry, so that a digest sees the whole stream.
    pub(in crate::image) fn finish(mut self) -> Result<()> {
        while self.input.fill()? > 0 {
            self.input.start = self.input.end;
        }
        Ok(())
    }

    /// `None` at the end: a block of zeros, or no more blocks.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        if !self.input.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        if header.as_bytes().iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let stored = number(&header.as_old().cksum).unwrap_or(-1);
        let bytes = header.as_bytes();
        let sum = |bytes: &[u8]| bytes.iter().map(|&b| i64::from(b)).sum::<i64>();
        if sum(&bytes[..148]) + 8 * i64::from(b' ') + sum(&bytes[156..]) != stored {
            return Err(Error::invalid(
                "not a tar, or a damaged one: a header's checksum is wrong",
            ));
        }
        Ok(Some(header))
    }

    fn entry(&mut self, header: &Header, said: Extensions, size: u64) -> Result<Entry> {
        let old = header.as_old();
        let pax = said.pax.unwrap_or_default();
        let name = said
            .long_name
            .or(pax.sparse_name.clone())
            .or(pax.path.clone())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let link = || {
            said.long_link
                .or(pax.linkpath.clone())
                .unwrap_or_else(|| until_nul(&old.linkname).to_vec())
        };
        let device = || -> Result<(u32, u32)> { Ok((device(header, 0)?, device(header, 1)?)) };
        let kind = match old.linkflag[0] {
            // Version 7 had no directories but names that end in a slash.
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Link(link()),
            b'2' => Kind::Symlink(link()),
            b'3' => device().map(|(major, minor)| Kind::Character(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::Block(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(Error::invalid(format!(
                    "{}: an entry of unknown type {:?}",
                    shown(&name),
                    char::from(other)
                )));
            }
        };
        let doing = || format!("entry {}", shown(&name));
        if kind == Kind::File {
            self.expect(pax.size.unwrap_or(size)).doing_with(doing)?;
            self.find_segments(header, &pax).doing_with(doing)?;
        } else {
            self.expect(size).doing_with(doing)?;
        }
        let id = |told: Option<i64>, field: &[u8]| -> Result<u32> {
            let value = match told {
                Some(value) => value,
                None => number(field)?,
            };
            // The highest is chown(2)'s "leave as it is".
            u32::try_from(value).ok().filter(|&id| id != u32::MAX).ok_or_else(|| {
                Error::invalid(format!("its owner {value} is not a possible user or group id"))
            })
        };
        let modified = match pax.mtime {
            Some(time) => time,
            None => Time { seconds: number(&old.mtime).doing_with(doing)?, nanoseconds: 0 },
        };
        Ok(Entry {
            mode: u32::try_from(number(&old.mode).doing_with(doing)? & 0o7777).unwrap_or(0),
            uid: id(pax.uid, &old.uid).doing_with(doing)?,
            gid: id(pax.gid, &old.gid).doing_with(doing)?,
            modified,
            accessed: pax.atime,
            changed: pax.ctime,
            xattrs: pax.xattrs,
            kind,
            name,
        })
    }

    /// `size` bytes follow in the stream, padded to whole blocks.
    fn expect(&mut self, size: u64) -> Result<()> {
        self.unread = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
        // So that no later sum can overflow.
        if size > i64::MAX as u64 - BLOCK as u64 {
            return Err(Error::invalid(format!("an entry of {size} bytes is not possible")));
        }
        Ok(())
    }

    /// A GNU long name: the bytes before its closing NUL.
    fn long(&mut self, size: u64) -> Result<Vec<u8>> {
        let bytes = self.small(size, NAME_MAX + 1, "a name")?;
        let name = until_nul(&bytes);
        if bytes[name.len()..].iter().any(|&byte| byte != 0) {
            return Err(Error::invalid(format!("the name {} goes on behind a NUL", shown(name))));
        }
        Ok(name.to_vec())
    }

    fn pax(&mut self, size: u64) -> Result<Pax> {
        let bytes = self.small(size, PAX_MAX, "a PAX header")?;
        Pax::parse(&bytes)
    }

    fn small(&mut self, size: u64, cap: u64, what: &str) -> Result<Vec<u8>> {
        if size > cap {
            return Err(Error::invalid(format!("{what} of {size} bytes; at most {cap} are taken")));
        }
        self.expect(size)?;
        let mut bytes = Vec::new();
        while self.unread > 0 {
            let unread = self.unread;
            bytes.extend_from_slice(self.take(unread)?);
        }
        Ok(bytes)
    }

    fn find_segments(&mut self, header: &Header, pax: &Pax) -> Result<()> {
        if header.as_old().linkflag[0] == b'S' {
            let (size, segments) = self.old_gnu_segments(header)?;
            return self.sparse(size, segments);
        }
        if !pax.sparse {
            let length = self.unread;
            self.content = Content { size: length, segments: vec![Segment { offset: 0, length }] };
            return Ok(());
        }
        if (pax.sparse_major, pax.sparse_minor) != (Some(1), Some(0)) {
            return Err(Error::unsupported("a sparse file in the PAX format 0.x")
                .hint("GNU tar makes the format 1.0 with --sparse-version=1.0"));
        }
        let size = pax.sparse_size.ok_or_else(|| Error::invalid("a sparse file without a size"))?;
        let segments = self.pax_segments()?;
        self.sparse(size, segments)
    }

    /// GNU tar manual, "Storing Sparse Files", "Old GNU Format".
    fn old_gnu_segments(&mut self, header: &Header) -> Result<(u64, Vec<Segment>)> {
        let gnu = header.as_gnu().ok_or_else(|| {
            Error::invalid("a sparse file, of GNU's type, in a tar that is not GNU's")
        })?;
        let size = positive(&gnu.realsize)?;
        let mut segments = Vec::new();
        let mut add = |entries: &[tar::GnuSparseHeader]| -> Result<()> {
            for entry in entries.iter().take_while(|entry| entry.offset[0] != 0) {
                let (offset, length) = (positive(&entry.offset)?, positive(&entry.numbytes)?);
                push(&mut segments, Segment { offset, length })?;
            }
            Ok(())
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        while more {
            let mut block = tar::GnuExtSparseHeader::new();
            if !self.input.block(block.as_mut_bytes())? {
                return Err(ended());
            }
            add(&block.sparse)?;
            more = block.is_extended();
        }
        Ok((size, segments))
    }

    /// GNU tar manual, "PAX Format, Version 1.0": the map stands before the content, as decimal
    /// numbers in lines, padded to whole blocks.
    fn pax_segments(&mut self) -> Result<Vec<Segment>> {
        let mut line = Vec::new();
        let mut consumed = 0_u64;
        let mut number = |entries: &mut Self| -> Result<u64> {
            line.clear();
            loop {
                match entries.take(1)? {
                    [b'\n'] => break,
                    [digit @ b'0'..=b'9'] if line.len() < 20 => line.push(*digit),
                    _ => {
                        return Err(Error::invalid(
                            "the map of a sparse file is no list of numbers",
                        ));
                    }
                }
            }
            consumed += line.len() as u64 + 1;
            decimal(&line).ok_or_else(|| Error::invalid("a number of a sparse file is too large"))
        };
        let count = number(self)?;
        let mut segments = Vec::new();
        for _ in 0..count {
            let (offset, length) = (number(self)?, number(self)?);
            push(&mut segments, Segment { offset, length })?;
        }
        let mut padding = consumed.wrapping_neg() % BLOCK as u64;
        while padding > 0 {
            let taken = self.take(padding)?.len() as u64;
            if taken == 0 {
                return Err(Error::invalid("the map of a sparse file is cut short"));
            }
            padding -= taken;
        }
        Ok(segments)
    }

    fn sparse(&mut self, size: u64, mut segments: Vec<Segment>) -> Result<()> {
        // GNU tar marks the end of the file by an empty piece.
        segments.retain(|segment| segment.length > 0);
        let mut end = 0;
        let mut total = 0_u64;
        for segment in &segments {
            if segment.offset < end {
                return Err(Error::invalid("the pieces of a sparse file overlap"));
            }
            end = segment.offset.saturating_add(segment.length);
            total = total.saturating_add(segment.length);
        }
        if end > size || total != self.unread || size > i64::MAX as u64 {
            return Err(Error::invalid("the pieces of a sparse file do not fit its size"));
        }
        self.content = Content { size, segments };
        Ok(())
    }
}

fn push(segments: &mut Vec<Segment>, segment: Segment) -> Result<()> {
    if segments.len() == SEGMENTS_MAX {
        return Err(Error::invalid(format!("a sparse file of more than {SEGMENTS_MAX} pieces")));
    }
    segments.push(segment);
    Ok(())
}

impl Pax {
    /// POSIX pax, "pax Extended Header": records of `LENGTH KEY=VALUE\n`, the length counting
    /// all of it. A later record of the same key wins, an empty value takes it back.
    fn parse(mut bytes: &[u8]) -> Result<Self> {
        let damaged = || Error::invalid("a PAX header is damaged");
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let space = bytes.iter().take(20).position(|&b| b == b' ').ok_or_else(damaged)?;
            let length = decimal(&bytes[..space])
                .and_then(|length| usize::try_from(length).ok())
                .filter(|&length| length > space + 2 && length <= bytes.len())
                .ok_or_else(damaged)?;
            let record = bytes[space + 1..length].strip_suffix(b"\n").ok_or_else(damaged)?;
            let equals = record.iter().position(|&b| b == b'=').ok_or_else(damaged)?;
            pax.record(&record[..equals], &record[equals + 1..])?;
            bytes = &bytes[length..];
        }
        Ok(pax)
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let told = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = path_value(key, value)?,
            b"linkpath" => self.linkpath = path_value(key, value)?,
            b"size" => self.size = number_value(key, value)?,
            b"uid" => self.uid = signed_value(key, value)?,
            b"gid" => self.gid = signed_value(key, value)?,
            b"mtime" => self.mtime = told().map(|text| time(&text)).transpose()?,
            // Nobody sets these; so what cannot be a time is none.
            b"atime" => self.atime = told().and_then(|text| time(&text).ok()),
            b"ctime" => self.ctime = told().and_then(|text| time(&text).ok()),
            b"GNU.sparse.major" => self.sparse_major = number_value(key, value)?,
            b"GNU.sparse.minor" => self.sparse_minor = number_value(key, value)?,
            b"GNU.sparse.name" => self.sparse_name = path_value(key, value)?,
            b"GNU.sparse.realsize" => self.sparse_size = number_value(key, value)?,
            _ => {}
        }
        self.sparse |= key.starts_with(b"GNU.sparse.");
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            if name.is_empty() || name.contains(&0) {
                return Err(Error::invalid("an extended attribute without a possible name"));
            }
            self.xattrs.retain(|(other, _)| other != name);
            self.xattrs.push((name.to_vec(), value.to_vec()));
        }
        Ok(())
    }
}

fn bad_value(key: &[u8], value: &[u8]) -> Error {
    let shown_value = shown(&value[..value.len().min(40)]);
    Error::invalid(format!("the PAX record {} cannot be {shown_value}", shown(key)))
}

fn path_value(key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
    if value.contains(&0) || value.len() as u64 > NAME_MAX {
        return Err(bad_value(key, value));
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn number_value(key: &[u8], value: &[u8]) -> Result<Option<u64>> {
    if value.is_empty() {
        return Ok(None);
    }
    decimal(value).map(Some).ok_or_else(|| bad_value(key, value))
}

fn signed_value(key: &[u8], value: &[u8]) -> Result<Option<i64>> {
    if let Some(positive) = value.strip_prefix(b"-") {
        let number = decimal(positive).and_then(|number| i64::try_from(number).ok());
        return number.map(|number| Some(-number)).ok_or_else(|| bad_value(key, value));
    }
    let number = number_value(key, value)?;
    number.map(|number| i64::try_from(number).map_err(|_| bad_value(key, value))).transpose()
}

/// Digits only: neither signs nor spaces, which parsers disagree about.
fn decimal(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with a fraction of any length, perhaps negative.
fn time(text: &[u8]) -> Result<Time> {
    let bad = || bad_value(b"mtime", text);
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = match digits.iter().position(|&b| b == b'.') {
        Some(dot) => (&digits[..dot], &digits[dot + 1..]),
        None => (digits, &b""[..]),
    };
    let whole = decimal(whole).and_then(|whole| i64::try_from(whole).ok()).ok_or_else(bad)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(bad());
    }
    let nanoseconds = (0..9).fold(0, |sum, place| {
        sum * 10 + u32::from(fraction.get(place).copied().unwrap_or(b'0') - b'0')
    });
    Ok(match (negative, nanoseconds) {
        (false, nanoseconds) => Time { seconds: whole, nanoseconds },
        (true, 0) => Time { seconds: -whole, nanoseconds: 0 },
        // -1.25 is 0.75 after -2.
        (true, nanoseconds) => {
            Time { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds }
        }
    })
}

/// Says a second extension header of one kind is too many: which of the two counts?
fn set<T>(slot: &mut Option<T>, value: T, what: &str) -> Result<()> {
    if slot.replace(value).is_some() {
        return Err(Error::invalid(format!("two {what} for one entry")));
    }
    Ok(())
}

/// A number of a header: octal text, or GNU's binary (big-endian, two's complement, marked by
/// the first bit). Empty is 0, as everywhere.
pub(in crate::image) fn number(field: &[u8]) -> Result<i64> {
    if field[0] & 0x80 != 0 {
        // The mark is a bit of the number's sign: 0x80 positive, 0xff negative.
        let first = if field[0] & 0x40 != 0 { -1 } else { i128::from(field[0] & 0x3f) };
        let value = field[1..]
            .iter()
            .try_fold(first, |value, &byte| value.checked_mul(256)?.checked_add(byte.into()));
        return value
            .and_then(|value| i64::try_from(value).ok())
            .ok_or_else(|| Error::invalid("a number of a header is too large"));
    }
    let text = until_nul(field).trim_ascii();
    if text.is_empty() {
        return Ok(0);
    }
    let digits = text.iter().all(|byte| matches!(byte, b'0'..=b'7'));
    let value = std::str::from_utf8(text).ok().filter(|_| digits);
    value
        .and_then(|text| i64::from_str_radix(text, 8).ok())
        .ok_or_else(|| Error::invalid(format!("a number of a header is damaged: {}", shown(text))))
}

fn positive(field: &[u8]) -> Result<u64> {
    let value = number(field)?;
    u64::try_from(value).map_err(|_| Error::invalid(format!("a size of {value} bytes")))
}

/// The bytes that follow a header. Types that have no content have none, whatever they say.
fn size_field(header: &OldHeader) -> Result<u64> {
    if matches!(header.linkflag[0], b'1'..=b'6') {
        return Ok(0);
    }
    positive(&header.size).doing_with(|| format!("entry {}", shown(until_nul(&header.name))))
}

fn device(header: &Header, which: usize) -> Result<u32> {
    // The same place in ustar and GNU; version 7 had no devices.
    let field = &header.as_bytes()[329 + 8 * which..337 + 8 * which];
    let name = header.path_bytes();
    number(field)
        .and_then(|value| {
            u32::try_from(value).map_err(|_| Error::invalid(format!("a device number {value}")))
        })
        .doing_with(|| format!("entry {}", shown(&name)))
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(field)
}

/// A name as it may be printed: control characters escaped, length bounded.
pub(in crate::image) fn shown(name: &[u8]) -> String {
    let cut = &name[..name.len().min(200)];
    let dots = if cut.len() < name.len() { "…" } else { "" };
    let text: Cow<'_, str> = String::from_utf8_lossy(cut);
    format!("\"{}{dots}\"", text.escape_debug())
}

fn ended() -> Error {
    Error::invalid("the tar ends in the middle of an entry")
}

/// The stream behind a buffer that lends out its bytes.
struct Input<'a> {
    stream: &'a mut dyn Read,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<'a> Input<'a> {
    fn new(stream: &'a mut dyn Read) -> Self {
        Self { stream, buffer: vec![0; BUFFER].into(), start: 0, end: 0 }
    }

    /// Bytes in the buffer; 0 at the stream's end.
    fn fill(&mut self) -> Result<usize> {
        while self.start == self.end {
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Ok(0),
                Ok(length) => (self.start, self.end) = (0, length),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err).doing("read the tar"),
            }
        }
        Ok(self.end - self.start)
    }

    /// Between 1 and `limit` bytes; none only if `limit` is 0.
    fn take(&mut self, limit: u64) -> Result<&[u8]> {
        if limit > 0 && self.fill()? == 0 {
            return Err(ended());
        }
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(self.end - self.start);
        self.start += length;
        Ok(&self.buffer[self.start - length..self.start])
    }

    fn skip(&mut self, mut amount: u64) -> Result<()> {
        while amount > 0 {
            amount -= self.take(amount)?.len() as u64;
        }
        Ok(())
    }

    /// A whole block, or `false` if the stream ended before it.
    fn block(&mut self, block: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            if self.fill()? == 0 {
                return if filled == 0 { Ok(false) } else { Err(ended()) };
            }
            let bytes = self.take((block.len() - filled) as u64)?;
            block[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
        }
        Ok(true)
    }
}
