//! The words between a monitor and those attached to its container.
//!
//! A stream of frames over a Unix socket: one byte that says what it is, the length as four
//! bytes (little-endian), then that many bytes. Both ends are dhow of the same user; a frame
//! that makes no sense ends the connection.

use std::io::{self, IoSlice, Read, Write};

/// The longest payload either side sends.
pub const MAX_PAYLOAD: usize = 64 << 10;

const HEADER: usize = 5;

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Client: first of all, what it wants to hear and whether it will speak.
    Hello(Wants),
    /// Client: bytes for the container's standard input.
    Stdin(Vec<u8>),
    /// Client: there will be no more of them.
    StdinEnd,
    /// Client: the terminal's size, columns and rows.
    Window(u16, u16),
    /// Client: the container's record says something else of its health check.
    Changed,
    /// Monitor: output.
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// Monitor: the container has ended with this code, and everything before this frame was
    /// all its output.
    Exit(i32),
}

/// Which streams a client takes part in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wants {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl Wants {
    pub fn bits(self) -> u8 {
        u8::from(self.stdin) | u8::from(self.stdout) << 1 | u8::from(self.stderr) << 2
    }

    pub fn from_bits(bits: u8) -> Self {
        Self { stdin: bits & 1 != 0, stdout: bits & 2 != 0, stderr: bits & 4 != 0 }
    }
}

impl Frame {
    /// Appends the frame to `out`. Payloads beyond [`MAX_PAYLOAD`] become several frames.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Hello(wants) => put(out, b'h', &[wants.bits()]),
            Self::Stdin(bytes) => put_chunks(out, b'i', bytes),
            Self::StdinEnd => put(out, b'e', &[]),
            Self::Window(columns, rows) => {
                put(out, b'w', &[columns.to_le_bytes(), rows.to_le_bytes()].concat());
            }
            Self::Changed => put(out, b'c', &[]),
            Self::Stdout(bytes) => put_chunks(out, b'o', bytes),
            Self::Stderr(bytes) => put_chunks(out, b'r', bytes),
            Self::Exit(code) => put(out, b'x', &code.to_le_bytes()),
        }
    }

    pub fn write_to(&self, stream: &mut impl Write) -> io::Result<()> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        stream.write_all(&bytes)
    }

    /// Reads one frame; `None` at the end of the stream.
    pub fn read_from(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER];
        match stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(err) if err.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(err) => return Err(err),
        }
        let mut payload = vec![0; payload_length(header).ok_or_else(nonsense)?];
        stream.read_exact(&mut payload)?;
        parse(header[0], payload).map(Some).ok_or_else(nonsense)
    }

    /// Takes the first whole frame off the front of `buffer`; `Ok(None)` if there is none yet.
    fn take(buffer: &mut &[u8]) -> io::Result<Option<Self>> {
        let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let end = HEADER + payload_length(*header).ok_or_else(nonsense)?;
        let Some((frame, rest)) = buffer.split_at_checked(end) else { return Ok(None) };
        *buffer = rest;
        parse(frame[0], frame[HEADER..].to_vec()).map(Some).ok_or_else(nonsense)
    }

    /// Takes every whole frame out of `buffer`; what is left is the beginning of one.
    pub fn take_all(buffer: &mut Vec<u8>) -> io::Result<Vec<Self>> {
        let mut rest = buffer.as_slice();
        let mut frames = Vec::new();
        while let Some(frame) = Self::take(&mut rest)? {
            frames.push(frame);
        }
        let used = buffer.len() - rest.len();
        buffer.drain(..used);
        Ok(frames)
    }
}

/// Bytes on their way to someone who takes them when he can.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// How many of them have gone: the front is not moved for each piece that is taken.
    sent: usize,
}

impl Outbox {
    /// How many bytes are waiting.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether nothing is waiting.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts bytes at the end.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Puts a frame at the end.
    pub fn push(&mut self, frame: &Frame) {
        frame.encode(&mut self.bytes);
    }

