//! As much D-Bus as two method calls need: connect, authenticate, call, wait for a signal.
//!
//! The D-Bus Specification, "Type System", "Message Protocol" and "Authentication Protocol".
//! Little-endian, no descriptors. What the other side sends is bounds-checked and bounded.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use crate::error::{Context as _, Error, Result};

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

// Header fields: the specification's "Header Fields" table.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Far above anything systemd sends here; the specification allows 128 MiB.
const LONGEST: usize = 1 << 20;

/// Whom to call and what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
}

/// An open, authenticated connection: to a bus, or straight to its one peer.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    serial: u32,
    deadline: Instant,
    /// Signals that came while a reply was awaited.
    signals: Vec<Message>,
}

/// A refusal by the other side, told apart by its name.
#[derive(Debug)]
pub(crate) enum Refusal {
    Named { name: String, says: String },
    Broken(Error),
}

impl From<Error> for Refusal {
    fn from(err: Error) -> Self {
        Self::Broken(err)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Named { name, says } if says.is_empty() => Self::engine(name),
            Refusal::Named { says, .. } => Self::engine(says),
            Refusal::Broken(err) => err,
        }
    }
}

impl Connection {
    /// Authenticates as `uid` by the socket's credentials (mechanism EXTERNAL). Everything on
    /// this connection must be over within `patience`.
    pub(crate) fn open(stream: UnixStream, uid: u32, patience: Duration) -> Result<Self> {
        let deadline = Instant::now() + patience;
        let mut connection = Self { stream, serial: 0, deadline, signals: Vec::new() };
        connection.authenticate(uid).doing("authenticate")?;
        Ok(connection)
    }

    fn authenticate(&mut self, uid: u32) -> Result<()> {
        use std::fmt::Write as _;

        // The uid's decimal digits, each in hexadecimal. All three lines at once: whoever
        // rejects the first closes the connection.
        let mut auth = String::from("\0AUTH EXTERNAL ");
        for digit in uid.to_string().bytes() {
            // Writing to a string cannot fail.
            let _ = write!(auth, "{digit:02x}");
        }
        auth.push_str("\r\nBEGIN\r\n");
        self.stream.write_all(auth.as_bytes()).doing("write")?;

        let line = self.line()?;
        if line.starts_with("OK ") {
            return Ok(());
        }
        Err(Error::engine(format!("the other side answered {line:?}")))
    }

    /// Bytewise: what follows the line is already the message stream.
    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 512 {
            let mut byte = [0];
            self.fill(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Calls and waits for the reply.
    pub(crate) fn call(&mut self, method: Method<'_>, body: &Body) -> Result<Message, Refusal> {
        self.serial += 1;
        let bytes = encode(self.serial, method, body)?;
        self.stream.write_all(&bytes).doing("write")?;
        loop {
            let message = self.receive()?;
            match message.kind {
                METHOD_RETURN if message.reply_serial == self.serial => return Ok(message),
                ERROR if message.reply_serial == self.serial => {
                    let says = message.arguments().string().unwrap_or_default();
                    return Err(Refusal::Named { name: message.error, says });
                }
                SIGNAL => self.signals.push(message),
                // A call to us, or an answer nobody waits for.
                _ => {}
            }
        }
    }

    /// The first signal, past or future, for which `wanted` has an answer.
    pub(crate) fn wait_signal<T>(&mut self, wanted: impl Fn(&Message) -> Option<T>) -> Result<T> {
        if let Some(found) = self.signals.iter().find_map(&wanted) {
            return Ok(found);
        }
        loop {
            let message = self.receive()?;
            if message.kind == SIGNAL
                && let Some(found) = wanted(&message)
            {
                return Ok(found);
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        let mut fixed = [0; 16];
        self.fill(&mut fixed)?;
        let mut start = Reader { bytes: &fixed, at: 0 };
        let (endian, kind) = (start.byte()?, start.byte()?);
        if endian != b'l' {
            return Err(Error::engine("a D-Bus message in an unexpected byte order"));
        }
        start.at = 4;
        let (body, _serial, fields) = (start.length()?, start.u32()?, start.length()?);
        let header = fields.next_multiple_of(8);
        if body > LONGEST || header > LONGEST {
            return Err(Error::engine("a D-Bus message of unreasonable length"));
        }
        let mut rest = vec![0; header + body];
        self.fill(&mut rest)?;
        let mut message = Message { kind, body: rest.split_off(header), ..Message::default() };
        rest.truncate(fields);
        message.read_fields(&rest)?;
        Ok(message)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // Zero would mean for ever.
        let left = left.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(left)).doing("set a timeout")?;
        match self.stream.read_exact(buffer) {
            Err(err) if matches!(err.kind(), io::ErrorKind::WouldBlock) => {
                Err(Error::engine("no answer in time"))
            }
            Err(err) if matches!(err.kind(), io::ErrorKind::UnexpectedEof) => {
                Err(Error::engine("the connection was closed"))
            }
            result => result.doing("read"),
        }
    }
}

/// A message that came in, as far as anyone here looks.
#[derive(Debug, Default)]
pub(crate) struct Message {
    kind: u8,
    reply_serial: u32,
    pub(crate) member: String,
    error: String,
    body: Vec<u8>,
}

impl Message {
    /// The arguments, to be read in order. The caller knows their types.
    pub(crate) fn arguments(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0 }
    }

    fn read_fields(&mut self, bytes: &[u8]) -> Result<()> {
        let mut fields = Reader { bytes, at: 0 };
        while fields.at < bytes.len() {
            // The array begins at byte 16 of the message, so alignment is the same from 0.
            fields.align(8);
            let code = fields.byte()?;
            match (fields.signature()?.as_str(), code) {
                ("u", REPLY_SERIAL) => self.reply_serial = fields.u32()?,
                ("u", _) => _ = fields.u32()?,
                ("s", MEMBER) => self.member = fields.string()?,
                ("s", ERROR_NAME) => self.error = fields.string()?,
                ("s" | "o", _) => _ = fields.string()?,
                ("g", _) => _ = fields.signature()?,
                (other, _) => {
                    return Err(Error::engine(format!("a D-Bus header field of type {other:?}")));
                }
            }
        }
        Ok(())
    }
}

/// Marshalled values, in.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| Error::engine("a D-Bus message ends early"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32> {
        self.align(4);
        let bytes = self.take(4)?.try_into();
        Ok(u32::from_le_bytes(bytes.map_err(|_| Error::engine("four bytes"))?))
    }

