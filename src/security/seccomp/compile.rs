//! From `linux.seccomp` to the program the kernel runs before each call.
//!
//! The program looks at the architecture, searches the call's number among ranges that share
//! an answer (about ten instructions for any call), and for the few calls whose arguments
//! matter runs a block of comparisons. It is assembled from its end to its start: every jump of
//! classic BPF goes forward, so by the time one is written its target has a place.
//!
//! What rules mean is what libseccomp makes of them for runc, because that is what profiles are
//! written against:
//!
//! * a rule without conditions beats those with; of two without, the first counts;
//! * of rules with conditions the first that matches counts (libseccomp leaves it open which);
//! * the conditions of a rule must all hold, unless two look at the same argument: then each is
//!   a rule of its own, as in runc;
//! * a rule that says what the default says is skipped, as in runc;
//! * a call newer than every call the profile names answers ENOSYS where the default is some
//!   other error, as in runc, so that programs fall back;
//! * an architecture the profile does not list, x32 included, ends the process. (libseccomp ends
//!   the thread, and leaves the others of a broken program waiting for it.)
//!
//! Where x86_64 and x32 are both listed, which is the rule, they are searched as one: up to 511
//! their numbers mean the same, and from there on all are x32's. What one of them has and the
//! other lacks the kernel answers with ENOSYS once it is let through. A program of two thirds of
//! the length is installed in two thirds of the time, and every start and `exec` pays for that.
//!
//! **Invariant:** this module makes no system call.

use super::table::{CALLS, NO};
use crate::{
    error::{Context, Error, Result},
    oci::runtime::{
        Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
    },
};

/// The most instructions the kernel takes (`BPF_MAXINSNS`, linux/bpf_common.h).
const MAX_INSTRUCTIONS: usize = 4096;
/// What the kernel calls a call made through the x32 ABI (`__X32_SYSCALL_BIT`).
const X32_BIT: u32 = 0x4000_0000;
/// The number of a call that a tracer wants skipped; it must not be taken for x32's.
const SKIPPED: u32 = u32::MAX;
/// The first number that only x32 has (arch/x86/entry/syscalls/syscall_64.tbl).
const X32_FIRST: u32 = 512;

// linux/audit.h
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARCH_ARM: u32 = 0x4000_0028;

// linux/seccomp.h: what a program returns.
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_KILL_THREAD: u32 = 0x0000_0000;
const RET_TRAP: u32 = 0x0003_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_TRACE: u32 = 0x7ff0_0000;
const RET_LOG: u32 = 0x7ffc_0000;
const RET_ALLOW: u32 = 0x7fff_0000;
/// The action without its data.
const RET_ACTION: u32 = 0xffff_0000;

// linux/filter.h: the instructions used here.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQ: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_GT: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const JUMP_GE: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

// linux/seccomp.h, struct seccomp_data: where to load from.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// One instruction of classic BPF, laid out as `struct sock_filter` (linux/filter.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    /// How many instructions to skip when the comparison holds, and when it does not.
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// Compiles for the architectures listed, and this machine's own.
///
/// Calls and architectures without an entry in our tables are skipped: this machine's kernel, or
/// this build, could not tell them apart from calls that nothing names.
///
/// # Errors
/// An action we do not have (NOTIFY), an error number above 4095, an argument above 5, a machine
/// whose calls we do not know, or a program longer than the kernel takes.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Vec<Instruction>> {
    let abis = abis(seccomp)?;
    let default = answer(seccomp.default_action(), seccomp.default_errno_ret())
        .doing("the default action")?;
    let syscalls = seccomp.syscalls().as_deref().unwrap_or_default();
    let policy = Policy::read(default, syscalls)?;

    let mut code = Assembler::default();
    let mut sections = Vec::new();
    for machine in [&[X86_64, X32][..], &[I386], &[AARCH64], &[ARM]] {
        if machine.iter().any(|abi| abis.contains(abi)) {
            let start = policy.section(machine, &abis, &mut code);
            sections.push((machine[0].audit, start));
        }
    }
    // The last to be written is the first to be tested, and should be this machine's own.
    sections.sort_by_key(|&(audit, _)| NATIVE.is_some_and(|abi| abi.audit == audit));
    let entry = sections.iter().fold(Goal::Answer(RET_KILL_PROCESS), |others, &(audit, start)| {
        code.branch(JUMP_EQ, audit, start, others)
    });
    code.load(ARCH, entry);
    code.finish()
}

