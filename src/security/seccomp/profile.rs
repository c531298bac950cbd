//! Profiles in Docker's format, and the one that is used when none is given.
//!
//! The format is that of moby's and podman's `seccomp.json`: the runtime spec's `linux.seccomp`
//! with conditions. Each rule may ask for capabilities, architectures and a kernel version;
//! [`Profile::resolve`] keeps the rules whose conditions hold and leaves the plain spec.
//!
//! A field that a rule does not have is refused, other than in docker: a misspelt `includes`
//! would allow everywhere what was meant for few.

use std::borrow::Cow;

use nix::errno::Errno;
use serde::Deserialize;

use crate::{
    error::{Context, Error, Result},
    oci::runtime::{
        Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
        LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
    },
    security::caps::{self, CapSet},
};

/// Larger than any profile a person keeps (docker's has 13 KiB), and still read in milliseconds.
const MAX_BYTES: usize = 1 << 20;
/// A call has six arguments.
const MAX_ARGS: u8 = 6;
/// The highest error number the kernel lets a filter return (`MAX_ERRNO`).
const MAX_ERRNO: u32 = 4095;

/// Rules about system calls, with the conditions under which each holds.
#[derive(Debug, Clone)]
pub struct Profile<'a> {
    default_action: LinuxSeccompAction,
    default_errno: Option<u32>,
    architectures: Architectures,
    flags: Vec<LinuxSeccompFilterFlag>,
    rules: Vec<Rule<'a>>,
}

#[derive(Debug, Clone)]
enum Architectures {
    /// These, wherever this runs (the runtime spec's own list).
    Listed(Vec<Arch>),
    /// For each main architecture those that it can also execute.
    Mapped(Vec<ArchMap>),
}

#[derive(Debug, Clone)]
struct Rule<'a> {
    names: Vec<Cow<'a, str>>,
    action: LinuxSeccompAction,
    errno: Option<u32>,
    args: Vec<LinuxSeccompArg>,
    includes: Condition<'a>,
    excludes: Condition<'a>,
}

#[derive(Debug, Clone, Default)]
struct Condition<'a> {
    caps: CapSet,
    /// In Go's words: `amd64`, `arm64`, `x86`, …
    arches: Vec<Cow<'a, str>>,
    min_kernel: Option<(u32, u32)>,
}

impl Profile<'static> {
    /// dhow's own profile (`default.json` beside this file, with the reason for each rule).
    ///
    /// At least as strict as docker 28's, except that a call it does not name answers ENOSYS
    /// instead of EPERM, so that programs fall back from calls they find too new. Stricter:
    /// crypto sockets (`AF_ALG`), the audit log's sockets, pushing input into terminals, and
    /// socket families compared as the kernel does, by 32 bits.
    ///
    /// # Errors
    /// None with the file this was built with.
    pub fn standard() -> Result<Self> {
        Self::parse(include_str!("default.json")).doing("read the built-in seccomp profile")
    }
}

impl<'a> Profile<'a> {
    /// Reads a profile in Docker's format.
    ///
    /// # Errors
    /// What is wrong and where: not JSON, a field or value the format does not have, a condition
    /// that cannot be read, or more than a megabyte.
    pub fn parse(json: &'a str) -> Result<Self> {
        if json.len() > MAX_BYTES {
            return Err(Error::invalid(format!("larger than {MAX_BYTES} bytes"))
                .hint("a seccomp profile has some ten thousand; is this the right file?"));
        }
        let text: ProfileText = serde_json::from_str(json).map_err(|err| {
            Error::from(err)
                .hint("docker's format: https://docs.docker.com/engine/security/seccomp")
        })?;
        text.check()
    }

