//! Descriptors handed from one process to another, and pipes.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::{Errno, Result},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
};

/// Descriptors in one message, at most.
pub const FDS_MAX: usize = 8;

/// Two ends of a socket that keeps messages apart and tells when the other end is gone.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// The reading and the writing end of a pipe.
pub fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC)
}

/// Asks for room for `size` bytes in a pipe. Whether it is granted is the kernel's affair
/// (pipe(7), "/proc/sys/fs/pipe-user-pages-soft"): a small pipe is slower, not wrong.
pub fn enlarge(pipe: impl AsFd, size: usize) {
    if let Err(err) = fcntl_setpipe_size(pipe, size) {
        log::debug!("a pipe keeps its size: {err}");
    }
}

/// Sends up to [`FDS_MAX`] descriptors as one message.
pub fn send(socket: impl AsFd, fds: &[BorrowedFd<'_>]) -> Result<()> {
    // One byte, because an empty message cannot be told from the end.
    send_with(socket, &[1], fds)
}

/// Sends `bytes`, at least one, and up to [`FDS_MAX`] descriptors as one message.
pub fn send_with(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    loop {
        let sent = sendmsg(&socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL);
        match sent {
            Err(Errno::INTR) => {}
            done => return done.map(drop),
        }
    }
}

/// Waits for a message and takes its descriptors; `None` when the other end is gone.
pub fn receive(socket: impl AsFd) -> Result<Option<Vec<OwnedFd>>> {
    Ok(receive_with(socket, &mut [0])?.map(|(_, fds)| fds))
}

/// As [`receive`], with the message's bytes in `buffer`, and how many they are.
pub fn receive_with(socket: impl AsFd, buffer: &mut [u8]) -> Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &socket,
            &mut [IoSliceMut::new(buffer)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        let count = match received {
            Err(Errno::INTR) => continue,
            Err(err) => return Err(err),
            Ok(message) if message.bytes == 0 => return Ok(None),
            Ok(message) => message.bytes,
        };
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(passed) = message {
                fds.extend(passed);
            }
        }
        return Ok(Some((count, fds)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs::File,
        io::{Read as _, Write as _},
    };

    #[test]
    fn descriptors_arrive_in_order_and_the_end_is_told() {
        let (ours, theirs) = pair().expect("pair");
        let (reader, writer) = pipe().expect("pipe");
        send(&ours, &[reader.as_fd(), writer.as_fd()]).expect("send");
        drop((reader, writer));
        let mut fds = receive(&theirs).expect("receive").expect("a message");
        assert_eq!(fds.len(), 2);
        let (mut writer, mut reader) = (File::from(fds.remove(1)), File::from(fds.remove(0)));
        writer.write_all(b"x").expect("write");
        drop(writer);
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read");
        assert_eq!(text, "x");
        drop(ours);
        assert!(receive(&theirs).expect("receive").is_none());
    }
}