/// A set of call numbers the kernel can be entered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Abi {
    /// `AUDIT_ARCH_…`
    audit: u32,
    /// Its column in [`CALLS`].
    column: usize,
    /// What is added to the numbers of the column.
    bit: u32,
    /// Arguments are 32 bits wide.
    narrow: bool,
}

const X86_64: Abi = Abi { audit: AUDIT_ARCH_X86_64, column: 0, bit: 0, narrow: false };
const I386: Abi = Abi { audit: AUDIT_ARCH_I386, column: 1, bit: 0, narrow: true };
const X32: Abi = Abi { audit: AUDIT_ARCH_X86_64, column: 2, bit: X32_BIT, narrow: false };
const AARCH64: Abi = Abi { audit: AUDIT_ARCH_AARCH64, column: 3, bit: 0, narrow: false };
const ARM: Abi = Abi { audit: AUDIT_ARCH_ARM, column: 4, bit: 0, narrow: true };

/// What this program itself runs on.
const NATIVE: Option<Abi> = if cfg!(target_arch = "x86_64") {
    Some(X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(AARCH64)
} else {
    None
};

fn abis(seccomp: &LinuxSeccomp) -> Result<Vec<Abi>> {
    let listed = seccomp.architectures().as_deref().unwrap_or_default();
    let mut abis: Vec<Abi> = NATIVE.into_iter().chain(listed.iter().filter_map(abi)).collect();
    abis.dedup();
    if abis.is_empty() {
        return Err(Error::unsupported("no system call table for this machine")
            .hint("--security-opt seccomp=unconfined runs without a filter"));
    }
    Ok(abis)
}

fn abi(arch: &Arch) -> Option<Abi> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "machines dhow is not built for")]
    match arch {
        Arch::ScmpArchNative => NATIVE,
        Arch::ScmpArchX86_64 => Some(X86_64),
        Arch::ScmpArchX86 => Some(I386),
        Arch::ScmpArchX32 => Some(X32),
        Arch::ScmpArchAarch64 => Some(AARCH64),
        Arch::ScmpArchArm => Some(ARM),
        _ => None,
    }
}

/// What the program returns for an action.
fn answer(action: LinuxSeccompAction, data: Option<u32>) -> Result<u32> {
    let data = data.unwrap_or(libc::EPERM.cast_unsigned());
    match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            Ok(RET_KILL_THREAD)
        }
        LinuxSeccompAction::ScmpActKillProcess => Ok(RET_KILL_PROCESS),
        LinuxSeccompAction::ScmpActTrap => Ok(RET_TRAP),
        LinuxSeccompAction::ScmpActLog => Ok(RET_LOG),
        LinuxSeccompAction::ScmpActAllow => Ok(RET_ALLOW),
        // The kernel would cut a larger number to 4095 (MAX_ERRNO), here to 16 bits.
        LinuxSeccompAction::ScmpActErrno if data <= 4095 => Ok(RET_ERRNO | data),
        LinuxSeccompAction::ScmpActTrace if data <= 0xffff => Ok(RET_TRACE | data),
        LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace => {
            Err(Error::invalid(format!("errnoRet {data} is out of range"))
                .hint("an error number is at most 4095, a tracer's message 65535"))
        }
        LinuxSeccompAction::ScmpActNotify => Err(Error::unsupported(
            "SCMP_ACT_NOTIFY needs a seccomp agent, which dhow does not have",
        )
        .hint("use another action in the seccomp profile")),
    }
}

/// The rules, by call.
struct Policy<'a> {
    default: u32,
    /// For each row of [`CALLS`], what is said of that call.
    calls: Vec<Call<'a>>,
}