    /// What holds on this architecture for a container with these capabilities in its bounding
    /// set, on a kernel of this (major, minor) version.
    pub fn resolve(&self, caps: CapSet, kernel: (u32, u32)) -> LinuxSeccomp {
        let host = Host { arch: go_arch(std::env::consts::ARCH), caps, kernel };
        let rules = self.rules.iter().filter(|rule| rule.holds(&host));

        let mut spec = LinuxSeccomp::default();
        spec.set_default_action(self.default_action)
            .set_default_errno_ret(self.default_errno)
            .set_syscalls(Some(rules.map(Rule::to_oci).collect()));
        let architectures = self.architectures.on(host.arch);
        spec.set_architectures((!architectures.is_empty()).then_some(architectures));
        spec.set_flags((!self.flags.is_empty()).then(|| self.flags.clone()));
        spec
    }
}

impl Architectures {
    fn on(&self, arch: &str) -> Vec<Arch> {
        match self {
            Self::Listed(list) => list.clone(),
            Self::Mapped(maps) => {
                let own = maps.iter().find(|map| Some(map.architecture) == native(arch));
                own.map_or_else(Vec::new, |map| {
                    let others = map.sub_architectures.iter().flatten();
                    std::iter::once(&map.architecture).chain(others).copied().collect()
                })
            }
        }
    }
}

/// What a rule's conditions look at.
struct Host<'h> {
    arch: &'h str,
    caps: CapSet,
    kernel: (u32, u32),
}

impl Rule<'_> {
    /// As in docker: included when all of `includes` holds, excluded when any of `excludes` does.
    fn holds(&self, host: &Host<'_>) -> bool {
        let Condition { caps, arches, min_kernel } = &self.includes;
        let included = host.caps.intersect(*caps) == *caps
            && (arches.is_empty() || arches.iter().any(|a| a == host.arch))
            && min_kernel.is_none_or(|least| host.kernel >= least);

        let Condition { caps, arches, min_kernel } = &self.excludes;
        let excluded = host.caps.intersect(*caps) != CapSet::EMPTY
            || arches.iter().any(|a| a == host.arch)
            || min_kernel.is_some_and(|least| host.kernel >= least);

        included && !excluded
    }

    fn to_oci(&self) -> LinuxSyscall {
        let mut call = LinuxSyscall::default();
        call.set_names(self.names.iter().map(|name| name.clone().into_owned()).collect())
            .set_action(self.action)
            .set_errno_ret(self.errno)
            .set_args((!self.args.is_empty()).then(|| self.args.clone()));
        call
    }
}

/// Go's name for an architecture, which the format uses, from Rust's.
fn go_arch(rust: &str) -> &str {
    match rust {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn native(go: &str) -> Option<Arch> {
    match go {
        "amd64" => Some(Arch::ScmpArchX86_64),
        "arm64" => Some(Arch::ScmpArchAarch64),
        _ => None,
    }
}

// The text as it stands in the file. `null` is as good as nothing there: Go writes it for every
// empty list.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "a seccomp profile")]
struct ProfileText<'a> {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    /// Podman's spelling by name; it wins over the number.
    #[serde(borrow)]
    default_errno: Option<Cow<'a, str>>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<String>,
    #[serde(borrow)]
    syscalls: Option<Vec<RuleText<'a>>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(
    rename_all = "camelCase",
    deny_unknown_fields,
    expecting = "an architecture with its subArchitectures"
)]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a rule")]
struct RuleText<'a> {
    /// Of the format's first version.
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    names: Option<Vec<Text<'a>>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(borrow)]
    errno: Option<Cow<'a, str>>,
    args: Option<Vec<ArgText>>,
    #[serde(borrow)]
    includes: Option<ConditionText<'a>>,
    #[serde(borrow)]
    excludes: Option<ConditionText<'a>>,
    #[serde(rename = "comment")]
    _comment: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a condition on an argument")]
struct ArgText {
    index: u8,
    value: u64,
    value_two: Option<u64>,
    op: LinuxSeccompOperator,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a condition")]
struct ConditionText<'a> {
    #[serde(borrow)]
    caps: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    arches: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    min_kernel: Option<Cow<'a, str>>,
}

