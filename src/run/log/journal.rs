//! Output as entries of systemd's journal.
//!
//! One datagram an entry (systemd.io, "Native Journal Protocol"): `FIELD=value` lines, or for a
//! value with newlines the field's name, its length and its bytes. The fields are docker's
//! (moby daemon/logger/journald/journald.go).

use std::{
    io,
    os::{fd::AsFd as _, unix::net::UnixDatagram},
    path::{Path, PathBuf},
};

use super::{
    Lines,
    details::{details, tag},
};
use crate::state::{ContainerId, record::ContainerRecord};

/// Where the journal takes entries (systemd-journald.service(8)).
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// The field of the entry behind a container's last output: its id.
pub const END: &str = "CONTAINER_LOG_END";

/// What every entry says of the container, whatever was asked for.
const FIELDS: [&str; 6] = [
    "CONTAINER_ID",
    "CONTAINER_ID_FULL",
    "CONTAINER_NAME",
    "CONTAINER_TAG",
    "IMAGE_NAME",
    "SYSLOG_IDENTIFIER",
];

/// Whether a field is the journal's own, or one that every entry of a container has.
pub fn is_own_field(name: &str) -> bool {
    name.starts_with('_')
        || FIELDS.contains(&name)
        || ["MESSAGE", "PRIORITY", "SYSLOG_TIMESTAMP", "CONTAINER_PARTIAL_MESSAGE", END]
            .contains(&name)
}

/// Whether this machine has a journal.
pub fn is_there() -> bool {
    Path::new(SOCKET).exists()
}

/// Sends lines to the journal.
#[derive(Debug)]
pub struct JournalWriter {
    lines: Lines,
    outlet: Outlet,
}

#[derive(Debug)]
struct Outlet {
    socket: UnixDatagram,
    /// Named with every entry: a journal that was started again is found again.
    path: PathBuf,
    id: ContainerId,
    /// What every entry says of the container.
    fields: Vec<u8>,
    entry: Vec<u8>,
}

impl JournalWriter {
    pub fn open(record: &ContainerRecord) -> io::Result<Self> {
        Self::to(Path::new(SOCKET), record)
    }

    fn to(path: &Path, record: &ContainerRecord) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        let config = &record.host.log;
        if let Some(size) = config.max_buffer {
            let size = usize::try_from(size).unwrap_or(usize::MAX).min(i32::MAX as usize);
            rustix::net::sockopt::set_socket_send_buffer_size(socket.as_fd(), size)?;
        }
        // What a journal that is behind does not take is lost then, instead of waited for.
        socket.set_nonblocking(config.non_blocking)?;
        let outlet = Outlet {
            socket,
            path: path.to_owned(),
            id: record.id.clone(),
            fields: fields(record),
            entry: Vec::new(),
        };
        Ok(Self { lines: Lines::default(), outlet })
    }

    /// See [`Log::write`](super::Log::write).
    pub fn write(&mut self, is_stderr: bool, bytes: &[u8]) -> io::Result<()> {
        let outlet = &mut self.outlet;
        self.lines.cut(is_stderr, bytes, |piece| {
            outlet.send(is_stderr, piece);
            Ok(())
        })
    }

    /// Sends what is left of unfinished lines.
    pub fn finish(&mut self) -> io::Result<()> {
        let outlet = &mut self.outlet;
        self.lines.finish(|is_stderr, piece| {
            outlet.send(is_stderr, piece);
            Ok(())
        })?;
        outlet.end();
        Ok(())
    }

    /// Gives back the memory that a burst of output took.
    pub fn rest(&mut self) {
        self.outlet.entry = Vec::new();
        self.lines.rest();
    }
}

impl Outlet {
    /// One entry. What the journal does not take is lost to it, and to it alone.
    fn send(&mut self, is_stderr: bool, piece: &[u8]) {
        let (message, is_whole) = match piece.strip_suffix(b"\n") {
            Some(message) => (message, true),
            None => (piece, false),
        };
        self.entry.clear();
        self.entry.extend_from_slice(&self.fields);
        // syslog(3): error, and information.
        let priority: &[u8] = if is_stderr { b"PRIORITY=3\n" } else { b"PRIORITY=6\n" };
        self.entry.extend_from_slice(priority);
        if !is_whole {
            self.entry.extend_from_slice(b"CONTAINER_PARTIAL_MESSAGE=true\n");
        }
        put("SYSLOG_TIMESTAMP", now().as_bytes(), &mut self.entry);
        put("MESSAGE", message, &mut self.entry);
        let _ = self.socket.send_to(&self.entry, &self.path);
    }

    /// That was all. Without a message there is nothing that would be shown.
    fn end(&mut self) {
        self.entry.clear();
        put(END, self.id.as_str().as_bytes(), &mut self.entry);
        put("SYSLOG_TIMESTAMP", now().as_bytes(), &mut self.entry);
        let _ = self.socket.send_to(&self.entry, &self.path);
    }
}

fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}

fn fields(record: &ContainerRecord) -> Vec<u8> {
    let tag = tag(record);
    let mut fields = Vec::new();
    let values = [record.id.short(), record.id.as_str(), &record.name, &tag, &record.image, &tag];
    for (name, value) in FIELDS.into_iter().zip(values) {
        put(name, value.as_bytes(), &mut fields);
    }
    for (name, value) in details(record) {
        if name != "tag" {
            put(&field_name(&name), value.as_bytes(), &mut fields);
        }
    }
    fields
}

/// A field's name: upper case letters, digits and `_`, which it does not begin with.
fn field_name(name: &str) -> String {
    let upper = name.chars().map(|c| match c {
        c if c.is_ascii_alphanumeric() => c.to_ascii_uppercase(),
        _ => '_',
    });
    upper
        .collect::<String>()
        .trim_start_matches(['_', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
        .to_owned()
}

fn put(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_fields_are_made_of_labels() {
        assert_eq!(field_name("com.example/a-b"), "COM_EXAMPLE_A_B");
        assert_eq!(field_name("_1x"), "X");
    }

    #[test]
    fn values_with_newlines_have_a_length() {
        let mut out = Vec::new();
        put("A", b"x", &mut out);
        put("B", b"x\ny", &mut out);
        assert_eq!(out, b"A=x\nB\n\x03\0\0\0\0\0\0\0x\ny\n");
    }
}