#[derive(Clone, Default)]
struct Call<'a> {
    /// Named in a rule, whether that rule says anything or not.
    named: bool,
    /// The answer whatever the arguments.
    always: Option<u32>,
    /// The conditions and the answer where they hold, in the order of the profile.
    cases: Vec<(&'a [LinuxSeccompArg], u32)>,
}

impl<'a> Policy<'a> {
    fn read(default: u32, syscalls: &'a [LinuxSyscall]) -> Result<Self> {
        let mut calls = vec![Call::default(); CALLS.len()];
        for (at, rule) in syscalls.iter().enumerate() {
            let answer =
                answer(rule.action(), rule.errno_ret()).doing_with(|| format!("syscalls[{at}]"))?;
            let args = rule.args().as_deref().unwrap_or_default();
            if let Some(arg) = args.iter().find(|arg| arg.index() > 5) {
                return Err(Error::invalid(format!(
                    "syscalls[{at}]: no argument has the index {}",
                    arg.index()
                )));
            }
            let known = rule.names().iter().filter_map(|name| row(name));
            known.for_each(|row| calls[row].add(args, answer, default));
        }
        Ok(Self { default, calls })
    }

    /// Writes the search over one machine's calls.
    fn section(&self, machine: &[Abi], wanted: &[Abi], code: &mut Assembler) -> Goal {
        let mut ranges = Ranges::default();
        if machine.contains(&X32) && machine.iter().all(|abi| wanted.contains(abi)) {
            self.add_ranges(X86_64, 0, code, &mut ranges);
            self.add_ranges(Abi { bit: 0, ..X32 }, X32_FIRST, code, &mut ranges);
            let search = code.search(&ranges.0);
            let number = code.and(!X32_BIT, search);
            return code.load(NUMBER, number);
        }
        for abi in machine {
            if wanted.contains(abi) {
                self.add_ranges(*abi, 0, code, &mut ranges);
            } else {
                ranges.set(abi.bit, Goal::Answer(RET_KILL_PROCESS));
            }
        }
        if machine.contains(&X32) {
            ranges.set(SKIPPED, Goal::Answer(self.beyond()));
        }
        let search = code.search(&ranges.0);
        code.load(NUMBER, search)
    }

    /// Adds the numbers of an ABI from `first` on.
    fn add_ranges(&self, abi: Abi, first: u32, code: &mut Assembler, ranges: &mut Ranges) {
        let calls = self.calls.iter().zip(&CALLS).filter(|(call, _)| call.named);
        let mut calls: Vec<_> = calls.map(|(call, row)| (row.1[abi.column], call)).collect();
        calls.retain(|&(number, _)| number != NO && number >= first);
        calls.sort_unstable_by_key(|&(number, _)| number);

        let mut next = first;
        for (number, call) in calls {
            if number > next {
                ranges.set(abi.bit | next, Goal::Answer(self.default));
            }
            let goal = match call.always {
                Some(answer) => Goal::Answer(answer),
                None => self.cases(call, abi, code),
            };
            ranges.set(abi.bit | number, goal);
            next = number + 1;
        }
        ranges.set(abi.bit | next, Goal::Answer(self.beyond()));
    }

    /// Writes the comparisons of a call, the last case first.
    fn cases(&self, call: &Call<'_>, abi: Abi, code: &mut Assembler) -> Goal {
        call.cases.iter().rev().fold(Goal::Answer(self.default), |otherwise, &(args, answer)| {
            args.iter().rev().fold(Goal::Answer(answer), |holds, arg| {
                code.compare(arg, abi.narrow, holds, otherwise)
            })
        })
    }

    /// The answer to calls newer than any the profile names.
    fn beyond(&self) -> u32 {
        match self.default & RET_ACTION {
            RET_ERRNO => RET_ERRNO | libc::ENOSYS.cast_unsigned(),
            _ => self.default,
        }
    }
}

impl<'a> Call<'a> {
    fn add(&mut self, args: &'a [LinuxSeccompArg], answer: u32, default: u32) {
        self.named = true;
        if answer == default {
            return;
        }
        let repeats = args
            .iter()
            .enumerate()
            .any(|(at, arg)| args[..at].iter().any(|a| a.index() == arg.index()));
        if args.is_empty() {
            self.always.get_or_insert(answer);
        } else if repeats {
            self.cases.extend(args.chunks(1).map(|one| (one, answer)));
        } else {
            self.cases.push((args, answer));
        }
    }
}