/// A string borrowed where the file spells it without escapes. (serde borrows a plain `Cow` in a
/// field, but never one inside a list.)
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> ProfileText<'a> {
    fn check(self) -> Result<Profile<'a>> {
        let architectures = match (self.architectures, self.arch_map) {
            (Some(list), Some(map)) if !list.is_empty() && !map.is_empty() => {
                return Err(Error::invalid("both architectures and archMap are given")
                    .hint("keep archMap, which suits every machine"));
            }
            (Some(list), _) if !list.is_empty() => Architectures::Listed(list),
            (_, map) => Architectures::Mapped(map.unwrap_or_default()),
        };
        if self.listener_path.is_some_and(|path| !path.is_empty()) {
            return Err(Error::unsupported("listenerPath asks for a seccomp agent")
                .hint("remove listenerPath and the rules with SCMP_ACT_NOTIFY"));
        }
        let rules = self.syscalls.unwrap_or_default().into_iter().enumerate();
        let rules = rules.map(|(at, rule)| rule.check().doing_with(|| format!("syscalls[{at}]")));
        Ok(Profile {
            default_action: self.default_action,
            default_errno: errno(self.default_errno_ret, self.default_errno.as_deref())
                .doing("defaultErrnoRet")?,
            architectures,
            flags: self.flags.unwrap_or_default(),
            rules: rules.collect::<Result<_>>()?,
        })
    }
}

impl<'a> RuleText<'a> {
    fn check(self) -> Result<Rule<'a>> {
        let names: Vec<_> = self.names.into_iter().flatten().map(|name| name.0).collect();
        let names = match self.name {
            Some(_) if !names.is_empty() => {
                return Err(Error::invalid("both name and names are given").hint("keep names"));
            }
            Some(name) if !name.is_empty() => vec![name],
            _ => names,
        };
        Ok(Rule {
            names,
            action: self.action,
            errno: errno(self.errno_ret, self.errno.as_deref())?,
            args: self.args.into_iter().flatten().map(ArgText::check).collect::<Result<_>>()?,
            includes: Condition::check(self.includes).doing("includes")?,
            excludes: Condition::check(self.excludes).doing("excludes")?,
        })
    }
}

impl ArgText {
    fn check(self) -> Result<LinuxSeccompArg> {
        if self.index >= MAX_ARGS {
            return Err(Error::invalid(format!("no argument has the index {}", self.index))
                .hint("a system call has six, 0 to 5"));
        }
        let arg = LinuxSeccompArgBuilder::default().index(self.index).value(self.value).op(self.op);
        let arg = match self.value_two {
            Some(value) => arg.value_two(value),
            None => arg,
        };
        arg.build().map_err(|err| Error::invalid(err.to_string()))
    }
}

impl<'a> Condition<'a> {
    fn check(text: Option<ConditionText<'a>>) -> Result<Self> {
        let Some(ConditionText { caps, arches, min_kernel }) = text else {
            return Ok(Self::default());
        };
        let caps = caps.into_iter().flatten().map(|name| caps::parse(&name.0));
        let min_kernel = min_kernel.filter(|text| !text.is_empty());
        Ok(Self {
            caps: caps.collect::<Result<_>>()?,
            arches: arches.into_iter().flatten().map(|arch| arch.0).collect(),
            min_kernel: min_kernel.as_deref().map(kernel_version).transpose()?,
        })
    }
}

/// `4.8` as (4, 8).
fn kernel_version(text: &str) -> Result<(u32, u32)> {
    let parts = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    parts.ok_or_else(|| {
        Error::invalid(format!("minKernel {text:?} is not a version"))
            .hint("write it as MAJOR.MINOR, for example \"4.8\"")
    })
}

