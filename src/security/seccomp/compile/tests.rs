//! The compiled program, run by an interpreter of classic BPF, against what the rules mean.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::security::{
    caps::{self, CapSet},
    seccomp::Profile,
};

/// `struct seccomp_data` (linux/seccomp.h) without the instruction pointer.
#[derive(Debug, Clone, Copy)]
struct Data {
    number: u32,
    audit: u32,
    args: [u64; 6],
}

impl Data {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.audit,
            16..64 => {
                let arg = self.args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) { half(arg, 0) } else { half(arg, 1) }
            }
            _ => panic!("load from {offset}"),
        }
    }
}

/// Runs a program as net/core/filter.c would, and says how many instructions that took.
fn run(program: &[Instruction], data: &Data) -> (u32, usize) {
    let (mut a, mut pc, mut steps) = (0, 0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[pc];
        pc += 1;
        steps += 1;
        let mut jump = |holds| pc += usize::from(if holds { jt } else { jf });
        match code {
            LOAD => a = data.word(k),
            AND => a &= k,
            JUMP_EQ => jump(a == k),
            JUMP_GT => jump(a > k),
            JUMP_GE => jump(a >= k),
            JUMP => pc += k as usize,
            RETURN => return (k, steps),
            _ => panic!("instruction {code:#x}"),
        }
    }
}

fn result(program: &[Instruction], data: &Data) -> u32 {
    run(program, data).0
}

/// What the rules say, by the module's documentation and without any cleverness.
struct Meaning<'a> {
    seccomp: &'a LinuxSeccomp,
    /// For each column of the table, the rules that name a number, in order.
    rules: [BTreeMap<u32, Vec<&'a LinuxSyscall>>; 5],
}

impl<'a> Meaning<'a> {
    fn of(seccomp: &'a LinuxSeccomp) -> Self {
        let mut rules: [BTreeMap<u32, Vec<_>>; 5] = Default::default();
        for rule in seccomp.syscalls().iter().flatten() {
            for (_, numbers) in rule.names().iter().filter_map(|name| row(name)).map(|at| CALLS[at])
            {
                for (column, number) in numbers.into_iter().enumerate().filter(|n| n.1 != NO) {
                    rules[column].entry(number).or_default().push(rule);
                }
            }
        }
        Self { seccomp, rules }
    }

    fn answer(&self, data: &Data) -> u32 {
        let default = self.seccomp.default_action();
        let errno = matches!(default, LinuxSeccompAction::ScmpActErrno);
        let default = answer(default, self.seccomp.default_errno_ret()).expect("a valid action");
        let listed = self.seccomp.architectures().as_deref().unwrap_or_default();
        let x32 = data.audit == AUDIT_ARCH_X86_64 && data.number >= X32_BIT;
        let column = match data.audit {
            AUDIT_ARCH_X86_64 if x32 && listed.contains(&Arch::ScmpArchX32) => 2,
            AUDIT_ARCH_X86_64 if x32 && data.number != SKIPPED => return RET_KILL_PROCESS,
            AUDIT_ARCH_X86_64 => 0,
            AUDIT_ARCH_I386 if listed.contains(&Arch::ScmpArchX86) => 1,
            AUDIT_ARCH_AARCH64 if listed.contains(&Arch::ScmpArchAarch64) => 3,
            AUDIT_ARCH_ARM if listed.contains(&Arch::ScmpArchArm) => 4,
            _ => return RET_KILL_PROCESS,
        };
        let skipped = data.audit == AUDIT_ARCH_X86_64 && data.number == SKIPPED;
        let number = if column == 2 { data.number & !X32_BIT } else { data.number };
        let both = column == 0 && listed.contains(&Arch::ScmpArchX32) || column == 2;
        let column = match number >= X32_FIRST {
            true if both => 2,
            false if both => 0,
            _ => column,
        };
        let newest = self.rules[column].keys().max();
        let newest = newest.filter(|&&newest| !both || column == 0 || newest >= X32_FIRST);
        if skipped || newest.is_none_or(|&newest| number > newest) {
            return if errno { RET_ERRNO | 38 } else { default };
        }

        let says = |rule: &LinuxSyscall| answer(rule.action(), rule.errno_ret()).expect("valid");
        let about = self.rules[column].get(&number).into_iter().flatten();
        let about: Vec<_> = about.filter(|rule| says(rule) != default).collect();
        let blanket = about.iter().find(|rule| rule.args().as_ref().is_none_or(Vec::is_empty));
        let matching = || about.iter().find(|rule| matches(rule, data, matches!(column, 1 | 4)));
        blanket.or_else(matching).map_or(default, |rule| says(rule))
    }
}

