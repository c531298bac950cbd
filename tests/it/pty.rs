//! A real terminal with dhow on it.

use std::{
    fs::File,
    io::Write,
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::pty::{Winsize, openpty};

use crate::{
    capture::{Capture, DEADLINE},
    env::{self, Run},
};

/// The person's side of the terminal: types, resizes and reads with deadlines.
#[derive(Debug)]
pub(crate) struct Pty {
    line: String,
    keyboard: File,
    screen: Capture,
    /// How much of the screen `expect` has consumed.
    read: usize,
    child: Child,
}

impl Pty {
    /// Starts `command` with an 80 × 24 terminal as its controlling one. `setsid --ctty` makes it
    /// so: doing it between fork and exec here would need unsafe code.
    pub(crate) fn spawn(line: &str, command: &Command) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let ends = openpty(&size, None).unwrap();
        let end = || -> OwnedFd { ends.slave.try_clone().unwrap() };
        let mut setsid = Command::new("setsid");
        setsid.arg("--ctty").arg("--wait").arg(command.get_program()).args(command.get_args());
        setsid.env_clear().stdin(end()).stdout(end()).stderr(Stdio::from(end()));
        for (key, value) in command.get_envs() {
            setsid.env(key, value.unwrap());
        }
        if let Some(dir) = command.get_current_dir() {
            setsid.current_dir(dir);
        }
        let child = setsid.spawn().unwrap();
        drop(setsid); // and with it our copies of the other end: EOF comes when the child's close
        drop(ends.slave);
        let keyboard = File::from(ends.master);
        let screen = Capture::of(keyboard.try_clone().unwrap());
        Self { line: line.to_owned(), keyboard, screen, read: 0, child }
    }

    /// The process on the terminal.
    pub(crate) fn pid(&self) -> nix::unistd::Pid {
        nix::unistd::Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn send(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` appears after what was expected before; returns what stood in between.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let from = self.read;
        let found = self.screen.wait(DEADLINE, |bytes, _| {
            let new = &bytes[from..];
            let at = new.windows(text.len()).position(|part| part == text.as_bytes())?;
            Some((String::from_utf8_lossy(&new[..at]).into_owned(), from + at + text.len()))
        });
        let Some((before, read)) = found else {
            panic!(
                "{text:?} did not appear on the terminal of `{}`; it shows\n{}",
                self.line,
                self.screen.so_far()
            )
        };
        self.read = read;
        before
    }

    /// Nothing new may appear for `quiet`.
    #[track_caller]
    pub(crate) fn expect_silence(&mut self, quiet: Duration) {
        let from = self.read;
        let more = self.screen.wait(quiet, |bytes, _| {
            (bytes.len() > from).then(|| String::from_utf8_lossy(&bytes[from..]).into_owned())
        });
        assert_eq!(more, None, "`{}` should have been silent", self.line);
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size =
            rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&self.keyboard, size).unwrap();
    }

    /// Whether the terminal is raw, as the process on it left or set it.
    pub(crate) fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.keyboard).unwrap();
        !modes.local_modes.contains(rustix::termios::LocalModes::ICANON)
    }

    /// Waits for the process; the whole screen is its stdout.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Run {
        let code = env::wait(&mut self.child, &self.line);
        let screen = self.screen.whole(DEADLINE).unwrap_or_default();
        Run::new(&self.line, screen, Vec::new(), code)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