/// The error number of a rule, by number or, in podman's way, by name or by number in a string.
fn errno(number: Option<u32>, name: Option<&str>) -> Result<Option<u32>> {
    let number = match name.filter(|name| !name.is_empty()) {
        Some(name) => Some(errno_named(name)?),
        None => number,
    };
    match number {
        Some(number) if number > MAX_ERRNO => {
            Err(Error::invalid(format!("{number} is not an error number"))
                .hint(format!("the kernel has none above {MAX_ERRNO}")))
        }
        _ => Ok(number),
    }
}

fn errno_named(name: &str) -> Result<u32> {
    let known = match name {
        // Second names of numbers that nix knows by the first.
        "EWOULDBLOCK" => Some(Errno::EWOULDBLOCK as u32),
        "ENOTSUP" => Some(Errno::ENOTSUP as u32),
        "EDEADLOCK" => Some(Errno::EDEADLOCK as u32),
        _ => {
            (1..=133).find(|&n| format!("{:?}", Errno::from_raw(n)) == name).map(i32::cast_unsigned)
        }
    };
    known.or_else(|| name.parse().ok()).ok_or_else(|| {
        Error::invalid(format!("unknown error name {name:?}")).hint("errno(3) lists them")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolved(json: &str, caps: CapSet, kernel: (u32, u32)) -> LinuxSeccomp {
        Profile::parse(json).expect("a valid profile").resolve(caps, kernel)
    }

    /// The names of the calls whose rules hold.
    fn holding(rules: &str, caps: CapSet, kernel: (u32, u32)) -> Vec<String> {
        let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rules}]}}"#);
        let spec = resolved(&json, caps, kernel);
        spec.syscalls().iter().flatten().flat_map(|rule| rule.names().clone()).collect()
    }

    fn complaint(rule: &str) -> String {
        let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{rule}]}}"#);
        Profile::parse(&json).expect_err("it is wrong").to_string()
    }

    #[test]
    fn conditions_hold_as_in_docker() {
        let rule = |name: &str, conditions: &str| {
            format!(r#"{{"names": ["{name}"], "action": "SCMP_ACT_ALLOW", {conditions}}}"#)
        };
        let own = go_arch(std::env::consts::ARCH);
        let rules = [
            rule("plain", r#""includes": {}, "excludes": null, "args": null"#),
            rule("both", r#""includes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}"#),
            rule("neither", r#""excludes": {"caps": ["CAP_CHOWN", "CAP_KILL"]}"#),
            rule("new", r#""includes": {"minKernel": "4.8"}"#),
            rule("old", r#""excludes": {"minKernel": "4.8"}"#),
            rule("own", &format!(r#""includes": {{"arches": ["{own}"]}}"#)),
            rule("foreign", r#""includes": {"arches": ["s390x"]}"#),
            rule("others", &format!(r#""excludes": {{"arches": ["{own}"]}}"#)),
        ]
        .join(",");
        let caps = |names: &[&str]| names.iter().map(|n| caps::parse(n).expect("known")).collect();
        for (have, kernel, want) in [
            (&[][..], (4, 7), "plain neither old own"),
            (&["CHOWN"], (4, 8), "plain new own"),
            (&["CHOWN", "KILL"], (5, 0), "plain both new own"),
        ] {
            assert_eq!(holding(&rules, caps(have), kernel).join(" "), want, "{have:?} {kernel:?}");
        }
    }

    #[test]
    fn a_profile_as_podman_writes_it_is_read() {
        let spec = resolved(
            r#"{
              "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "defaultErrno": "ENOSYS",
              "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}
              ],
              "syscalls": [
                {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "args": [], "comment": "",
                 "includes": {}, "excludes": {}, "errnoRet": 1, "errno": "EPERM"},
                {"name": "socket", "action": "SCMP_ACT_ERRNO", "errno": "EINVAL",
                 "args": [{"index": 0, "value": 16, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]}
              ]
            }"#,
            CapSet::EMPTY,
            (6, 1),
        );
        assert_eq!(spec.default_errno_ret(), Some(38));
        let rules = spec.syscalls().as_deref().expect("there are rules");
        assert_eq!((rules[0].errno_ret(), rules[0].args()), (Some(1), &None));
        assert_eq!((rules[1].names().join(""), rules[1].errno_ret()), ("socket".into(), Some(22)));
        let arches = spec.architectures().as_deref().expect("mapped");
        assert_eq!(arches.first().copied(), native(go_arch(std::env::consts::ARCH)));
    }

    #[test]
    fn listed_architectures_and_flags_pass_through() {
        let spec = resolved(
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
                "flags": ["SECCOMP_FILTER_FLAG_LOG"], "listenerPath": ""}"#,
            CapSet::EMPTY,
            (6, 1),
        );
        assert_eq!(spec.architectures().as_deref(), Some(&[Arch::ScmpArchX86][..]));
        assert_eq!(
            spec.flags().as_deref(),
            Some(&[LinuxSeccompFilterFlag::SeccompFilterFlagLog][..])
        );
    }

    #[test]
    fn a_wrong_rule_is_named_with_its_reason() {
        for (rule, want) in [
            (
                r#"{"names": ["x"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_CHWON"]}}"#,
                "syscalls[0]: includes: unknown capability \"CAP_CHWON\"",
            ),
            (
                r#"{"names": ["x"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "4"}}"#,
                "syscalls[0]: excludes: minKernel \"4\" is not a version",
            ),
            (
                r#"{"name": "x", "names": ["y"], "action": "SCMP_ACT_ALLOW"}"#,
                "syscalls[0]: both name and names are given",
            ),
            (
                r#"{"names": ["x"], "action": "SCMP_ACT_ERRNO", "errno": "EWHAT"}"#,
                "syscalls[0]: unknown error name \"EWHAT\"",
            ),
            (
                r#"{"names": ["x"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000}"#,
                "syscalls[0]: 5000 is not an error number",
            ),
            (
                r#"{"names": ["x"], "action": "SCMP_ACT_ALLOW",
                    "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]}"#,
                "syscalls[0]: no argument has the index 6",
            ),
        ] {
            assert_eq!(complaint(rule), want);
        }
    }

    #[test]
    fn what_the_format_does_not_have_is_refused_with_its_place() {
        for (rule, word) in [
            (r#"{"names": ["x"], "action": "SCMP_ACT_ALLOW", "include": {}}"#, "`include`"),
            (r#"{"names": ["x"], "action": "SCMP_ACT_MAYBE"}"#, "`SCMP_ACT_MAYBE`"),
            (r#"{"names": ["x"]}"#, "`action`"),
            (r#"{"names": "x", "action": "SCMP_ACT_ALLOW"}"#, "sequence"),
            ("{", "key must be a string"),
            ("7", "expected a rule"),
        ] {
            let said = complaint(rule);
            assert!(said.contains(word) && said.contains("line 1 column"), "{rule}: {said}");
        }
        for json in [
            "",
            "null",
            "{}",
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent"}"#,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86_64"}]}"#,
            &"[".repeat(100_000),
            &" ".repeat(MAX_BYTES + 1),
        ] {
            let err = Profile::parse(json).expect_err("not a profile");
            assert!(err.hint_text().is_some(), "{err}");
        }
    }

    proptest! {
        /// Whatever stands in the file, reading it ends with a profile or an error.
        #[test]
        fn nothing_read_makes_it_panic(at in any::<prop::sample::Index>(), byte in 0x20u8..0x7f) {
            let mut json = include_bytes!("default.json").to_vec();
            let at = at.index(json.len());
            json[at] = byte;
            let json = String::from_utf8(json).expect("it stays ASCII");
            if let Ok(profile) = Profile::parse(&json) {
                drop(profile.resolve(CapSet::ALL, (6, 1)));
            }
        }
    }
}