fn matches(rule: &LinuxSyscall, data: &Data, narrow: bool) -> bool {
    let args = rule.args().as_deref().unwrap_or_default();
    let different: BTreeSet<_> = args.iter().map(LinuxSeccompArg::index).collect();
    let mut hits = args.iter().map(|arg| holds(arg, data, narrow));
    if different.len() < args.len() { hits.any(|hit| hit) } else { hits.all(|hit| hit) }
}

fn holds(arg: &LinuxSeccompArg, data: &Data, narrow: bool) -> bool {
    let given = data.args[arg.index()];
    let (value, two) = (arg.value(), arg.value_two().unwrap_or(0));
    let same = |v: u64| if narrow { v & 0xffff_ffff } else { v };
    match arg.op() {
        LinuxSeccompOperator::ScmpCmpEq => given == same(value),
        LinuxSeccompOperator::ScmpCmpNe => given != same(value),
        LinuxSeccompOperator::ScmpCmpLt => given < value,
        LinuxSeccompOperator::ScmpCmpLe => given <= value,
        LinuxSeccompOperator::ScmpCmpGt => given > value,
        LinuxSeccompOperator::ScmpCmpGe => given >= value,
        LinuxSeccompOperator::ScmpCmpMaskedEq => given & same(value) == same(two),
    }
}

const MACHINES: [(u32, bool); 5] = [
    (AUDIT_ARCH_X86_64, false),
    (AUDIT_ARCH_I386, true),
    (AUDIT_ARCH_AARCH64, false),
    (AUDIT_ARCH_ARM, true),
    (0xdead_beef, false),
];

/// Every number a table has, its neighbours, and the odd ones.
fn numbers() -> impl Iterator<Item = u32> {
    let odd = [9999, X32_BIT - 1, 0x8000_0000, SKIPPED - 1, SKIPPED];
    (0..600).chain(0xf_0000..0xf_0010).chain((0..600).map(|n| n | X32_BIT)).chain(odd)
}

fn agrees(meaning: &Meaning<'_>, program: &[Instruction], args: [u64; 6]) {
    for (audit, narrow) in MACHINES {
        let args = if narrow { args.map(|arg| arg & 0xffff_ffff) } else { args };
        for number in numbers() {
            let data = Data { number, audit, args };
            assert_eq!(result(program, &data), meaning.answer(&data), "{data:x?}");
        }
    }
}

fn spec(json: &serde_json::Value) -> LinuxSeccomp {
    serde_json::from_value(json.clone()).expect("a seccomp spec")
}

/// Values that are close to each other in all the ways a comparison could get wrong.
fn word() -> impl Strategy<Value = u64> {
    let half = prop_oneof![
        Just(0u64),
        Just(1),
        Just(2),
        Just(0x7fff_ffff),
        Just(0x8000_0000),
        Just(0xffff_fffe),
        Just(0xffff_ffff)
    ];
    prop_oneof![(half.clone(), half).prop_map(|(high, low)| high << 32 | low), any::<u64>()]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (0..CALLS.len()).prop_map(|at| CALLS[at].0.to_owned()),
        2 => prop::sample::select(vec!["read", "openat", "ioctl", "clone"]).prop_map(str::to_owned),
        1 => Just("no_such_call".to_owned()),
    ]
}

