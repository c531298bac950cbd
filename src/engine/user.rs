//! `--user`: names and numbers, looked up in the image's own files.

use nix::errno::Errno;

use crate::{
    error::{Error, Result},
    run::spec::ResolvedUser,
    sys::user::IdMaps,
};

/// `/etc/passwd` and `/etc/group` of an image or of a running container, as far as they go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Accounts {
    pub(super) passwd: String,
    pub(super) group: String,
}

/// The word for the caller's own groups, which then stay as they are.
pub(super) const KEEP_GROUPS: &str = "keep-groups";

/// The most of either file that is read.
const CAP: u64 = 4 << 20;

impl Accounts {
    /// Reads both files with `read`, which resolves paths inside the root file system. What
    /// cannot be read counts as empty, as in docker: numbers still work.
    pub(super) fn read(mut read: impl FnMut(&str, u64) -> Result<Option<Vec<u8>>, Errno>) -> Self {
        let mut text = |path: &str| {
            let bytes = read(path, CAP).ok().flatten().unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self { passwd: text("/etc/passwd"), group: text("/etc/group") }
    }

    /// Adds lines of users whose names are not there yet.
    pub(super) fn add_users(&mut self, lines: &[String]) {
        for line in lines {
            let same = |other: &str| line.split(':').next() == other.split(':').next();
            if !self.passwd.lines().any(same) {
                let gap =
                    if self.passwd.is_empty() || self.passwd.ends_with('\n') { "" } else { "\n" };
                self.passwd = format!("{}{gap}{line}\n", self.passwd);
            }
        }
    }

    /// Resolves `user[:group]`. Without a group, the user's own and all that list them.
    ///
    /// Numbers are read before names, as docker does, except that a number must be an id: one
    /// that does not fit is an error, never wrapped (CVE-2024-40635, CVE-2016-3697).
    pub(super) fn resolve(
        &self,
        typed: &str,
        extra: &[String],
        maps: Option<&IdMaps>,
    ) -> Result<ResolvedUser> {
        let (user, group) = match typed.split_once(':') {
            Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
            None => (typed, None),
        };
        let entry = self.user_entry(if user.is_empty() { "0" } else { user })?;
        let gid = match group {
            Some(group) => self.group_id(group)?,
            None => entry.gid,
        };
        let mut groups = match group {
            Some(_) => Vec::new(),
            None => self.groups_of(&entry.name),
        };
        for name in extra.iter().filter(|name| *name != KEEP_GROUPS) {
            groups.push(self.group_id(name)?);
        }
        groups.retain(|group| *group != gid);
        groups.sort_unstable();
        groups.dedup();
        groups.insert(0, gid);
        let home = if entry.home.is_empty() { "/".to_owned() } else { entry.home };
        let resolved = ResolvedUser { uid: entry.uid, gid, groups, home };
        check_mapped(&resolved, typed, maps)?;
        Ok(resolved)
    }

    pub(super) fn has_user(&self, name: &str) -> bool {
        self.entries().any(|entry| entry.name == name)
    }

    pub(super) fn has_uid(&self, uid: u32) -> bool {
        self.entries().any(|entry| entry.uid == uid)
    }

    pub(super) fn has_gid(&self, gid: u32) -> bool {
        let field = |line: &str| line.split(':').nth(2)?.parse::<u32>().ok();
        self.group.lines().filter_map(field).any(|known| known == gid)
    }

    fn user_entry(&self, user: &str) -> Result<Entry> {
        if let Some(uid) = number(user, "user")? {
            let known = self.entries().find(|entry| entry.uid == uid);
            return Ok(known.unwrap_or(Entry { uid, ..Entry::default() }));
        }
        self.entries().find(|entry| entry.name == user).ok_or_else(|| {
            Error::invalid(format!(
                "unable to find user {user}: no matching entries in the image's /etc/passwd"
            ))
            .hint("use a number, or a name that the image knows")
        })
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            let home = fields.nth(1).unwrap_or_default().to_owned();
            Some(Entry { name, uid, gid, home })
        })
    }

    fn group_id(&self, group: &str) -> Result<u32> {
        if let Some(gid) = number(group, "group")? {
            return Ok(gid);
        }
        let found = self.group.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
        });
        found.ok_or_else(|| {
            Error::invalid(format!(
                "unable to find group {group}: no matching entries in the image's /etc/group"
            ))
            .hint("use a number, or a name that the image knows")
        })
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        if user.is_empty() {
            return Vec::new();
        }
        let member = |line: &str| {
            let mut fields = line.split(':');
            let gid = fields.nth(2)?.parse().ok()?;
            fields.next()?.split(',').any(|name| name == user).then_some(gid)
        };
        self.group.lines().filter_map(member).collect()
    }
}

