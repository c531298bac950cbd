//! `--tmpfs`.

use super::{PROPAGATION, flag_pair, mode, target_path};
use crate::{
    error::{Context as _, Error, Result},
    state::record::{MountKind, MountRecord},
};

/// `--tmpfs TARGET[:OPTIONS]`.
pub fn tmpfs(text: &str) -> Result<MountRecord> {
    let (target, options) = text.split_once(':').unwrap_or((text, ""));
    let target = target_path(target).doing_with(|| format!("invalid tmpfs mount '{text}'"))?;
    let mut read_only = false;
    let mut kept = Vec::new();
    for option in options.split(',').filter(|_| !options.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // Docker's way, and so the usual one here.
            "notmpcopyup" => kept.retain(|option| option != "tmpcopyup"),
            _ if is_tmpfs_option(option) => kept.push(option.to_owned()),
            _ => {
                return Err(Error::invalid(format!("invalid tmpfs option \"{option}\"")).hint(
                    "options are ro, rw, exec, suid, dev and their no- forms, size=, mode=, uid=, gid=, nr_inodes=, nr_blocks=, huge=, mpol=, sync, dirsync, strictatime, noswap, tmpcopyup, notmpcopyup and U",
                ));
            }
        }
    }
    Ok(MountRecord { kind: MountKind::Tmpfs, target, read_only, options: kept })
}

/// Podman's, and those of mount(8) that docker's manual names and that mean something here.
const WORDS: [&str; 9] = [
    "tmpcopyup",
    "notmpcopyup",
    "noswap",
    "U",
    "sync",
    "async",
    "dirsync",
    "strictatime",
    "nostrictatime",
];

/// tmpfs(5), "Mount options".
fn is_tmpfs_option(option: &str) -> bool {
    let Some((key, value)) = option.split_once('=') else {
        return flag_pair(option).is_some()
            || PROPAGATION.contains(&option)
            || WORDS.contains(&option);
    };
    let quantity = |units: &[char]| {
        let number = value.strip_suffix(units).unwrap_or(value);
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    };
    match key {
        "size" => quantity(&['k', 'K', 'm', 'M', 'g', 'G', '%']),
        "nr_inodes" | "nr_blocks" => quantity(&['k', 'K', 'm', 'M', 'g', 'G']),
        "huge" => ["never", "always", "within_size", "advise"].contains(&value),
        "mode" => mode(value).is_some(),
        "uid" | "gid" => value.parse::<u32>().is_ok(),
        "mpol" => !value.is_empty(),
        _ => false,
    }
}