fn action() -> impl Strategy<Value = (&'static str, u32)> {
    let actions = vec![
        "SCMP_ACT_ALLOW",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_LOG",
    ];
    (prop::sample::select(actions), 0u32..4)
}

fn seccomp() -> impl Strategy<Value = LinuxSeccomp> {
    let ops = vec!["EQ", "NE", "LT", "LE", "GT", "GE", "MASKED_EQ"];
    let arg = (0usize..6, word(), word(), prop::sample::select(ops)).prop_map(|(index, value, two, op)| {
        serde_json::json!({"index": index, "value": value, "valueTwo": two, "op": format!("SCMP_CMP_{op}")})
    });
    let args = prop::collection::vec(arg, 0..4);
    let names = prop::collection::vec(name(), 1..40);
    let rule = (names, action(), args).prop_map(|(names, (action, errno), args)| {
        serde_json::json!({"names": names, "action": action, "errnoRet": errno, "args": args})
    });
    let arches = vec!["X86_64", "X86", "X32", "AARCH64", "ARM", "MIPS"];
    let arches = prop::sample::subsequence(arches, 0..6);
    (action(), prop::collection::vec(rule, 0..8), arches).prop_map(
        |((action, errno), rules, arches)| {
            let arches: Vec<_> = arches.iter().map(|arch| format!("SCMP_ARCH_{arch}")).collect();
            spec(&serde_json::json!({
                "defaultAction": action, "defaultErrnoRet": errno,
                "architectures": arches, "syscalls": rules,
            }))
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn programs_do_what_their_rules_mean(
        seccomp in seccomp(),
        args in prop::collection::vec(prop::array::uniform6(word()), 4),
    ) {
        // A long profile may be refused for its length, which is not what this is about.
        if let Ok(program) = compile(&seccomp) {
            let meaning = Meaning::of(&seccomp);
            for args in args {
                agrees(&meaning, &program, args);
            }
        }
    }

    #[test]
    fn the_standard_profile_compiles_to_what_it_means(
        bits in any::<u64>(),
        args in prop::array::uniform6(word()),
    ) {
        let seccomp = standard(CapSet::from_bits(bits));
        agrees(&Meaning::of(&seccomp), &compile(&seccomp).expect("it compiles"), args);
    }
}

fn standard(caps: CapSet) -> LinuxSeccomp {
    Profile::standard().expect("it is valid").resolve(caps, (6, 1))
}

/// What the standard profile answers to a call of the x86_64 ABI.
fn asked(caps: CapSet, name: &str, args: &[u64]) -> u32 {
    let program = compile(&standard(caps)).expect("it compiles");
    let number = CALLS[row(name).expect("a call")].1[X86_64.column];
    ask(&program, AUDIT_ARCH_X86_64, number, args)
}

fn ask(program: &[Instruction], audit: u32, number: u32, args: &[u64]) -> u32 {
    let mut six = [0; 6];
    six[..args.len()].copy_from_slice(args);
    result(program, &Data { number, audit, args: six })
}

const EPERM: u32 = RET_ERRNO | 1;
const ENOSYS: u32 = RET_ERRNO | 38;
const EINVAL: u32 = RET_ERRNO | 22;
const EAFNOSUPPORT: u32 = RET_ERRNO | 97;

#[test]
fn the_standard_profile_keeps_its_promises() {
    const NEWUSER: u64 = 0x1000_0000;
    let cases: &[(&str, &[u64], u32)] = &[
        ("read", &[], RET_ALLOW),
        ("execve", &[], RET_ALLOW),
        ("ptrace", &[], RET_ALLOW),
        ("chroot", &[], RET_ALLOW),
        ("futex_waitv", &[], RET_ALLOW),
        ("clone", &[0x11], RET_ALLOW),
        ("clone", &[0x003d_0f00], RET_ALLOW), // pthread_create's
        ("clone", &[NEWUSER | 0x11], EPERM),
        ("clone", &[0x2_0000], EPERM),
        ("clone3", &[], ENOSYS),
        ("unshare", &[NEWUSER], EPERM),
        ("setns", &[], EPERM),
        ("mount", &[], EPERM),
        ("fsopen", &[], EPERM),
        ("open_tree_attr", &[], EPERM),
        ("pivot_root", &[], EPERM),
        ("keyctl", &[], EPERM),
        ("add_key", &[], EPERM),
        ("request_key", &[], EPERM),
        ("io_uring_setup", &[], EPERM),
        ("io_uring_enter", &[], EPERM),
        ("io_uring_register", &[], EPERM),
        ("bpf", &[], EPERM),
        ("userfaultfd", &[], EPERM),
        ("open_by_handle_at", &[], EPERM),
        ("kexec_load", &[], EPERM),
        ("reboot", &[], EPERM),
        ("file_getattr", &[], ENOSYS),
        ("socket", &[1], RET_ALLOW),
        ("socket", &[2], RET_ALLOW),
        ("socket", &[16, 3, 0], RET_ALLOW),
        ("socket", &[16, 3, 9], EINVAL),
        ("socket", &[1, 3, 9], RET_ALLOW),
        ("socket", &[38], EAFNOSUPPORT),
        ("socket", &[40], EAFNOSUPPORT),
        // The kernel takes an int: what stands above it must not help.
        ("socket", &[0x1_0000_0026], EAFNOSUPPORT),
        ("socket", &[0x1_0000_0028], EAFNOSUPPORT),
        ("socket", &[0x1_0000_0010, 3, 0x1_0000_0009], EINVAL),
        ("ioctl", &[0, 0x5401], RET_ALLOW),
        ("ioctl", &[0, 0x5412], EPERM),
        ("ioctl", &[0, 0x1_0000_5412], EPERM),
        ("ioctl", &[0, 0x541c], EPERM),
        ("personality", &[0], RET_ALLOW),
        ("personality", &[8], RET_ALLOW),
        ("personality", &[0x2_0000], RET_ALLOW),
        ("personality", &[0x2_0008], RET_ALLOW),
        ("personality", &[0xffff_ffff], RET_ALLOW),
        ("personality", &[0x40_0000], EPERM), // READ_IMPLIES_EXEC
        ("personality", &[0x4_0000], EPERM),  // ADDR_NO_RANDOMIZE
    ];
    for &(name, args, want) in cases {
        assert_eq!(asked(caps::DEFAULT, name, args), want, "{name} {args:x?}");
    }
}

#[test]
fn each_capability_opens_its_calls() {
    for (cap, names) in [
        ("DAC_READ_SEARCH", "open_by_handle_at"),
        (
            "SYS_ADMIN",
            "mount umount2 unshare setns clone clone3 fsopen bpf perf_event_open syslog sethostname",
        ),
        ("SYS_BOOT", "reboot"),
        ("SYS_CHROOT", "chroot"),
        ("SYS_MODULE", "init_module finit_module delete_module"),
        ("SYS_PACCT", "acct"),
        ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
        ("SYS_RAWIO", "iopl ioperm"),
        ("SYS_TIME", "settimeofday clock_settime"),
        ("SYS_TTY_CONFIG", "vhangup"),
        ("SYS_NICE", "mbind set_mempolicy get_mempolicy"),
        ("SYSLOG", "syslog"),
        ("BPF", "bpf"),
        ("PERFMON", "perf_event_open"),
    ] {
        let with = CapSet::of(&[caps::parse(cap).expect("a capability")]);
        for name in names.split_whitespace() {
            let args = &[0x1000_0000]; // CLONE_NEWUSER, for the one that looks
            assert_eq!(asked(with, name, args), RET_ALLOW, "{name} with {cap}");
            let refused = if name == "clone3" { ENOSYS } else { EPERM };
            assert_eq!(asked(CapSet::EMPTY, name, args), refused, "{name} without {cap}");
        }
    }
    let audit = CapSet::of(&[caps::parse("AUDIT_WRITE").expect("a capability")]);
    assert_eq!(asked(audit, "socket", &[16, 3, 9]), RET_ALLOW);
    let admin = CapSet::of(&[caps::parse("SYS_ADMIN").expect("a capability")]);
    assert_eq!(asked(admin, "ioctl", &[0, 0x5412]), RET_ALLOW);
    assert_eq!(asked(CapSet::ALL, "keyctl", &[]), EPERM);
}

#[test]
fn old_kernels_may_not_trace() {
    let resolved = Profile::standard().expect("it is valid").resolve(caps::DEFAULT, (4, 7));
    let program = compile(&resolved).expect("it compiles");
    assert_eq!(ask(&program, AUDIT_ARCH_X86_64, 101, &[]), EPERM);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_way_into_the_kernel_is_watched() {
    let program = compile(&standard(caps::DEFAULT)).expect("it compiles");
    for (audit, number, args, want) in [
        (AUDIT_ARCH_I386, 21, &[][..], EPERM),             // mount
        (AUDIT_ARCH_I386, 359, &[40], EAFNOSUPPORT),       // socket
        (AUDIT_ARCH_I386, 120, &[0x1000_0000], EPERM),     // clone
        (AUDIT_ARCH_I386, 136, &[0xffff_ffff], RET_ALLOW), // personality
        (AUDIT_ARCH_I386, 9999, &[], ENOSYS),
        (AUDIT_ARCH_X86_64, X32_BIT, &[], RET_ALLOW), // read
        (AUDIT_ARCH_X86_64, X32_BIT | 165, &[], EPERM), // mount
        (AUDIT_ARCH_X86_64, X32_BIT | 514, &[0, 0x5412], EPERM), // ioctl
        (AUDIT_ARCH_X86_64, X32_BIT | 9999, &[], ENOSYS),
        (AUDIT_ARCH_X86_64, 9999, &[], ENOSYS),
        (AUDIT_ARCH_X86_64, SKIPPED, &[], ENOSYS),
        (AUDIT_ARCH_AARCH64, 63, &[], RET_KILL_PROCESS), // read
        (0, 0, &[], RET_KILL_PROCESS),
    ] {
        assert_eq!(ask(&program, audit, number, args), want, "{audit:#x} {number:#x} {args:x?}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn an_architecture_not_listed_ends_the_process() {
    let only = spec(&serde_json::json!({
        "defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}],
    }));
    let program = compile(&only).expect("it compiles");
    assert_eq!(ask(&program, AUDIT_ARCH_X86_64, 0, &[]), RET_ALLOW);
    assert_eq!(ask(&program, AUDIT_ARCH_X86_64, 1, &[]), ENOSYS, "newer than all it names");
    assert_eq!(ask(&program, AUDIT_ARCH_X86_64, X32_BIT, &[]), RET_KILL_PROCESS);
    assert_eq!(ask(&program, AUDIT_ARCH_X86_64, SKIPPED, &[]), ENOSYS);
    assert_eq!(ask(&program, AUDIT_ARCH_I386, 3, &[]), RET_KILL_PROCESS);
}

/// Call by call as docker 28 with its default capabilities, whose resolved profile was read.
#[test]
fn docker_allows_the_same_calls() {
    // Every other call of x86_64 is allowed, with arguments of zero.
    let refused = "_sysctl acct add_key bpf clock_settime create_module delete_module \
        fanotify_init file_getattr file_setattr finit_module fsconfig fsmount fsopen fspick \
        get_kernel_syms get_mempolicy init_module io_uring_enter io_uring_register \
        io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl lookup_dcookie \
        lsm_get_self_attr lsm_list_modules lsm_set_self_attr mbind migrate_pages mount \
        mount_setattr move_mount move_pages nfsservctl open_by_handle_at open_tree \
        open_tree_attr perf_event_open pidfd_getfd pivot_root process_madvise query_module \
        quotactl quotactl_fd reboot request_key set_mempolicy set_mempolicy_home_node \
        setdomainname sethostname setns settimeofday swapoff swapon sysfs syslog umount2 \
        unshare uselib userfaultfd ustat vhangup vserver clone3 afs_syscall getpmsg putpmsg \
        security tuxcall";
    let program = compile(&standard(caps::DEFAULT)).expect("it compiles");
    for (name, columns) in CALLS.iter().filter(|row| row.1[0] != NO) {
        let plain = ask(&program, AUDIT_ARCH_X86_64, columns[0], &[]);
        let want = !refused.split_whitespace().any(|refused| refused == *name);
        assert_eq!(plain == RET_ALLOW, want, "{name}");
    }
}

/// A call in our tables that the profile forgot would answer ENOSYS without anyone's decision.
#[test]
fn the_standard_profile_decides_every_call_we_know() {
    // No kernel of ours has these, or the fallback from them is what programs expect.
    let left_out = "_sysctl afs_syscall bdflush break create_module file_getattr file_setattr \
        ftime get_kernel_syms get_tls getpmsg gtty idle lock mpx nfsservctl prof profil putpmsg \
        query_module security stty tuxcall ulimit usr26 usr32 vserver";
    let everything = standard(CapSet::ALL);
    let named: Vec<&String> =
        everything.syscalls().iter().flatten().flat_map(LinuxSyscall::names).collect();
    for (name, _) in CALLS.iter().filter(|(_, numbers)| numbers[..3] != [NO; 3]) {
        let left = left_out.split_whitespace().any(|left| left == *name);
        assert_ne!(named.iter().any(|known| known == name), left, "{name}");
    }
    for name in named {
        assert!(row(name).is_some(), "{name} is a slip of the pen");
    }
}

#[test]
fn a_call_costs_about_ten_instructions() {
    let program = compile(&standard(caps::DEFAULT)).expect("it compiles");
    assert!(program.len() < 310, "{} instructions", program.len());
    for number in 0..470 {
        let data = Data { number, audit: AUDIT_ARCH_X86_64, args: [0; 6] };
        let (_, steps) = run(&program, &data);
        assert!(steps <= 30, "call {number} takes {steps}");
    }
    let read = Data { number: 0, audit: AUDIT_ARCH_X86_64, args: [0; 6] };
    assert!(run(&program, &read).1 <= 13, "read takes {}", run(&program, &read).1);
}

#[test]
fn the_tables_are_sorted_and_agree_with_this_machine() {
    assert!(CALLS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    let own = |name: &str| CALLS[row(name).expect("a call")].1[NATIVE.expect("known").column];
    for (name, number) in [
        ("read", libc::SYS_read),
        ("execve", libc::SYS_execve),
        ("seccomp", libc::SYS_seccomp),
        ("clone3", libc::SYS_clone3),
        ("futex_waitv", libc::SYS_futex_waitv),
    ] {
        assert_eq!(i64::from(own(name)), number, "{name}");
    }
}

#[test]
fn what_cannot_be_compiled_says_why() {
    let with = |rule: serde_json::Value| {
        let spec =
            spec(&serde_json::json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
        compile(&spec).expect_err("it cannot be compiled").to_string()
    };
    assert_eq!(
        with(serde_json::json!({"names": ["read"], "action": "SCMP_ACT_NOTIFY"})),
        "syscalls[0]: SCMP_ACT_NOTIFY needs a seccomp agent, which dhow does not have"
    );
    assert_eq!(
        with(serde_json::json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096})),
        "syscalls[0]: errnoRet 4096 is out of range"
    );
    let arg = serde_json::json!({"index": 6, "value": 0, "op": "SCMP_CMP_EQ"});
    assert_eq!(
        with(serde_json::json!({"names": ["read"], "action": "SCMP_ACT_TRAP", "args": [arg]})),
        "syscalls[0]: no argument has the index 6"
    );
    let args: Vec<_> = (0..6)
        .map(|at| serde_json::json!({"index": at, "value": u64::MAX, "op": "SCMP_CMP_LT"}))
        .collect();
    let many: Vec<&str> = CALLS.iter().map(|row| row.0).collect();
    let long = with(serde_json::json!({"names": many, "action": "SCMP_ACT_TRAP", "args": args}));
    assert!(long.contains("the kernel takes 4096"), "{long}");
}