/// The row of a call in [`CALLS`].
fn row(name: &str) -> Option<usize> {
    let name = if name == "sync_file_range2" { "arm_sync_file_range" } else { name };
    CALLS.binary_search_by(|(known, _)| (*known).cmp(name)).ok()
}

/// Call numbers from each start up to the next start, with what becomes of them.
#[derive(Default)]
struct Ranges(Vec<(u32, Goal)>);

impl Ranges {
    /// Begins a range, at a higher number than the last, unless it would only continue that.
    fn set(&mut self, start: u32, goal: Goal) {
        if self.0.last().is_none_or(|&(_, last)| last != goal) {
            self.0.push((start, goal));
        }
    }
}

/// Where a jump should lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// To returning this.
    Answer(u32),
    /// To an instruction.
    At(Label),
}

/// An instruction, by how many follow it in the finished program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label(usize);

/// A program, its last instruction first.
#[derive(Default)]
struct Assembler {
    code: Vec<Instruction>,
    /// For each value the return that was written latest.
    returns: Vec<(u32, Label)>,
}

impl Assembler {
    /// How far a label may lie behind the end to be reached by the instruction after next: a
    /// conditional jump has eight bits, and its other target may need an instruction between.
    const REACH: usize = 254;

    fn push(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.code.push(Instruction { code, jt, jf, k });
        Label(self.code.len() - 1)
    }

    /// How many instructions the next one would have to skip.
    fn skip(&self, to: Label) -> usize {
        self.code.len() - to.0 - 1
    }

    /// An instruction that the next conditional jump can reach and that leads to the goal.
    fn near(&mut self, goal: Goal) -> Label {
        match goal {
            Goal::Answer(value) => self.near_return(value),
            Goal::At(label) if self.skip(label) < Self::REACH => label,
            Goal::At(label) => self.jump(label),
        }
    }

    fn near_return(&mut self, value: u32) -> Label {
        let known = self.returns.iter().position(|&(have, _)| have == value);
        match known.map(|at| (at, self.returns[at].1)) {
            Some((_, label)) if self.skip(label) < Self::REACH => label,
            Some((at, _)) => {
                let label = self.push(RETURN, 0, 0, value);
                self.returns[at].1 = label;
                label
            }
            None => {
                let label = self.push(RETURN, 0, 0, value);
                self.returns.push((value, label));
                label
            }
        }
    }

    /// Goes on elsewhere, as far as need be.
    fn jump(&mut self, to: Label) -> Label {
        let skip = u32::try_from(self.skip(to)).unwrap_or(u32::MAX);
        self.push(JUMP, 0, 0, skip)
    }

    /// Compares what is loaded with a constant.
    fn branch(&mut self, compare: u16, k: u32, holds: Goal, otherwise: Goal) -> Goal {
        if holds == otherwise {
            return holds;
        }
        let (holds, otherwise) = (self.near(holds), self.near(otherwise));
        debug_assert!(self.skip(holds).max(self.skip(otherwise)) <= usize::from(u8::MAX));
        let [jt, jf] = [holds, otherwise].map(|to| self.skip(to).to_le_bytes()[0]);
        Goal::At(self.push(compare, jt, jf, k))
    }

    /// Loads a word of `struct seccomp_data` and goes on.
    fn load(&mut self, offset: u32, then: Goal) -> Goal {
        self.before(then, LOAD, offset)
    }

    /// Keeps some bits of what is loaded and goes on.
    fn and(&mut self, mask: u32, then: Goal) -> Goal {
        self.before(then, AND, mask)
    }

    fn before(&mut self, then: Goal, code: u16, k: u32) -> Goal {
        let then = self.near(then);
        if self.skip(then) != 0 {
            self.jump(then);
        }
        Goal::At(self.push(code, 0, 0, k))
    }