    fn length(&mut self) -> Result<usize> {
        Ok(self.u32()? as usize)
    }

    fn text(&mut self, length: usize) -> Result<String> {
        let text = self.take(length)?.to_vec();
        self.take(1)?; // the closing NUL
        String::from_utf8(text).map_err(|_| Error::engine("a D-Bus string is not UTF-8"))
    }

    /// A string or an object path.
    pub(crate) fn string(&mut self) -> Result<String> {
        let length = self.length()?;
        self.text(length)
    }

    fn signature(&mut self) -> Result<String> {
        let length = self.byte()?.into();
        self.text(length)
    }
}

/// Marshalled values, out, with the signature that says what they are.
#[derive(Debug, Default)]
pub(crate) struct Body {
    bytes: Vec<u8>,
    signature: &'static str,
}

impl Body {
    /// An empty body for arguments of these types, to be appended in order.
    pub(crate) fn new(signature: &'static str) -> Self {
        Self { bytes: Vec::new(), signature }
    }

    fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn u32(&mut self, value: u32) {
        self.align(4);
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.align(8);
        self.bytes.extend(value.to_le_bytes());
    }

    /// A string or an object path.
    pub(crate) fn string(&mut self, text: &str) -> Result<()> {
        self.u32(length(text.len())?);
        self.bytes.extend(text.bytes());
        self.bytes.push(0);
        Ok(())
    }

    fn signature(&mut self, text: &str) -> Result<()> {
        let short = u8::try_from(text.len());
        self.bytes.push(short.map_err(|_| Error::engine("a D-Bus signature is too long"))?);
        self.bytes.extend(text.bytes());
        self.bytes.push(0);
        Ok(())
    }

    /// An array. Its length counts neither itself nor the padding before the first element.
    pub(crate) fn array(
        &mut self,
        align: usize,
        elements: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.u32(0);
        let at = self.bytes.len() - 4;
        self.align(align);
        let start = self.bytes.len();
        elements(self)?;
        let count = length(self.bytes.len() - start)?;
        self.bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
        Ok(())
    }

    /// An array of `u`.
    pub(crate) fn numbers(&mut self, values: &[u32]) -> Result<()> {
        self.array(4, |body| {
            values.iter().for_each(|&value| body.u32(value));
            Ok(())
        })
    }

    /// A `(sv)`: a name, and a value of the type it says.
    pub(crate) fn property(&mut self, name: &str, value: Value<'_>) -> Result<()> {
        self.align(8);
        self.string(name)?;
        match value {
            Value::Text(text) => {
                self.signature("s")?;
                self.string(text)
            }
            Value::Flag(flag) => {
                self.signature("b")?;
                self.u32(flag.into());
                Ok(())
            }
            Value::Number(number) => {
                self.signature("t")?;
                self.u64(number);
                Ok(())
            }
            Value::Numbers(values) => {
                self.signature("au")?;
                self.numbers(values)
            }
        }
    }
}

/// What a property can hold here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Text(&'a str),
    Flag(bool),
    Number(u64),
    Numbers(&'a [u32]),
}

fn length(bytes: usize) -> Result<u32> {
    u32::try_from(bytes).map_err(|_| Error::engine("a D-Bus message is too long"))
}