#[derive(Debug, Default)]
struct Entry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

/// `Some` if `text` is made of digits; an error if they are no id. 2^32 - 1 means "no change"
/// to the kernel (`setuid(2)`), and docker refuses what does not fit 31 bits.
fn number(text: &str, what: &str) -> Result<Option<u32>> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(None);
    }
    let id = text.parse().ok().filter(|id| *id <= i32::MAX.unsigned_abs());
    id.map(Some).ok_or_else(|| {
        Error::invalid(format!("{what} id {text} is out of range"))
            .hint("ids go from 0 to 2147483647")
    })
}

fn check_mapped(user: &ResolvedUser, typed: &str, maps: Option<&IdMaps>) -> Result<()> {
    let Some(maps) = maps else { return Ok(()) };
    // Where one id is all there is, supplementary groups stay the caller's.
    let groups = if maps.is_single() { &[user.gid][..] } else { &user.groups };
    let unmapped = groups.iter().find(|gid| maps.gid_outside(**gid).is_none());
    let missing = match (maps.uid_outside(user.uid), unmapped) {
        (None, _) => format!("uid {}", user.uid),
        (Some(_), Some(gid)) => format!("gid {gid}"),
        (Some(_), None) => return Ok(()),
    };
    Err(Error::unsupported(format!("cannot run as user {typed:?}: {missing} is not mapped here"))
        .hint("more subordinate ids are needed in /etc/subuid and /etc/subgid; `dhow doctor` prints the command"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd:
                "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv:/bin/false\n1000:x:7:7::/n:\n"
                    .into(),
            group: "root:x:0:\nweb:x:33:\nlogs:x:44:web,other\n".into(),
        }
    }

    #[test]
    fn names_numbers_and_groups() {
        let resolve = |typed: &str| accounts().resolve(typed, &[], None);
        let web = resolve("web").expect("known");
        assert_eq!(
            (web.uid, web.gid, web.groups, web.home.as_str()),
            (33, 33, vec![33, 44], "/srv")
        );
        let root = resolve("").expect("root");
        assert_eq!((root.uid, root.home.as_str()), (0, "/root"));
        let by_number = resolve("33:logs").expect("number");
        assert_eq!((by_number.uid, by_number.gid, by_number.groups), (33, 44, vec![44]));
        let unknown = resolve("4242").expect("any number");
        assert_eq!((unknown.uid, unknown.gid, unknown.home.as_str()), (4242, 0, "/"));
        // A user whose *name* is a number is not looked up by it.
        assert_eq!(resolve("1000").expect("number").uid, 1000);
    }

    #[test]
    fn what_is_unknown_or_out_of_range_is_refused() {
        for bad in ["nobody", "web:nogroup", "-1", "4294967296", "4294967295", "2147483648"] {
            assert!(accounts().resolve(bad, &[], None).is_err(), "{bad}");
        }
        let single = IdMaps::single(1000, 1000);
        let err = accounts().resolve("web", &[], Some(&single)).expect_err("not mapped");
        assert!(err.to_string().contains("uid 33 is not mapped"), "{err}");
    }
}