    /// A balanced search for the range that the loaded number is in.
    fn search(&mut self, ranges: &[(u32, Goal)]) -> Goal {
        match ranges {
            [] => Goal::Answer(RET_KILL_PROCESS),
            &[(_, goal)] => goal,
            _ => {
                let (low, high) = ranges.split_at(ranges.len() / 2);
                let (start, _) = high[0];
                let high = self.search(high);
                let low = self.search(low);
                self.branch(JUMP_GE, start, high, low)
            }
        }
    }

    /// Tests one condition. The kernel shows arguments as 64 bits, those of 32-bit calls with
    /// zeros above; there only the lower half of a constant means anything to (in)equality.
    fn compare(
        &mut self,
        arg: &LinuxSeccompArg,
        narrow: bool,
        holds: Goal,
        otherwise: Goal,
    ) -> Goal {
        use LinuxSeccompOperator as Op;
        let (at, value) = (arg.index(), arg.value());
        let all = if narrow { u64::from(u32::MAX) } else { u64::MAX };
        match arg.op() {
            Op::ScmpCmpEq => self.equal(at, all, value & all, holds, otherwise),
            Op::ScmpCmpNe => self.equal(at, all, value & all, otherwise, holds),
            Op::ScmpCmpMaskedEq => {
                let wanted = arg.value_two().unwrap_or(0);
                self.equal(at, value & all, wanted & all, holds, otherwise)
            }
            Op::ScmpCmpGe => self.above(JUMP_GE, at, value, holds, otherwise),
            Op::ScmpCmpLt => self.above(JUMP_GE, at, value, otherwise, holds),
            Op::ScmpCmpGt => self.above(JUMP_GT, at, value, holds, otherwise),
            Op::ScmpCmpLe => self.above(JUMP_GT, at, value, otherwise, holds),
        }
    }

    /// Whether the masked argument is `value`.
    fn equal(&mut self, at: usize, mask: u64, value: u64, holds: Goal, otherwise: Goal) -> Goal {
        let low = self.equal_half(low(at), half(mask, 0), half(value, 0), holds, otherwise);
        self.equal_half(high(at), half(mask, 1), half(value, 1), low, otherwise)
    }

    fn equal_half(&mut self, at: u32, mask: u32, value: u32, holds: Goal, otherwise: Goal) -> Goal {
        if mask == 0 {
            return if value == 0 { holds } else { otherwise };
        }
        if holds == otherwise {
            return holds;
        }
        let test = self.branch(JUMP_EQ, value, holds, otherwise);
        let test = if mask == u32::MAX { test } else { self.and(mask, test) };
        self.load(at, test)
    }

    /// Whether the argument is greater than `value`, or also equal to it, as `compare` says.
    fn above(&mut self, compare: u16, at: usize, value: u64, holds: Goal, otherwise: Goal) -> Goal {
        if holds == otherwise || (compare == JUMP_GE && value == 0) {
            return holds;
        }
        let below = self.branch(compare, half(value, 0), holds, otherwise);
        let below = self.load(low(at), below);
        let equal = self.branch(JUMP_EQ, half(value, 1), below, otherwise);
        let above = self.branch(JUMP_GT, half(value, 1), holds, equal);
        self.load(high(at), above)
    }

    fn finish(mut self) -> Result<Vec<Instruction>> {
        if self.code.len() > MAX_INSTRUCTIONS {
            return Err(Error::unsupported(format!(
                "the seccomp profile compiles to {} instructions, the kernel takes {MAX_INSTRUCTIONS}",
                self.code.len()
            ))
            .hint("give it fewer rules with args, or fewer architectures"));
        }
        self.code.reverse();
        Ok(self.code)
    }
}

/// Where an argument's halves are; every architecture here is little-endian.
fn low(arg: usize) -> u32 {
    ARGS + 8 * u32::try_from(arg).unwrap_or(0)
}

fn high(arg: usize) -> u32 {
    low(arg) + 4
}

/// The lower (0) or upper (1) 32 bits.
fn half(value: u64, which: u32) -> u32 {
    u32::try_from(value >> (32 * which) & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
