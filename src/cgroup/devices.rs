//! Which devices a cgroup's processes may use: `linux.resources.devices` as a program.
//!
//! Version 2 has no file for this; a BPF program attached to the cgroup is asked instead
//! (admin-guide/cgroup-v2.rst, "Device controller"). It can be attached by the initial user
//! namespace's root only. Elsewhere devices are bound, not made, and `mknod(2)` is refused.

use std::os::fd::AsFd as _;

use nix::errno::Errno;

use super::Cgroup;
use crate::{
    error::{Context as _, Error, Result},
    oci::runtime::{LinuxDeviceCgroup, LinuxDeviceType},
    sys::bpf::{Instruction, attach_device_program, load_device_program},
};

// linux/bpf_common.h, linux/bpf.h: the operations used here.
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const MOVE_REGISTER: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const AND: u8 = 0x57; // BPF_ALU64 | BPF_AND | BPF_K
const SHIFT_RIGHT: u8 = 0x77; // BPF_ALU64 | BPF_RSH | BPF_K
const JUMP_EQUAL: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_NOT_EQUAL: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

// The registers: the answer, the context (`struct bpf_cgroup_dev_ctx`), and what is read of it.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const ACCESS: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

impl Cgroup {
    /// Lets the processes here use the devices that `rules` allow, and no others. The last rule
    /// that matches decides; none matching refuses.
    ///
    /// # Errors
    /// Kind `Unsupported` where this kernel or this caller cannot.
    pub fn restrict_devices(&self, rules: &[LinuxDeviceCgroup]) -> Result<()> {
        let program = compile(rules)?;
        let attached = load_device_program(&program)
            .and_then(|program| attach_device_program(self.dir(), program.as_fd()));
        attached
            .map_err(|errno| {
                if ![Errno::EPERM, Errno::ENOSYS, Errno::EINVAL].contains(&errno) {
                    return Error::from(errno);
                }
                Error::unsupported(format!("no program can decide over devices here: {errno}"))
                    .hint("the kernel needs CONFIG_CGROUP_BPF, and the caller CAP_SYS_ADMIN on the host")
            })
            .doing("restrict the container's devices")
    }
}

/// A rule as `--device-cgroup-rule` writes it: `KIND MAJOR:MINOR ACCESS`, for example
/// `c 42:* rwm`. It allows.
pub fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let bad = || {
        Error::invalid(format!("invalid device cgroup format {text:?}"))
            .hint("write KIND MAJOR:MINOR ACCESS, for example \"c 42:* rwm\"")
    };
    let words: Vec<&str> = text.split(' ').collect();
    let &[kind, numbers, access] = words.as_slice() else { return Err(bad()) };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits => digits.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| bad()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    if access.is_empty() || access.len() > 3 || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(bad());
    }
    Ok(rule(true, kind, number(major)?, number(minor)?, access))
}

/// One entry of `linux.resources.devices`; no number means all.
pub fn rule(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow).set_typ(Some(kind)).set_major(major).set_minor(minor);
    rule.set_access(Some(access.to_owned()));
    rule
}

fn compile(rules: &[LinuxDeviceCgroup]) -> Result<Vec<Instruction>> {
    let mut program = vec![
        load(ACCESS, 0),
        step(MOVE_REGISTER, KIND, ACCESS, 0),
        step(AND, KIND, 0, 0xffff),
        step(SHIFT_RIGHT, ACCESS, 0, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        let block = block(rule)?;
        let always = block.len() == answer(true).len();
        program.extend(block);
        if always {
            // The verifier refuses what can never run.
            return Ok(program);
        }
    }
    program.extend(answer(false));
    Ok(program)
}

/// Answers if the rule matches, else goes on behind itself.
fn block(rule: &LinuxDeviceCgroup) -> Result<Vec<Instruction>> {
    let mut block = Vec::new();
    // linux/bpf.h: BPF_DEVCG_DEV_BLOCK is 1, BPF_DEVCG_DEV_CHAR 2.
    match rule.typ() {
        Some(LinuxDeviceType::B) => block.push(unless(KIND, 1)),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => block.push(unless(KIND, 2)),
        Some(LinuxDeviceType::A) | None => {}
        Some(LinuxDeviceType::P) => return Err(Error::invalid("a fifo is no device")),
    }
    let access = access(rule.access().as_deref().unwrap_or("rwm"))?;
    if access != 7 {
        // An allowing rule must allow all that is asked; a denying one any of it.
        block.push(step(MOVE_REGISTER, SCRATCH, ACCESS, 0));
        let (mask, jump) = match rule.allow() {
            true => (7 & !access, JUMP_NOT_EQUAL),
            false => (access, JUMP_EQUAL),
        };
        block.push(step(AND, SCRATCH, 0, mask));
        block.push(step(jump, SCRATCH, 0, 0));
    }
    for (register, number) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
        if let Some(number) = number.filter(|&number| number >= 0) {
            let number = i32::try_from(number)
                .map_err(|_| Error::invalid(format!("{number} is no device number")))?;
            block.push(unless(register, number));
        }
    }
    block.extend(answer(rule.allow()));
    let end = block.len();
    for (at, instruction) in block.iter_mut().enumerate() {
        if [JUMP_NOT_EQUAL, JUMP_EQUAL].contains(&instruction.code) {
            instruction.offset = i16::try_from(end - at - 1).unwrap_or(i16::MAX);
        }
    }
    Ok(block)
}

