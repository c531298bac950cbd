//! System calls written down, to be made one after another by whoever is in the place for it:
//! this process ([`Script::run`]), or a program that is nothing else ([`handoff`](super::handoff)).
//!
//! What is written down are the last calls of a launch: giving up capabilities, ids and system
//! calls, and the exec. A script can only be made of the calls below, and owns what they point
//! at.
//!
//! A script in memory is a list of entries of eight words: the call's number, five arguments,
//! what to make of a failure, and what to report it as. The last entry has [`END`] for a number.
//! What the arguments point at follows.

use std::ffi::{CStr, CString};

use nix::errno::Errno;

/// How the report of a failure begins.
pub type Mark = [u8; 4];

/// Calls to be made in order; the first that fails ends it.
#[derive(Debug, Default)]
pub struct Script {
    calls: Vec<Call>,
    data: Vec<Data>,
    /// What it is reported as that there was nothing to exec.
    end: Mark,
}

#[derive(Debug)]
struct Call {
    number: libc::c_long,
    args: [Arg; 5],
    failure: u64,
    mark: Mark,
}

#[derive(Debug, Clone, Copy)]
enum Arg {
    Plain(u64),
    /// The address of the script's data.
    At(usize),
}

#[derive(Debug)]
enum Data {
    Bytes(Vec<u8>),
    /// `argv` and `envp`: addresses, a zero behind them.
    Strings(Vec<CString>),
    /// `struct sock_fprog`.
    Program(Vec<u64>),
}

/// The number of the last entry.
pub(super) const END: u64 = u64::MAX;
/// A failure ends the script, unless it is the errno in the second byte; 255 is any.
const PLAIN: u64 = 0;
/// `getcwd`, into memory of whoever makes the call: it must be an absolute path.
const DIRECTORY: u64 = 1;
/// `execve`: if there is no such file, the next one is tried.
const EXEC: u64 = 2;
/// The same, one of several: a file that cannot be executed is remembered, and the next tried.
const SEARCH: u64 = 3;
/// Room for `getcwd`.
const PATH_MAX: usize = 4096;

const fn unless(errno: u64) -> u64 {
    PLAIN | errno << 8
}

const NONE: Arg = Arg::Plain(0);

impl Script {
    fn call(&mut self, mark: Mark, number: libc::c_long, args: [Arg; 5], failure: u64) {
        self.calls.push(Call { number, args, failure, mark });
    }

    fn prctl(&mut self, mark: Mark, option: libc::c_int, args: [u64; 2], failure: u64) {
        let [a, b] = args.map(Arg::Plain);
        let option = Arg::Plain(u64::from(option.cast_unsigned()));
        self.call(mark, libc::SYS_prctl, [option, a, b, NONE, NONE], failure);
    }

    fn datum(&mut self, data: Data) -> Arg {
        self.data.push(data);
        Arg::At(self.data.len() - 1)
    }

    /// Leaves only the capabilities in `keep` in the bounding set (`capabilities(7)`), of those
    /// that this kernel knows.
    pub fn limit_bounding(&mut self, mark: Mark, keep: u64) {
        // CAP_AUDIT_READ, of Linux 3.16: every kernel has those before it.
        const OLDEST_LAST: u64 = 37;
        for capability in (0..64).filter(|n| keep & (1 << n) == 0) {
            let unknown = if capability > OLDEST_LAST { Errno::EINVAL as u64 } else { 0 };
            self.prctl(mark, libc::PR_CAPBSET_DROP, [capability, 0], unless(unknown));
        }
    }

    /// Replaces the supplementary groups (`setgroups(2)`).
    pub fn set_groups(&mut self, mark: Mark, groups: &[u32]) {
        let list = groups.iter().flat_map(|group| group.to_le_bytes()).collect();
        let list = self.datum(Data::Bytes(list));
        let count = Arg::Plain(groups.len() as u64);
        self.call(mark, libc::SYS_setgroups, [count, list, NONE, NONE, NONE], PLAIN);
    }

