//! Where a container that is prepared waits for its start.
//!
//! Who launched it listens on a socket of its own beside the monitor's, on which nobody is answered
//! before there is a monitor: who attaches, or waits for the end, does so from the first byte on. A
//! start says which streams it wants, hears how it went, and is then attached over the same
//! connection.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    attach::{Frame, Wants},
    monitor::with_short_path,
};
use crate::{
    error::{Context as _, Result},
    state::layout::ContainerPaths,
};

/// For a caller that has come and says nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the socket.
pub fn listen(paths: &ContainerPaths) -> Result<UnixListener> {
    let path = paths.start_socket();
    with_short_path(&path, |path| UnixListener::bind(path)).at(&path)
}

/// Waits for a start; `None` if init ends before one comes. From then on nobody else can come.
pub fn wait(
    gate: &UnixListener,
    paths: &ContainerPaths,
    init: BorrowedFd<'_>,
) -> Result<Option<(UnixStream, Wants)>> {
    loop {
        let mut fds = [init, gate.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(errno) => return Err(errno).doing("wait for the container's start"),
        }
        let [init, _] = fds.map(|fd| fd.any().unwrap_or(false));
        if init {
            return Ok(None);
        }
        // Whoever goes before they have said what they want has changed their mind.
        if let Ok(caller) = accept(gate) {
            let path = paths.start_socket();
            fs::remove_file(&path).at(&path)?;
            return Ok(Some(caller));
        }
    }
}

fn accept(gate: &UnixListener) -> io::Result<(UnixStream, Wants)> {
    let (mut stream, _) = gate.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut bits = [0];
    stream.read_exact(&mut bits)?;
    stream.set_read_timeout(None)?;
    Ok((stream, Wants::from_bits(bits[0])))
}

/// Lets a container that waits go. What is heard on the stream comes first, then frames.
pub fn open(
    paths: &ContainerPaths,
    wants: Wants,
    window: Option<(u16, u16)>,
) -> Result<UnixStream> {
    let path = paths.start_socket();
    let mut stream = with_short_path(&path, |path| UnixStream::connect(path)).at(&path)?;
    let mut ask = || -> io::Result<()> {
        stream.write_all(&[wants.bits()])?;
        // Of one who is not attached nobody reads it.
        match window.filter(|_| wants != Wants::default()) {
            Some((columns, rows)) => Frame::Window(columns, rows).write_to(&mut stream),
            None => Ok(()),
        }
    };
    ask().doing("start the container")?;
    Ok(stream)
}
