//! Giving files away where there is nobody to give them to.
//!
//! In a user namespace with one id every `chown` to another one fails with EINVAL, and package
//! managers stop at the first. Unpacking an image absorbs owners for the same reason. This
//! program makes the calls succeed and do nothing; what changes the owner to id 0 still goes to
//! the kernel, which then says what is true of the file.

use super::{Instruction, compile};
use crate::{
    error::{Error, Result},
    oci::runtime::{
        Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
        LinuxSeccompBuilder, LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
    },
};

/// The calls that change an owner, and which of their arguments is the new user; the group is
/// the next (chown(2)).
const CALLS: [(&[&str], usize); 2] =
    [(&["chown", "chown32", "fchown", "fchown32", "lchown", "lchown32"], 1), (&["fchownat"], 2)];

/// A program that allows everything, and answers a change of owner with success.
///
/// # Errors
/// A machine whose calls we do not know (see [`compile()`]).
pub fn absorb_ownership() -> Result<Vec<Instruction>> {
    let mut rules = Vec::new();
    for (names, user) in CALLS {
        for argument in [user, user + 1] {
            rules.push(absorb(names, argument).map_err(incomplete)?);
        }
    }
    let seccomp: LinuxSeccomp = LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(vec![
            Arch::ScmpArchX86,
            Arch::ScmpArchX86_64,
            Arch::ScmpArchX32,
            Arch::ScmpArchArm,
            Arch::ScmpArchAarch64,
        ])
        .syscalls(rules)
        .build()
        .map_err(incomplete)?;
    compile(&seccomp)
}

/// "Leave it as it is" is -1, and more than 0 as well: absorbed, it does nothing either.
fn absorb(names: &[&str], argument: usize) -> Result<LinuxSyscall, oci_spec::OciSpecError> {
    let other: LinuxSeccompArg = LinuxSeccompArgBuilder::default()
        .index(argument)
        .value(0_u64)
        .op(LinuxSeccompOperator::ScmpCmpGt)
        .build()?;
    LinuxSyscallBuilder::default()
        .names(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(0_u32)
        .args(vec![other])
        .build()
}

fn incomplete(err: oci_spec::OciSpecError) -> Error {
    Error::engine(format!("compose a seccomp program: {err}"))
}