fn encode(serial: u32, method: Method<'_>, body: &Body) -> Result<Vec<u8>> {
    let mut message = Body::default();
    // Endianness, type, flags, protocol version.
    message.bytes.extend([b'l', METHOD_CALL, 0, 1]);
    message.u32(length(body.bytes.len())?);
    message.u32(serial);
    let fields = [
        (PATH, "o", method.path),
        (INTERFACE, "s", method.interface),
        (MEMBER, "s", method.member),
        (DESTINATION, "s", method.destination),
    ];
    message.array(8, |header| {
        for (code, signature, text) in fields {
            header.align(8);
            header.bytes.push(code);
            header.signature(signature)?;
            header.string(text)?;
        }
        if !body.signature.is_empty() {
            header.align(8);
            header.bytes.push(SIGNATURE);
            header.signature("g")?;
            header.signature(body.signature)?;
        }
        Ok(())
    })?;
    message.align(8);
    message.bytes.extend(&body.bytes);
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METHOD: Method<'_> =
        Method { destination: "a.b", path: "/x", interface: "a.b.C", member: "Do" };

    fn reply(kind: u8, fields: &[(u8, &str, &str)], serial: u32, body: &Body) -> Vec<u8> {
        let mut message = Body::default();
        message.bytes.extend([b'l', kind, 0, 1]);
        message.u32(length(body.bytes.len()).expect("short"));
        message.u32(9);
        message
            .array(8, |header| {
                header.align(8);
                header.bytes.push(REPLY_SERIAL);
                header.signature("u")?;
                header.u32(serial);
                for (code, signature, text) in fields {
                    header.align(8);
                    header.bytes.push(*code);
                    header.signature(signature)?;
                    header.string(text)?;
                }
                Ok(())
            })
            .expect("encode");
        message.align(8);
        message.bytes.extend(&body.bytes);
        message.bytes
    }

    /// A peer that answers authentication and one call with `answers`.
    fn against(answers: &[u8]) -> (Connection, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().expect("pair");
        theirs.write_all(b"OK 0123\r\n").expect("write");
        theirs.write_all(answers).expect("write");
        let connection = Connection::open(ours, 1000, Duration::from_secs(5)).expect("open");
        let mut said = [0; 32];
        theirs.read_exact(&mut said).expect("read");
        assert_eq!(&said, b"\0AUTH EXTERNAL 31303030\r\nBEGIN\r\n");
        (connection, theirs)
    }

    #[test]
    fn a_call_is_marshalled_to_the_byte() {
        let mut body = Body::new("su");
        body.string("hi").expect("short");
        body.u32(7);
        let bytes = encode(1, METHOD, &body).expect("encode");
        let expected: &[u8] = b"l\x01\0\x01\x0c\0\0\0\x01\0\0\0\x48\0\0\0\
            \x01\x01o\0\x02\0\0\0/x\0\0\0\0\0\0\
            \x02\x01s\0\x05\0\0\0a.b.C\0\0\0\
            \x03\x01s\0\x02\0\0\0Do\0\0\0\0\0\0\
            \x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0\
            \x08\x01g\0\x02su\0\
            \x02\0\0\0hi\0\0\x07\0\0\0";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn replies_signals_and_errors_are_told_apart() {
        let mut text = Body::new("s");
        text.string("job").expect("short");
        let mut answers = reply(SIGNAL, &[(MEMBER, "s", "Gone")], 0, &text);
        answers.extend(reply(METHOD_RETURN, &[], 1, &text));
        answers.extend(reply(ERROR, &[(ERROR_NAME, "s", "x.Exists")], 2, &text));
        let (mut connection, _peer) = against(&answers);

        let answer = connection.call(METHOD, &Body::default()).expect("reply");
        assert_eq!(answer.arguments().string().expect("string"), "job");
        let member = connection.wait_signal(|signal| Some(signal.member.clone()));
        assert_eq!(member.expect("signal"), "Gone");
        match connection.call(METHOD, &Body::default()) {
            Err(Refusal::Named { name, says }) => {
                assert_eq!((name.as_str(), says.as_str()), ("x.Exists", "job"));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lies_about_lengths_are_errors() {
        let mut long = reply(METHOD_RETURN, &[], 1, &Body::default());
        long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let (mut connection, _peer) = against(&long);
        let err = Error::from(connection.call(METHOD, &Body::default()).expect_err("long"));
        assert_eq!(err.to_string(), "a D-Bus message of unreasonable length");

        let mut inner = reply(METHOD_RETURN, &[(MEMBER, "s", "Do")], 1, &Body::default());
        inner[28] = 200; // the member's length
        let (mut connection, _peer) = against(&inner);
        let err = Error::from(connection.call(METHOD, &Body::default()).expect_err("inner"));
        assert_eq!(err.to_string(), "a D-Bus message ends early");
    }
}
