//! A few instructions that make the last calls of a launch and are nothing else.
//!
//! What is started inside a container may be `/proc/self/exe`, or a script that names it as its
//! interpreter: the kernel then starts the executable of the process that asked for it once
//! more, in reach of the container, which can write to it afterwards (CVE-2019-5736). So dhow is
//! out of the way before: it puts a [`Script`] and the instructions that read it into a memfd
//! which it makes its executable, with all its rights still there. Whoever looks at the process
//! from inside may not look into one that has more capabilities than he, and would find nothing
//! but these instructions, sealed: whoever had this file in hand when the process went on to the
//! next could write to it otherwise, if to nobody's harm.
//!
//! Where the kernel lets a process change its executable (PR_SET_MM_MAP, prctl(2): since Linux
//! 3.18, by CONFIG_CHECKPOINT_RESTORE) it maps the memfd, goes there and gives up every page of
//! dhow's. Anywhere else it starts the memfd as a program of its own, which needs no C library,
//! no memory to write to and a page of stack, and costs a launch a tenth of what starting dhow
//! once more does; the first way costs nearly nothing.

use std::{
    fs::File,
    io::Write as _,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::errno::Errno;
use rustix::process::PrctlMmMap;

use super::{
    process::SingleThreaded,
    script::{Image, Mark, Script},
};

/// A memfd for the program, made while there is still another way if there can be none.
#[derive(Debug)]
pub struct Handoff(OwnedFd);

impl Handoff {
    /// # Errors
    /// `ENOTSUP` on a machine we have no instructions for, `EACCES` where the host lets no memfd
    /// be executed (`vm.memfd_noexec`, kernel 6.3).
    pub fn new() -> Result<Self, Errno> {
        machine_code().ok_or(Errno::ENOTSUP)?;
        memfd().map(Self)
    }

    /// Its descriptor, to be kept open.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Becomes the program. `script` ends with an exec; if a call fails, its mark and the error's
    /// number are sent over `socket`, which closes when the exec succeeds. Returns only if the
    /// program cannot be started.
    pub fn run(
        &self,
        script: Script,
        socket: BorrowedFd<'_>,
        mark: Mark,
        alone: &SingleThreaded,
    ) -> Errno {
        match self.write(script, socket, mark) {
            Ok(size) => {
                self.take_over(size, alone);
                self.exec()
            }
            Err(errno) => errno,
        }
    }

    fn exec(&self) -> Errno {
        super::process::exec_fd(self.fd(), &[c"dhow".to_owned()], &[])
    }

    /// Goes on as the program, in this process's memory. Returns only where that cannot be, with
    /// nothing changed.
    #[cfg(target_arch = "x86_64")]
    fn take_over(&self, size: usize, _alone: &SingleThreaded) {
        let (start, end) = (ADDRESS, ADDRESS + size as u64);
        // Nobody asks this process where its heap or its arguments are any more.
        let map = PrctlMmMap {
            start_code: start,
            end_code: end,
            start_data: start,
            end_data: start,
            start_brk: end,
            brk: end,
            start_stack: start,
            arg_start: start,
            arg_end: start,
            env_start: start,
            env_end: start,
            auxv: std::ptr::null_mut(),
            auxv_size: 0,
            exe_fd: self.0.as_raw_fd(),
        };
        // All would be well, were not the old executable still in use?
        if change_map(&map) != Err(Errno::EBUSY) || self.place(size).is_err() {
            return;
        }
        let (first, length) = own_pages();
        let entry = ADDRESS + HEADERS as u64 + offset_of_take_over();
        // SAFETY: at `entry` are the instructions of `dhow_handoff_here`, in pages that `place` has
        // just mapped to be executed. They take these three registers, use the stack that is
        // here and `map` on it, touch nothing else of this process and never return; no other
        // thread could miss the pages they give up.
        unsafe {
            std::arch::asm!(
                "jmp {entry}",
                entry = in(reg) entry,
                in("rdi") first,
                in("rsi") length,
                in("rdx") &raw const map,
                options(noreturn),
            )
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn take_over(&self, _size: usize, _alone: &SingleThreaded) {}

    /// Maps the program where it expects to be.
    #[cfg(target_arch = "x86_64")]
    fn place(&self, size: usize) -> Result<(), Errno> {
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE;
        let wanted = ADDRESS as *mut libc::c_void;
        // SAFETY: a new mapping of a sealed file at an address where there is none: the kernel
        // refuses to put it over another (MAP_FIXED_NOREPLACE), or, before 4.17, puts it elsewhere.
        let at = unsafe { libc::mmap(wanted, size, protection, flags, self.0.as_raw_fd(), 0) };
        if at == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        if at == wanted { Ok(()) } else { Err(Errno::EEXIST) }
    }

    /// Returns its size.
    fn write(&self, script: Script, socket: BorrowedFd<'_>, mark: Mark) -> Result<usize, Errno> {
        let code = machine_code().ok_or(Errno::ENOTSUP)?;
        let number = u64::try_from(socket.as_raw_fd()).map_err(|_| Errno::EBADF)?;
        super::fd::keep_across_exec(socket)?;
        let mut whole = Script::default();
        whole.forbid_inspection(mark);
        whole.close_on_exec(mark, number);
        whole.append(script);
        // The socket's number, then the script.
        let mut image = Image::of(&whole);
        image.locate(ADDRESS + (HEADERS + code.len()) as u64 + 8);
        let size = HEADERS + code.len() + 8 + 8 * image.words.len();
        let mut bytes = Vec::with_capacity(size);
        bytes.extend(headers(size as u64));
        bytes.extend(code);
        bytes.extend(number.to_le_bytes());
        image.words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        let file = self.0.try_clone().map_err(io)?;
        File::from(file).write_all(&bytes).map_err(io)?;
        super::fd::seal(self.fd())?;
        Ok(size)
    }
}

fn io(err: std::io::Error) -> Errno {
    Errno::from_raw(err.raw_os_error().unwrap_or(libc::EIO))
}

/// Where the program is loaded: above dhow and its heap, below what the kernel places.
const ADDRESS: u64 = 0x10_0000_0000;
/// The file header and two program headers (elf(5)).
const HEADERS: usize = 64 + 2 * 56;

fn headers(size: u64) -> Vec<u8> {
    const EXECUTABLE: u16 = 2;
    const LOAD: u32 = 1;
    const STACK: u32 = 0x6474_e551;
    const READ_EXECUTE: u32 = 5;
    const READ_WRITE: u32 = 6;
    let mut bytes = Vec::with_capacity(HEADERS);
    bytes.extend(*b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    bytes.extend(EXECUTABLE.to_le_bytes());
    bytes.extend(MACHINE.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend((ADDRESS + HEADERS as u64).to_le_bytes()); // the entry
    bytes.extend(64_u64.to_le_bytes()); // the program headers
    bytes.extend(0_u64.to_le_bytes()); // no sections
    bytes.extend(0_u32.to_le_bytes());
    for number in [64_u16, 56, 2, 64, 0, 0] {
        bytes.extend(number.to_le_bytes());
    }
    for (kind, flags, address, size) in
        [(LOAD, READ_EXECUTE, ADDRESS, size), (STACK, READ_WRITE, 0, 0)]
    {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for word in [0, address, address, size, size, 0x1000] {
            bytes.extend(u64::to_le_bytes(word));
        }
    }
    bytes
}

fn memfd() -> Result<OwnedFd, Errno> {
    use rustix::fs::{MemfdFlags, memfd_create};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create("handoff", flags | MemfdFlags::EXEC) {
        // Before 6.3 every memfd may be executed, and the flag is not known.
        Err(rustix::io::Errno::INVAL) => memfd_create("handoff", flags),
        made => made,
    }
    .map_err(super::errno)
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(not(target_arch = "x86_64"))]
const MACHINE: u16 = 0;

#[cfg(not(target_arch = "x86_64"))]
fn machine_code() -> Option<&'static [u8]> {
    None
}

/// Changes what the kernel takes for this process's executable (PR_SET_MM_MAP, prctl(2)).
///
/// # Errors
/// `EBUSY` while pages of the one there is are mapped, `EPERM` without CAP_SYS_ADMIN, `EINVAL`
/// where the kernel does not do that.
#[cfg(target_arch = "x86_64")]
fn change_map(map: &PrctlMmMap) -> Result<(), Errno> {
    // SAFETY: what the kernel notes is read by others, in /proc, and by brk(2), which nobody calls
    // who lets a handoff take over.
    unsafe { rustix::process::configure_virtual_memory_map(map) }.map_err(super::errno)
}

/// The pages that this executable is mapped to, and their length: linkers know both ends.
#[cfg(target_arch = "x86_64")]
fn own_pages() -> (usize, usize) {
    unsafe extern "C" {
        static __ehdr_start: u8;
        static _end: u8;
    }
    const PAGE: usize = 4096;
    let start = (&raw const __ehdr_start).addr() & !(PAGE - 1);
    let end = (&raw const _end).addr().next_multiple_of(PAGE);
    (start, end - start)
}

/// Where, counted from the first instruction, those that take over are.
#[cfg(target_arch = "x86_64")]
fn offset_of_take_over() -> u64 {
    unsafe extern "C" {
        static dhow_handoff: u8;
        static dhow_handoff_here: u8;
    }
    ((&raw const dhow_handoff_here).addr() - (&raw const dhow_handoff).addr()) as u64
}

#[cfg(target_arch = "x86_64")]
fn machine_code() -> Option<&'static [u8]> {
    unsafe extern "C" {
        static dhow_handoff: u8;
        static dhow_handoff_end: u8;
    }
    let (start, end) = (&raw const dhow_handoff, &raw const dhow_handoff_end);
    let length = end.addr() - start.addr();
    // SAFETY: the two symbols stand before and behind the instructions below, which are read-only
    // data of this program like any other.
    Some(unsafe { std::slice::from_raw_parts(start, length) })
}

// rbx is the socket's number with the script behind it, r13 the entry, r12 the error to report
// if none of the programs is there. The numbers are those of the generic errno.h and, for the
// two calls that are not the script's, of arch/x86/entry/syscalls/syscall_64.tbl.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata.dhow_handoff, \"a\", @progbits",
    ".balign 8",
    ".globl dhow_handoff, dhow_handoff_here, dhow_handoff_end",
    ".hidden dhow_handoff, dhow_handoff_here, dhow_handoff_end",
    "dhow_handoff:",
    "1:",
    "lea rbx, [rip + 9f]",
    "lea r13, [rbx + 8]",
    "mov r12d, 2", // ENOENT, unless something better is met
    "2:",
    "mov rax, [r13]",
    "mov r15d, [r13 + 56]", // what a failure is reported as
    "cmp rax, -1",
    "je 6f",
    "mov rdi, [r13 + 8]",
    "mov rsi, [r13 + 16]",
    "mov rdx, [r13 + 24]",
    "mov r10, [r13 + 32]",
    "mov r8, [r13 + 40]",
    "mov r14, [r13 + 48]",
    "cmp r14b, 1", // DIRECTORY: into the stack
    "jne 3f",
    "lea rdi, [rsp - 8192]",
    "3:",
    "add r13, 64",
    "syscall", // destroys rcx and r11
    "test rax, rax",
    "js 4f",
    "cmp r14b, 1",
    "jne 2b",
    "cmp byte ptr [rdi], 0x2f",
    "je 2b",
    "mov eax, 2", // no name below the root
    "jmp 7f",
    "4:",
    "neg eax",
    "cmp r14b, 2",
    "jb 5f",
    // EXEC and SEARCH
    "cmp eax, 2", // ENOENT
    "je 2b",
    "cmp eax, 20", // ENOTDIR
    "je 2b",
    "cmp r14b, 3",
    "jne 7f",
    "cmp eax, 13", // EACCES
    "jne 7f",
    "mov r12d, eax",
    "jmp 2b",
    "5:",
    "shr r14d, 8", // the errno that is no failure
    "cmp r14d, 255",
    "je 2b",
    "cmp r14d, eax",
    "je 2b",
    "jmp 7f",
    "6:",
    "mov eax, r12d",
    "7:",
    // sendto(socket, mark and errno, 8, MSG_NOSIGNAL, NULL, 0)
    "mov [rsp - 16], r15d",
    "mov [rsp - 12], eax",
    "mov edi, [rbx]",
    "lea rsi, [rsp - 16]",
    "mov edx, 8",
    "mov r10d, 0x4000",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "mov eax, 44",
    "syscall",
    // exit_group(125)
    "mov edi, 125",
    "mov eax, 231",
    "syscall",
    "ud2",
    // munmap(rdi, rsi): the pages of dhow; rdx is a struct prctl_mm_map
    "dhow_handoff_here:",
    "mov r15, rdx",
    "mov eax, 11",
    "syscall",
    // prctl(PR_SET_MM, PR_SET_MM_MAP, the struct, its size, 0)
    "mov edi, 35",
    "mov esi, 14",
    "mov rdx, r15",
    "mov r10d, 104",
    "xor r8d, r8d",
    "mov eax, 157",
    "syscall",
    "test rax, rax",
    "jz 1b",
    // All the same, by an exec: execveat(exe_fd, \"\", {\"\", NULL}, {NULL}, AT_EMPTY_PATH)
    "lea rsi, [rip + 8f]",
    "push 0",
    "mov r10, rsp",
    "push rsi",
    "mov rdx, rsp",
    "mov edi, [r15 + 100]",
    "mov r8d, 0x1000",
    "mov eax, 322",
    "syscall",
    "neg eax",
    "lea rbx, [rip + 9f]",
    "mov r15d, [rbx + 64]", // the first entry's report
    "jmp 7b",
    "8:",
    ".byte 0",
    ".balign 8",
    "9:",
    "dhow_handoff_end:",
    ".popsection",
);

#[cfg(test)]
mod tests {
    use std::{
        ffi::{CStr, CString},
        os::unix::net::UnixDatagram,
    };

    use super::*;
    use crate::sys::process;

    /// In this process's memory where it may be, and as a program: both say the same.
    fn run(write: impl Fn(&mut Script), programs: &[&CStr]) -> (Vec<u8>, i32) {
        let whole = run_by(&write, programs, |handoff, _| handoff.exec());
        let here = run_by(&write, programs, |handoff, size| {
            handoff.take_over(size, &SingleThreaded::from_the_start());
            // Root's executable may be changed.
            if nix::unistd::geteuid().is_root() {
                process::exit_now(98);
            }
            handoff.exec()
        });
        assert_eq!(whole, here);
        here
    }

    fn run_by(
        write: impl Fn(&mut Script),
        programs: &[&CStr],
        go: impl FnOnce(&Handoff, usize) -> Errno,
    ) -> (Vec<u8>, i32) {
        let (ours, theirs) = UnixDatagram::pair().expect("a pair");
        let programs: Vec<CString> = programs.iter().map(|path| CString::from(*path)).collect();
        let argv = [c"sh".into(), c"-c".into(), c"exit $NUMBER".into()];
        let mut script = Script::default();
        write(&mut script);
        script.exec(*b"exec", &programs, &argv, &[c"NUMBER=7".into(), c"X=".into()]);
        let handoff = Handoff::new().expect("a memfd that can be executed");
        // SAFETY: the child allocates, which glibc keeps possible after a fork, and ends.
        let child = match unsafe { nix::unistd::fork() }.expect("fork") {
            nix::unistd::ForkResult::Child => {
                let size = handoff.write(script, theirs.as_fd(), *b"self").expect("room");
                let _ = go(&handoff, size);
                process::exit_now(99)
            }
            nix::unistd::ForkResult::Parent { child } => child,
        };
        let status = nix::sys::wait::waitpid(child, None).expect("wait");
        let nix::sys::wait::WaitStatus::Exited(_, code) = status else { panic!("{status:?}") };
        drop(theirs);
        ours.set_nonblocking(true).expect("nonblocking");
        let mut said = [0; 16];
        let length = ours.recv(&mut said).unwrap_or(0);
        (said[..length].to_vec(), code)
    }

    fn said(mark: Mark, errno: Errno) -> (Vec<u8>, i32) {
        ([mark, (errno as i32).to_le_bytes()].concat(), 125)
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn it_becomes_the_first_program_there_is() {
        assert_eq!(run(|_| (), &[c"/bin/sh"]), (vec![], 7));
        let some: &[&CStr] = &[c"/nowhere/sh", c"/etc/passwd/sh", c"/etc", c"/bin/sh"];
        assert_eq!(run(|_| (), some), (vec![], 7));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn it_says_why_there_is_none() {
        assert_eq!(run(|_| (), &[c"/nowhere"]), said(*b"exec", Errno::ENOENT));
        assert_eq!(run(|_| (), &[]), said(*b"exec", Errno::ENOENT));
        assert_eq!(run(|_| (), &[c"/etc"]), said(*b"exec", Errno::EACCES));
        assert_eq!(run(|_| (), &[c"/etc", c"/nowhere"]), said(*b"exec", Errno::EACCES));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_calls_before_are_made_or_said_to_have_failed() {
        let absent = |script: &mut Script| script.enter_directory(*b"into", c"/nowhere");
        assert_eq!(run(absent, &[c"/bin/sh"]), said(*b"into", Errno::ENOENT));
        let entered = |script: &mut Script| {
            script.enter_directory(*b"into", c"/bin");
            script.forbid_new_privileges(*b"priv");
            script.give_stdin(*b"give", 1);
        };
        assert_eq!(run(entered, &[c"./sh"]), (vec![], 7));
    }
}