    /// Installs a seccomp filter (`seccomp(2)`, SECCOMP_SET_MODE_FILTER), its instructions packed
    /// into numbers: code, jt, jf, k from the top down. Needs no_new_privs or CAP_SYS_ADMIN.
    ///
    /// Speculative store bypass is not mitigated on its account (SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    /// Linux 4.17), as the kernel itself has defaulted to since 5.16.
    pub fn install_filter(&mut self, mark: Mark, program: &[u64]) {
        let program = self.datum(Data::Program(program.to_vec()));
        let mode = Arg::Plain(u64::from(libc::SECCOMP_SET_MODE_FILTER));
        let flags = Arg::Plain(libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
        self.call(mark, libc::SYS_seccomp, [mode, flags, program, NONE, NONE], PLAIN);
    }

    /// Becomes this user and group for good: real, effective and saved (`setresuid(2)`).
    /// Permitted capabilities survive it (`PR_SET_KEEPCAPS`); the next `execve` resets that.
    pub fn set_user(&mut self, mark: Mark, uid: u32, gid: u32) {
        self.prctl(mark, libc::PR_SET_KEEPCAPS, [1, 0], PLAIN);
        for (number, id) in [(libc::SYS_setresgid, gid), (libc::SYS_setresuid, uid)] {
            let id = Arg::Plain(u64::from(id));
            self.call(mark, number, [id, id, id, NONE, NONE], PLAIN);
        }
    }

    /// Makes the standard input the user's, if it may be: a terminal's owner may open it again.
    pub fn give_stdin(&mut self, mark: Mark, uid: u32) {
        let (uid, same) = (Arg::Plain(u64::from(uid)), Arg::Plain(u64::from(u32::MAX)));
        self.call(mark, libc::SYS_fchown, [NONE, uid, same, NONE, NONE], unless(255));
    }

    /// Replaces the effective, permitted and inheritable sets (`capset(2)`, version 3).
    pub fn set_capabilities(&mut self, mark: Mark, sets: [u64; 3]) {
        const VERSION_3: u32 = 0x2008_0522;
        let header = [VERSION_3, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let header = self.datum(Data::Bytes(header));
        let halves = sets.map(u64::to_le_bytes);
        let low = halves.iter().flat_map(|set| &set[..4]);
        let high = halves.iter().flat_map(|set| &set[4..]);
        let data = low.chain(high).copied().collect();
        let data = self.datum(Data::Bytes(data));
        self.call(mark, libc::SYS_capset, [header, data, NONE, NONE, NONE], PLAIN);
    }

    /// Replaces the ambient set; each capability must be permitted and inheritable (Linux 4.3).
    pub fn set_ambient(&mut self, mark: Mark, ambient: u64) {
        let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
        let raise = libc::PR_CAP_AMBIENT_RAISE;
        let change = |operation: libc::c_int| u64::from(operation.cast_unsigned());
        self.prctl(mark, libc::PR_CAP_AMBIENT, [change(clear), 0], PLAIN);
        for capability in (0..64).filter(|n| ambient & (1 << n) != 0) {
            self.prctl(mark, libc::PR_CAP_AMBIENT, [change(raise), capability], PLAIN);
        }
    }

    /// Enters a directory and makes sure that it has a name below the root (`getcwd(2)`,
    /// "(unreachable)").
    pub fn enter_directory(&mut self, mark: Mark, path: &CStr) {
        let path = self.datum(Data::Bytes(path.to_bytes_with_nul().to_vec()));
        self.call(mark, libc::SYS_chdir, [path, NONE, NONE, NONE, NONE], PLAIN);
        let size = Arg::Plain(PATH_MAX as u64);
        self.call(mark, libc::SYS_getcwd, [NONE, size, NONE, NONE, NONE], DIRECTORY);
    }

    /// Gives up any privilege a later `execve` could add (`PR_SET_NO_NEW_PRIVS`).
    pub fn forbid_new_privileges(&mut self, mark: Mark) {
        self.prctl(mark, libc::PR_SET_NO_NEW_PRIVS, [1, 0], PLAIN);
    }

    /// Hides this process's memory, executable and descriptors from other processes of the same
    /// user (`PR_SET_DUMPABLE`); the next `execve` undoes it.
    pub(super) fn forbid_inspection(&mut self, mark: Mark) {
        self.prctl(mark, libc::PR_SET_DUMPABLE, [0, 0], PLAIN);
    }

    /// Closes a descriptor when the next program is started.
    pub(super) fn close_on_exec(&mut self, mark: Mark, number: u64) {
        let set = Arg::Plain(u64::from(libc::F_SETFD.cast_unsigned()));
        let flag = Arg::Plain(u64::from(libc::FD_CLOEXEC.cast_unsigned()));
        self.call(mark, libc::SYS_fcntl, [Arg::Plain(number), set, flag, NONE, NONE], PLAIN);
    }

    /// Becomes the first of these programs that there is, as execvp(3) chooses. The last call.
    pub fn exec(&mut self, mark: Mark, programs: &[CString], argv: &[CString], env: &[CString]) {
        let argv = self.datum(Data::Strings(argv.to_vec()));
        let env = self.datum(Data::Strings(env.to_vec()));
        let failure = if programs.len() > 1 { SEARCH } else { EXEC };
        for program in programs {
            let path = self.datum(Data::Bytes(program.as_bytes_with_nul().to_vec()));
            self.call(mark, libc::SYS_execve, [path, argv, env, NONE, NONE], failure);
        }
        self.end = mark;
    }

    /// Puts the calls of `other` behind these.
    pub(super) fn append(&mut self, other: Self) {
        let shift = self.data.len();
        let moved = |arg| match arg {
            Arg::At(index) => Arg::At(index + shift),
            Arg::Plain(_) => arg,
        };
        self.calls.extend(
            other.calls.into_iter().map(|call| Call { args: call.args.map(moved), ..call }),
        );
        self.data.extend(other.data);
        self.end = other.end;
    }

    /// Makes the calls. Returns when all are made, which an exec never lets happen; or what the
    /// first failure is reported as, and why it failed.
    pub fn run(&self) -> Result<(), (Mark, Errno)> {
        let mut image = Image::of(self);
        image.locate(image.words.as_ptr() as u64);
        let mut said = Errno::ENOENT;
        for entry in image.words.chunks_exact(8) {
            let &[number, a, b, c, d, e, failure, mark] = entry else { break };
            let mark = mark_of(mark);
            if number == END {
                return if self.ends_in_exec() { Err((mark, said)) } else { Ok(()) };
            }
            let (kind, tolerated) = (failure & 0xff, failure >> 8);
            match make(number, [a, b, c, d, e], kind == DIRECTORY) {
                Ok(()) => {}
                Err(Errno::ENOENT | Errno::ENOTDIR) if kind >= EXEC => {}
                Err(Errno::EACCES) if kind == SEARCH => said = Errno::EACCES,
                Err(errno) if tolerated == 255 || tolerated == errno as u64 => {}
                Err(errno) => return Err((mark, errno)),
            }
        }
        Ok(())
    }

    fn ends_in_exec(&self) -> bool {
        self.end != Mark::default()
    }
}

fn make(number: u64, args: [u64; 5], into_path: bool) -> Result<(), Errno> {
    let number = libc::c_long::try_from(number).map_err(|_| Errno::ENOSYS)?;
    let [mut a, b, c, d, e] = args;
    let mut path = [0_u8; PATH_MAX];
    if into_path {
        a = path.as_mut_ptr() as u64;
    }
    // SAFETY: only the calls written down above get here, each with as many arguments as it
    // takes. Addresses among them are of the image that the caller holds, which has what the call
    // reads there; the only call that writes to memory is getcwd, which gets `path` and its size.
    let r = unsafe { libc::syscall(number, a, b, c, d, e) };
    Errno::result(r)?;
    if into_path && path[0] != b'/' { Err(Errno::ENOENT) } else { Ok(()) }
}

fn mark_of(word: u64) -> Mark {
    let [a, b, c, d, ..] = word.to_le_bytes();
    [a, b, c, d]
}

/// A script as it is read by those who make its calls.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) words: Vec<u64>,
    /// Which of them are addresses, counted from the first word until they are located.
    addresses: Vec<usize>,
}

impl Image {
    pub(super) fn of(script: &Script) -> Self {
        let entries = 8 * (script.calls.len() + 1);
        let mut image = Self { words: vec![0; entries], addresses: Vec::new() };
        let starts: Vec<usize> = script.data.iter().map(|data| image.put(data)).collect();
        for (index, call) in script.calls.iter().enumerate() {
            let entry = 8 * index;
            image.words[entry] = call.number.cast_unsigned();
            for (at, arg) in (entry + 1..).zip(call.args) {
                match arg {
                    Arg::Plain(word) => image.words[at] = word,
                    Arg::At(data) => image.point(at, starts[data]),
                }
            }
            image.words[entry + 6] = call.failure;
            image.words[entry + 7] = u64::from(u32::from_le_bytes(call.mark));
        }
        image.words[entries - 8] = END;
        image.words[entries - 1] = u64::from(u32::from_le_bytes(script.end));
        image
    }

