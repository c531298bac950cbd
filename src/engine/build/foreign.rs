//! Programs of other platforms: what runs them here, if anything does.

use std::{fs, path::Path};

use crate::{
    error::{Error, Result},
    oci::Platform,
};

/// Where the kernel lists who runs which programs (admin-guide/binfmt-misc.rst).
const BINFMT: &str = "/proc/sys/fs/binfmt_misc";

/// An error if programs for `platform` cannot run on `host`, neither by themselves nor by an emulator
/// that is registered.
pub(super) fn check(platform: &Platform, host: &Platform) -> Result<()> {
    if host.rank(platform).is_some() || platform.architecture == host.architecture {
        return Ok(());
    }
    match machine(&platform.architecture) {
        Some(machine) if is_registered(Path::new(BINFMT), machine) => Ok(()),
        _ => Err(Error::unsupported(format!(
            "RUN for {platform} on {host}: no emulator is registered for it"
        ))
        .hint(format!(
            "install one for all containers, as root: `apt install qemu-user-static binfmt-support`, or `docker run --privileged --rm tonistiigi/binfmt --install {}`; or build that stage with FROM --platform=$BUILDPLATFORM and cross-compile",
            platform.architecture
        ))),
    }
}

/// The platforms that an emulator is registered for.
pub(super) fn emulated() -> impl Iterator<Item = Platform> {
    let registered = |name: &&str| {
        machine(name).is_some_and(|machine| is_registered(Path::new(BINFMT), machine))
    };
    MACHINES
        .iter()
        .map(|(name, _)| *name)
        .filter(registered)
        .map(|name| Platform::new("linux", name, None))
}

/// `e_machine` of their programs, as their files have it (elf(5); <elf.h>).
const MACHINES: [(&str, [u8; 2]); 9] = [
    ("386", [3, 0]),
    ("mips64le", [8, 0]),
    ("ppc64le", [21, 0]),
    // Its byte order is the other one.
    ("s390x", [0, 22]),
    ("arm", [40, 0]),
    ("amd64", [62, 0]),
    ("arm64", [183, 0]),
    ("riscv64", [243, 0]),
    ("loong64", [2, 1]),
];

fn machine(architecture: &str) -> Option<[u8; 2]> {
    MACHINES.iter().find(|(name, _)| *name == architecture).map(|(_, machine)| *machine)
}

/// Whether an entry is for such programs, and opened its interpreter when it was registered (`F`):
/// a container does not have it.
fn is_registered(dir: &Path, machine: [u8; 2]) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| fs::read_to_string(entry.path()).ok()).any(|text| {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let magic = value("magic ").unwrap_or_default();
        // Two bytes behind the first eighteen.
        let at = magic.get(36..40).unwrap_or_default();
        text.starts_with("enabled")
            && value("flags:").is_some_and(|flags| flags.contains('F'))
            && at == format!("{:02x}{:02x}", machine[0], machine[1])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emulators_are_found_by_what_they_run() {
        let dir = tempfile::tempdir().expect("dir");
        let magic = "7f454c460201010000000000000000000200b700";
        let entry = |flags: &str, state: &str| {
            let text = format!(
                "{state}\ninterpreter /usr/bin/qemu\nflags: {flags}\noffset 0\nmagic {magic}\n"
            );
            fs::write(dir.path().join("any-name"), text).expect("write");
        };
        let arm64 = machine("arm64").expect("known");
        entry("OCF", "enabled");
        assert!(is_registered(dir.path(), arm64));
        assert!(!is_registered(dir.path(), machine("riscv64").expect("known")));
        entry("OC", "enabled");
        assert!(!is_registered(dir.path(), arm64), "its interpreter is not in the container");
        entry("OCF", "disabled");
        assert!(!is_registered(dir.path(), arm64));
        assert!(!is_registered(Path::new("/nonexistent"), arm64));
    }

    #[test]
    fn own_programs_need_nobody() {
        let platform = |text: &str| text.parse::<Platform>().expect(text);
        check(&platform("linux/amd64"), &platform("linux/amd64")).expect("own");
        check(&platform("linux/386"), &platform("linux/amd64")).expect("older");
        let err = check(&platform("linux/wasm"), &platform("linux/amd64")).expect_err("foreign");
        assert!(err.hint_text().expect("hint").contains("--install wasm"));
    }
}