    /// Forgets what is waiting.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Writes until all is gone or `stream`, which must not block, takes no more for now.
    pub fn send(&mut self, stream: &mut impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match stream.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(err) => return Err(err),
            }
        }
        // One big burst must not cost memory for the rest of the container's life.
        self.clear();
        Ok(())
    }

    /// Sends output as one frame behind what is waiting. What is taken at once is not copied.
    /// `bytes` are at most [`MAX_PAYLOAD`].
    pub(super) fn send_output(
        &mut self,
        stream: &mut impl Write,
        is_stderr: bool,
        bytes: &[u8],
    ) -> io::Result<()> {
        let header = header(if is_stderr { b'r' } else { b'o' }, bytes.len());
        let mut taken = 0;
        if self.is_empty() {
            taken = match stream.write_vectored(&[IoSlice::new(&header), IoSlice::new(bytes)]) {
                Ok(count) => count,
                Err(err) if would_pass(&err) => 0,
                Err(err) => return Err(err),
            };
        }
        self.extend(&header[taken.min(HEADER)..]);
        self.extend(&bytes[taken.saturating_sub(HEADER)..]);
        Ok(())
    }
}

/// Not an error of the stream, but of the moment.
pub(super) fn would_pass(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn put_chunks(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    bytes.chunks(MAX_PAYLOAD).for_each(|chunk| put(out, kind, chunk));
}

fn put(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.extend(header(kind, payload.len()));
    out.extend(payload);
}

/// `length` is at most [`MAX_PAYLOAD`].
fn header(kind: u8, length: usize) -> [u8; HEADER] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(0).to_le_bytes();
    [kind, a, b, c, d]
}

fn payload_length([_, a, b, c, d]: [u8; HEADER]) -> Option<usize> {
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).ok()?;
    (length <= MAX_PAYLOAD).then_some(length)
}

fn parse(kind: u8, payload: Vec<u8>) -> Option<Frame> {
    Some(match (kind, payload.as_slice()) {
        (b'h', [bits]) => Frame::Hello(Wants::from_bits(*bits)),
        (b'i', _) => Frame::Stdin(payload),
        (b'e', []) => Frame::StdinEnd,
        (b'c', []) => Frame::Changed,
        (b'w', [c0, c1, r0, r1]) => {
            Frame::Window(u16::from_le_bytes([*c0, *c1]), u16::from_le_bytes([*r0, *r1]))
        }
        (b'o', _) => Frame::Stdout(payload),
        (b'r', _) => Frame::Stderr(payload),
        (b'x', [a, b, c, d]) => Frame::Exit(i32::from_le_bytes([*a, *b, *c, *d])),
        _ => return None,
    })
}

fn nonsense() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the other side sent a frame that makes no sense")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire_whole_and_in_pieces() {
        let frames = [
            Frame::Hello(Wants { stdin: true, stdout: false, stderr: true }),
            Frame::Stdin(vec![0, 255, 10]),
            Frame::StdinEnd,
            Frame::Window(80, 24),
            Frame::Changed,
            Frame::Stdout(b"out".to_vec()),
            Frame::Stderr(vec![]),
            Frame::Exit(-1),
        ];
        let mut wire = Vec::new();
        // An empty payload of output is no frame at all.
        frames.iter().for_each(|frame| frame.encode(&mut wire));
        let mut reader = wire.as_slice();
        let mut buffer = Vec::new();
        let mut pieces = Vec::new();
        for byte in &wire {
            buffer.push(*byte);
            pieces.extend(Frame::take_all(&mut buffer).expect("sense"));
        }
        let mut whole = Vec::new();
        while let Some(frame) = Frame::read_from(&mut reader).expect("sense") {
            whole.push(frame);
        }
        let expected: Vec<_> = frames.into_iter().filter(|f| *f != Frame::Stderr(vec![])).collect();
        assert_eq!(pieces, expected);
        assert_eq!(whole, expected);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut huge = vec![b'o', 255, 255, 255, 255];
        assert!(Frame::take_all(&mut huge).is_err());
        let mut unknown = vec![b'?', 0, 0, 0, 0];
        assert!(Frame::take_all(&mut unknown).is_err());
    }

    /// Takes `room` bytes, then none until it is made room again.
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.room -= count;
            self.taken.extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_outbox_loses_nothing_wherever_its_reader_pauses() {
        let expected = [Frame::Stdout(b"one".to_vec()), Frame::Stderr(b"two".to_vec())];
        for room in 0..17 {
            let mut outbox = Outbox::default();
            let mut stream = Narrow { taken: Vec::new(), room };
            outbox.send_output(&mut stream, false, b"one").expect("send");
            outbox.send_output(&mut stream, true, b"two").expect("send");
            assert_eq!(outbox.len() + stream.taken.len(), 16);
            while !outbox.is_empty() {
                stream.room = 1;
                outbox.send(&mut stream).expect("send");
            }
            assert_eq!(Frame::take_all(&mut stream.taken).expect("sense"), expected, "{room}");
        }
    }
}