    /// Makes a word the address of another.
    fn point(&mut self, at: usize, to: usize) {
        self.words[at] = 8 * to as u64;
        self.addresses.push(at);
    }

    /// Says where the first word is going to be.
    pub(super) fn locate(&mut self, base: u64) {
        for at in self.addresses.drain(..) {
            self.words[at] += base;
        }
    }

    fn put(&mut self, data: &Data) -> usize {
        match data {
            Data::Bytes(bytes) => self.put_bytes(bytes),
            Data::Strings(strings) => {
                let list = self.words.len();
                self.words.resize(list + strings.len() + 1, 0);
                for (at, string) in (list..).zip(strings) {
                    let start = self.put_bytes(string.as_bytes_with_nul());
                    self.point(at, start);
                }
                list
            }
            Data::Program(program) => {
                let fprog = self.words.len();
                self.words.extend([program.len() as u64, 0]);
                self.point(fprog + 1, fprog + 2);
                self.words.extend(program.iter().map(|packed| {
                    let [k0, k1, k2, k3, jf, jt, c0, c1] = packed.to_le_bytes();
                    u64::from_le_bytes([c0, c1, jt, jf, k0, k1, k2, k3])
                }));
                fprog
            }
        }
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> usize {
        let start = self.words.len();
        self.words.extend(bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        }));
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process;