/// linux/bpf.h: BPF_DEVCG_ACC_MKNOD is 1, READ 2, WRITE 4.
fn access(text: &str) -> Result<i32> {
    text.chars().try_fold(0, |bits, letter| {
        Ok(bits
            | match letter {
                'm' => 1,
                'r' => 2,
                'w' => 4,
                _ => return Err(Error::invalid(format!("{text:?} is no access to a device"))),
            })
    })
}

fn answer(allow: bool) -> [Instruction; 2] {
    [step(MOVE, ANSWER, 0, i32::from(allow)), step(EXIT, 0, 0, 0)]
}

/// Leaves the block unless `register` holds `value`.
fn unless(register: u8, value: i32) -> Instruction {
    step(JUMP_NOT_EQUAL, register, 0, value)
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction { offset, ..step(LOAD_WORD, register, CONTEXT, 0) }
}

fn step(code: u8, to: u8, from: u8, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset: 0, immediate }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the kernel would answer: `access` bits, kind (1 block, 2 character), numbers.
    fn run(program: &[Instruction], access: u64, kind: u64, major: u64, minor: u64) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0_u64; 11];
        let mut at = 0;
        loop {
            let Instruction { code, registers: pair, offset, immediate } = program[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let value = u64::from(immediate.unsigned_abs());
            at += 1;
            match code {
                LOAD_WORD => registers[to] = context[usize::try_from(offset).expect("offset") / 4],
                MOVE => registers[to] = value,
                MOVE_REGISTER => registers[to] = registers[from],
                AND => registers[to] &= value,
                SHIFT_RIGHT => registers[to] >>= value,
                JUMP_NOT_EQUAL if registers[to] != value => {
                    at += usize::try_from(offset).expect("forward")
                }
                JUMP_EQUAL if registers[to] == value => {
                    at += usize::try_from(offset).expect("forward")
                }
                JUMP_NOT_EQUAL | JUMP_EQUAL => {}
                EXIT => return registers[0],
                other => panic!("code {other:#x}"),
            }
        }
    }

    /// The meaning, from the specification (config-linux.md, "Device cgroup").
    fn allowed(
        rules: &[LinuxDeviceCgroup],
        access: u64,
        kind: u64,
        major: u64,
        minor: u64,
    ) -> bool {
        let same = |number: Option<i64>, is: u64| number.is_none_or(|n| u64::try_from(n) == Ok(is));
        for rule in rules.iter().rev() {
            let kinds = match rule.typ() {
                Some(LinuxDeviceType::B) => kind == 1,
                Some(LinuxDeviceType::C) => kind == 2,
                _ => true,
            };
            let bits = rule.access().as_deref().unwrap_or("rwm").chars().fold(0, |bits, c| {
                bits | match c {
                    'm' => 1,
                    'r' => 2,
                    _ => 4,
                }
            });
            let covers = if rule.allow() { access & !bits == 0 } else { access & bits != 0 };
            if kinds && covers && same(rule.major(), major) && same(rule.minor(), minor) {
                return rule.allow();
            }
        }
        false
    }

    fn rules() -> impl Strategy<Value = Vec<LinuxDeviceCgroup>> {
        let kind = prop_oneof![
            Just(LinuxDeviceType::A),
            Just(LinuxDeviceType::B),
            Just(LinuxDeviceType::C)
        ];
        let number = || prop::option::of(0_i64..3);
        let access = prop::sample::subsequence(vec!['r', 'w', 'm'], 1..=3)
            .prop_map(|letters| letters.into_iter().collect::<String>());
        let one = (any::<bool>(), kind, number(), number(), access).prop_map(
            |(allow, kind, major, minor, access)| rule(allow, kind, major, minor, &access),
        );
        prop::collection::vec(one, 0..6)
    }

    proptest! {
        #[test]
        fn a_program_does_what_its_rules_mean(
            rules in rules(), access in 1_u64..8, kind in 1_u64..3, major in 0_u64..3, minor in 0_u64..3,
        ) {
            let program = compile(&rules).expect("compile");
            let answer = run(&program, access, kind, major, minor);
            prop_assert_eq!(answer == 1, allowed(&rules, access, kind, major, minor));
        }
    }

    #[test]
    fn what_is_no_access_or_device_is_refused() {
        assert!(compile(&[rule(true, LinuxDeviceType::C, None, None, "rx")]).is_err());
        assert!(compile(&[rule(true, LinuxDeviceType::P, None, None, "r")]).is_err());
        assert!(compile(&[rule(true, LinuxDeviceType::C, Some(1 << 40), None, "r")]).is_err());
    }

    #[test]
    fn rules_are_read_as_docker_writes_them() {
        let any = rule(true, LinuxDeviceType::C, Some(42), None, "rwm");
        assert_eq!(parse_rule("c 42:* rwm").expect("rule"), any);
        for bad in ["", "c 42:*", "d 1:1 r", "c 1 r", "c 1:1 x", "c 1:1 rwmr", "c -1:1 r", "c 1:1 "]
        {
            assert!(parse_rule(bad).is_err(), "{bad:?}");
        }
    }
}