    /// The code that a child ends with which makes these calls.
    fn run(write: impl FnOnce(&mut Script)) -> i32 {
        let mut script = Script::default();
        write(&mut script);
        // SAFETY: the child allocates, which glibc keeps possible after a fork, and ends.
        match unsafe { nix::unistd::fork() }.expect("fork") {
            nix::unistd::ForkResult::Child => match script.run() {
                Ok(()) => process::exit_now(100),
                Err((mark, errno)) => process::exit_now(i32::from(mark[0]) + errno as i32),
            },
            nix::unistd::ForkResult::Parent { child } => {
                let status = nix::sys::wait::waitpid(child, None).expect("wait");
                let nix::sys::wait::WaitStatus::Exited(_, code) = status else {
                    panic!("{status:?}")
                };
                code
            }
        }
    }

    fn mark(number: u8) -> Mark {
        [number, 0, 0, 0]
    }

    fn shell(script: &mut Script, line: &str) {
        let argv = [c"sh".into(), c"-c".into(), CString::new(line).expect("no zero")];
        script.exec(mark(100), &[c"/bin/sh".into()], &argv, &[c"A=7".into(), c"".into()]);
    }

    #[test]
    fn calls_are_made_in_order_until_one_fails() {
        assert_eq!(run(|_| ()), 100);
        assert_eq!(run(|script| shell(script, "exit $A")), 7);
        let absent = |script: &mut Script| {
            script.enter_directory(mark(50), c"/nowhere");
            shell(script, "exit 7");
        };
        assert_eq!(run(absent), 50 + Errno::ENOENT as i32);
        let entered = |script: &mut Script| {
            script.enter_directory(mark(50), c"/usr/lib");
            script.forbid_new_privileges(mark(60));
            shell(script, "[ $PWD = /usr/lib ] && grep -q 'NoNewPrivs:.1' /proc/self/status");
        };
        assert_eq!(run(entered), 0);
    }

    #[test]
    fn a_search_goes_on_as_execvp_does() {
        let search = |programs: &[&CStr]| {
            let programs: Vec<CString> = programs.iter().map(|path| CString::from(*path)).collect();
            run(|script| script.exec(mark(100), &programs, &[c"true".into()], &[]))
        };
        assert_eq!(search(&[]), 100 + Errno::ENOENT as i32);
        assert_eq!(search(&[c"/nowhere", c"/etc/passwd/x", c"/etc", c"/bin/true"]), 0);
        assert_eq!(search(&[c"/nowhere"]), 100 + Errno::ENOENT as i32);
        assert_eq!(search(&[c"/etc", c"/nowhere"]), 100 + Errno::EACCES as i32);
        assert_eq!(search(&[c"/etc"]), 100 + Errno::EACCES as i32);
    }

    #[test]
    fn a_filter_is_installed_as_it_was_written() {
        // ld nr; jeq getppid, 0, 1; ret ERRNO|7; ret ALLOW
        let getppid = u64::try_from(libc::SYS_getppid).expect("a number");
        let program = [
            0x20 << 48,
            0x15 << 48 | 1 << 32 | getppid,
            0x06 << 48 | 0x0005_0007,
            0x06 << 48 | 0x7fff_0000,
        ];
        let code = run(|script| {
            script.forbid_new_privileges(mark(10));
            script.install_filter(mark(20), &program);
            shell(script, "grep -q 'Seccomp:.2' /proc/self/status");
        });
        assert_eq!(code, 0);
    }

    #[test]
    fn capabilities_go_and_nothing_is_said_of_unknown_ones() {
        if !nix::unistd::geteuid().is_root() {
            assert_eq!(run(|script| script.limit_bounding(mark(10), 0)), 10 + 1, "EPERM");
            return;
        }
        let code = run(|script| {
            script.limit_bounding(mark(10), 0b11);
            script.set_groups(mark(20), &[7, 8]);
            script.set_user(mark(30), 65_534, 9);
            script.set_capabilities(mark(40), [0b1, 0b11, 0b10]);
            script.set_ambient(mark(50), 0b10);
            shell(
                script,
                "[ \"$(id -u) $(id -G)\" = '65534 9 7 8' ] && grep -q 'CapAmb:.*2$' /proc/self/status && grep -q 'CapBnd:.0000000000000003' /proc/self/status && exit 4",
            );
        });
        assert_eq!(code, 4);
    }
}
