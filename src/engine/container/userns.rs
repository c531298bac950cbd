//! `--userns auto`, `--uidmap` and `--gidmap`: ids chosen for one container.
//!
//! They are counted as podman counts them: 0 is the caller, and the subordinate ids follow in
//! order, which is how the usual id maps number them inside.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    engine::{Engine, user::Accounts},
    error::{Context as _, Error, Result},
    state::{
        record::{AutoIds, ContainerRecord, UserMode},
        store::Lock,
    },
    sys::user::{IdMaps, IdRange},
};

/// Ids that `auto` gives at least and at most, unless a size was chosen (podman's).
const FEWEST: u32 = 1024;
const MOST: u32 = 65536;
/// Whose subordinate ids root's `auto` gives away (podman's).
const ROOTS: &str = "containers";
/// Nobody's, which no image means to be counted.
const NOBODY: u32 = 65534;

/// One `--uidmap` or `--gidmap`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TypedMap {
    /// It changes the usual map, rather than being a part of one of its own (`+`).
    pub changes: bool,
    /// Only for users (`u`), or only for groups (`g`).
    pub only_users: bool,
    pub only_groups: bool,
    pub inside: u32,
    /// Counted from the caller on, or with `@` the host's id itself.
    pub from: u32,
    pub is_hosts: bool,
    pub size: u32,
}

impl Engine {
    /// The maps that `--uidmap` and `--gidmap` ask for; what one of them says holds for the other,
    /// too, if that was not given.
    pub fn own_maps(&self, uid: &[TypedMap], gid: &[TypedMap]) -> Result<IdMaps> {
        self.check_mappable()?;
        // Root's count the host's ids themselves.
        let usual = match self.facts.rootless() {
            true => self.facts.id_maps(),
            false => IdMaps::identity(),
        };
        let users: Vec<_> = if uid.is_empty() { gid } else { uid }.to_vec();
        let groups: Vec<_> = if gid.is_empty() { uid } else { gid }.to_vec();
        let users = users.into_iter().filter(|map| uid == gid || !map.only_groups);
        let groups = groups.into_iter().filter(|map| uid == gid || !map.only_users);
        Ok(IdMaps {
            uid: resolve(users, &usual.uid).doing("map users")?,
            gid: resolve(groups, &usual.gid).doing("map groups")?,
        })
    }

    /// The subordinate ids of a user, from 0 on: this one's, unless root asks.
    pub fn maps_of(&self, name: &str) -> Result<IdMaps> {
        self.check_mappable()?;
        if !self.facts.rootless() {
            return self.named_maps(name);
        }
        if self.facts.user != name && self.facts.euid.to_string() != name {
            return Err(Error::unsupported(format!(
                "the subordinate ids of {name} are not this user's to map"
            ))
            .hint("`dhow doctor` shows those that are"));
        }
        Ok(self.facts.id_maps_with(None))
    }

    /// As root: the subordinate ids of a user who need not exist.
    fn named_maps(&self, name: &str) -> Result<IdMaps> {
        let maps = self.facts.id_maps_of(name);
        if maps.uid.is_empty() || maps.gid.is_empty() {
            return Err(Error::unsupported(format!(
                "{name} has no subordinate ids in /etc/subuid and /etc/subgid"
            ))
            .hint(format!(
                "`usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST {name}` gives some to a user; for a name alone write {name}:FIRST:COUNT into both files"
            )));
        }
        Ok(maps)
    }

    /// Chooses the ids of a container that is to have some of its own. Nobody else chooses until
    /// the lock is let go, when its record can be seen.
    pub(super) fn choose_ids(&self, record: &mut ContainerRecord) -> Result<Option<Lock>> {
        let UserMode::Auto(wanted) = record.host.namespaces.user.clone() else { return Ok(None) };
        self.check_mappable()?;
        let lock = Lock::exclusive(&self.layout.containers())?;
        let is_root = !self.facts.rootless();
        let usual = match is_root {
            true => self.named_maps(ROOTS)?,
            false => self.facts.id_maps(),
        };
        let accounts = || self.accounts(record, None).map(|accounts| size_for(&accounts));
        let size = wanted.size.map_or_else(accounts, Ok)?;
        // An ordinary user's first one is the user.
        let first = || if is_root { Vec::new() } else { vec![own(0, 1)] };
        let (mut users, mut groups) = (first(), first());
        for other in self.all_records()? {
            if let UserMode::Own { typed, maps } = &other.host.namespaces.user
                && typed.starts_with("auto")
            {
                users.extend(numbered(&maps.uid, &usual.uid));
                groups.extend(numbered(&maps.gid, &usual.gid));
            }
        }
        let taken: Vec<IdRange> = users.into_iter().chain(groups).collect();
        let left = [&wanted.uid, &wanted.gid].map(|fixed| around(fixed, size));
        let most = left.iter().map(|ranges| total(ranges)).max().unwrap_or(0);
        let end = total(&usual.uid).min(total(&usual.gid));
        let start = free(&taken, most, end).ok_or_else(|| {
            Error::unsupported(format!(
                "--userns auto: no {most} subordinate ids in a row are free; {end} are there in all"
            ))
            .hint("auto:size=N takes fewer, and removing containers of this kind frees theirs")
        })?;
        let place = |left: &[IdRange], fixed: &[IdRange], usual: &[IdRange]| {
            let mut from = start;
            let mut all = Vec::new();
            for range in left {
                all.push(IdRange { outside: from, ..*range });
                from += range.size;
            }
            match is_root {
                true => {
                    let mut all = translate(&all, usual)?;
                    all.extend(fixed);
                    checked(all)
                }
                false => {
                    all.extend(fixed);
                    on_host(all, usual)
                }
            }
        };
        let [uid_left, gid_left] = &left;
        let maps = IdMaps {
            uid: place(uid_left, &wanted.uid, &usual.uid)?,
            gid: place(gid_left, &wanted.gid, &usual.gid)?,
        };
        record.host.namespaces.user = UserMode::Own { typed: word(&wanted), maps };
        Ok(Some(lock))
    }

    /// The records of all containers that can be read.
    fn all_records(&self) -> Result<Vec<ContainerRecord>> {
        let home = self.layout.containers();
        let ids = fs::read_dir(&home).at(&home)?;
        let ids = ids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        Ok(ids.filter_map(|id| self.load(&id).ok()).map(|found| found.record).collect())
    }

    /// The id maps of a user namespace that some process is in.
    pub(super) fn maps_at(&self, path: &Path) -> Result<IdMaps> {
        let wanted = fs::metadata(path).at(path).doing("find the user namespace")?;
        let is_it = |process: &PathBuf| {
            fs::metadata(process.join("ns/user"))
                .is_ok_and(|meta| (meta.dev(), meta.ino()) == (wanted.dev(), wanted.ino()))
        };
        let processes = fs::read_dir("/proc").at("/proc")?;
        let processes = processes.filter_map(|entry| Some(entry.ok()?.path()));
        let process = processes.into_iter().find(is_it).ok_or_else(|| {
            Error::unsupported(format!("no process is in the user namespace {}", path.display()))
                .hint("name one of a process: /proc/PID/ns/user")
        })?;
        let maps = |file: &str| -> Result<Vec<IdRange>> {
            let path = process.join(file);
            parse_map(&fs::read_to_string(&path).at(&path)?)
                .ok_or_else(|| Error::engine(format!("{} cannot be read", path.display())))
        };
        Ok(IdMaps { uid: maps("uid_map")?, gid: maps("gid_map")? })
    }
}

/// Lines of a `uid_map` or `gid_map`.
fn parse_map(text: &str) -> Option<Vec<IdRange>> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u32>().ok());
        let (inside, outside, size) = (numbers.next()??, numbers.next()??, numbers.next()??);
        Some(IdRange { inside, outside, size })
    };
    text.lines().map(line).collect()
}

/// `auto` as it was typed.
fn word(ids: &AutoIds) -> String {
    let size = ids.size.map(|size| format!("size={size}"));
    let maps = |name: &'static str, ranges: &[IdRange]| -> Vec<String> {
        let one =
            |range: &IdRange| format!("{name}={}:{}:{}", range.inside, range.outside, range.size);
        ranges.iter().map(one).collect()
    };
    let all: Vec<String> = size
        .into_iter()
        .chain(maps("uidmapping", &ids.uid))
        .chain(maps("gidmapping", &ids.gid))
        .collect();
    let colon = if all.is_empty() { "" } else { ":" };
    format!("auto{colon}{}", all.join(","))
}

/// Enough for all users and groups that the image knows.
fn size_for(accounts: &Accounts) -> u32 {
    let ids = [&accounts.passwd, &accounts.group];
    let ids = ids.into_iter().flat_map(|text| text.lines());
    let ids = ids.filter_map(|line| line.split(':').nth(2)?.parse::<u32>().ok());
    let highest = ids.filter(|id| *id < NOBODY).max().unwrap_or(0);
    (highest + 1).clamp(FEWEST, MOST)
}

fn own(outside: u32, size: u32) -> IdRange {
    IdRange { inside: outside, outside, size }
}

fn total(ranges: &[IdRange]) -> u32 {
    ranges.iter().fold(0, |all, range| all.saturating_add(range.size))
}

/// The ids below `size` that `fixed` leaves over, not placed yet.
fn around(fixed: &[IdRange], size: u32) -> Vec<IdRange> {
    fixed.iter().fold(vec![own(0, size)], |left, taken| {
        without(left, (taken.inside, taken.size), |range| range.inside)
    })
}

/// `ranges` without the ids that begin at `start`, as `side` numbers them.
fn without(
    ranges: Vec<IdRange>,
    (start, size): (u32, u32),
    side: impl Fn(&IdRange) -> u32,
) -> Vec<IdRange> {
    let end = start.saturating_add(size);
    let mut left = Vec::new();
    for range in ranges {
        let first = side(&range);
        let last = first.saturating_add(range.size);
        let before = start.clamp(first, last) - first;
        let behind = last - end.clamp(first, last);
        if first >= end || last <= start {
            left.push(range);
            continue;
        }
        if before > 0 {
            left.push(IdRange { size: before, ..range });
        }
        if behind > 0 {
            let skipped = range.size - behind;
            left.push(IdRange {
                inside: range.inside + skipped,
                outside: range.outside + skipped,
                size: behind,
            });
        }
    }
    left
}

/// The first of `size` ids below `end` that nobody has taken.
fn free(taken: &[IdRange], size: u32, end: u32) -> Option<u32> {
    let mut taken: Vec<_> = taken.iter().map(|range| (range.outside, range.size)).collect();
    taken.sort_unstable();
    let mut start: u32 = 0;
    for (first, count) in taken {
        if first >= start.saturating_add(size) {
            break;
        }
        start = start.max(first.saturating_add(count));
    }
    (start.checked_add(size)? <= end).then_some(start)
}

/// The host's ids of `ranges` as `usual` numbers them, as far as it has them.
fn numbered(ranges: &[IdRange], usual: &[IdRange]) -> Vec<IdRange> {
    let mut found = Vec::new();
    for range in ranges {
        for all in usual {
            let start = range.outside.max(all.outside);
            let end = (range.outside.saturating_add(range.size))
                .min(all.outside.saturating_add(all.size));
            if start < end {
                found.push(own(start - all.outside + all.inside, end - start));
            }
        }
    }
    found
}

/// The maps as the kernel takes them: `outside` is the host's id.
fn on_host(ranges: Vec<IdRange>, usual: &[IdRange]) -> Result<Vec<IdRange>> {
    unique(&ranges)?;
    checked(translate(&ranges, usual)?)
}

/// In order, and of use for a container.
fn checked(mut ranges: Vec<IdRange>) -> Result<Vec<IdRange>> {
    unique(&ranges)?;
    ranges.sort_unstable_by_key(|range| range.inside);
    if ranges.first().is_none_or(|first| first.inside != 0) {
        return Err(Error::unsupported("no id is mapped to 0: a container has a root")
            .hint("map one, as in 0:1:1000"));
    }
    Ok(ranges)
}

fn unique(ranges: &[IdRange]) -> Result<()> {
    for (side, name) in [
        ((|range| range.inside) as fn(&IdRange) -> u32, "inside"),
        (|range| range.outside, "outside"),
    ] {
        let mut sorted: Vec<_> = ranges.iter().map(|range| (side(range), range.size)).collect();
        sorted.sort_unstable();
        if sorted.windows(2).any(|two| two[0].0.saturating_add(two[0].1) > two[1].0) {
            return Err(Error::invalid(format!("an id is mapped twice {name}")));
        }
    }
    Ok(())
}

/// From ids as `usual` numbers them to the host's.
fn translate(ranges: &[IdRange], usual: &[IdRange]) -> Result<Vec<IdRange>> {
    let mut found = Vec::new();
    for range in ranges {
        let mut left = range.size;
        for all in usual {
            let start = range.outside.max(all.inside);
            let end =
                range.outside.saturating_add(range.size).min(all.inside.saturating_add(all.size));
            if start < end {
                left -= end - start;
                found.push(IdRange {
                    inside: range.inside + (start - range.outside),
                    outside: all.outside + (start - all.inside),
                    size: end - start,
                });
            }
        }
        if left > 0 {
            return Err(Error::invalid(format!(
                "{}:{}:{} needs ids that this user does not have",
                range.inside, range.outside, range.size
            ))
            .hint(format!("there are {}: 0 is you, the subordinate ids follow", total(usual))));
        }
    }
    Ok(found)
}

fn resolve(typed: impl Iterator<Item = TypedMap>, usual: &[IdRange]) -> Result<Vec<IdRange>> {
    let typed: Vec<TypedMap> = typed.collect();
    let mut ranges: Vec<IdRange> = match typed.iter().any(|map| map.changes) {
        true => usual.iter().map(|range| own(range.inside, range.size)).collect(),
        false => Vec::new(),
    };
    for map in typed {
        let mut outside = map.from;
        if map.is_hosts {
            let hosts = [IdRange { inside: map.inside, outside: map.from, size: map.size }];
            let found = numbered(&hosts, usual);
            let whole = found.first().filter(|first| first.size == map.size);
            outside = whole.map(|first| first.outside).ok_or_else(|| {
                Error::invalid(format!("the host's id {} is not this user's to map", map.from))
            })?;
        }
        if map.changes {
            ranges = without(ranges, (map.inside, map.size), |range| range.inside);
            ranges = without(ranges, (outside, map.size), |range| range.outside);
        }
        ranges.push(IdRange { inside: map.inside, outside, size: map.size });
    }
    on_host(ranges, usual)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(inside: u32, outside: u32, size: u32) -> IdRange {
        IdRange { inside, outside, size }
    }

    fn usual() -> Vec<IdRange> {
        vec![range(0, 1000, 1), range(1, 100_000, 65536)]
    }

    fn map(inside: u32, from: u32, size: u32) -> TypedMap {
        TypedMap { inside, from, size, ..TypedMap::default() }
    }

    #[test]
    fn maps_are_counted_from_the_caller() {
        let resolved = |maps: &[TypedMap]| resolve(maps.iter().copied(), &usual()).ok();
        assert_eq!(resolved(&[map(0, 1, 10)]), Some(vec![range(0, 100_000, 10)]));
        let both = vec![range(0, 1000, 1), range(1, 100_000, 9)];
        assert_eq!(resolved(&[map(0, 0, 10)]), Some(both), "what lies across ranges is split");
        let hosts = TypedMap { is_hosts: true, ..map(0, 100_005, 2) };
        assert_eq!(resolved(&[hosts]), Some(vec![range(0, 100_005, 2)]));
        for bad in [
            vec![map(0, 65530, 100)],
            vec![map(1, 1, 10)],
            vec![map(0, 1, 10), map(9, 20, 1)],
            vec![map(0, 1, 10), map(20, 10, 1)],
            vec![TypedMap { is_hosts: true, ..map(0, 5, 1) }],
        ] {
            assert_eq!(resolved(&bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_plus_changes_the_usual_map() {
        let one = TypedMap { changes: true, ..map(5, 0, 1) };
        assert_eq!(
            resolve([one, TypedMap { changes: true, ..map(0, 5, 1) }].into_iter(), &usual()).ok(),
            Some(vec![
                range(0, 100_004, 1),
                range(1, 100_000, 4),
                range(5, 1000, 1),
                range(6, 100_005, 65531),
            ])
        );
    }

    #[test]
    fn ranges_are_given_once() {
        assert_eq!(free(&[own(0, 1)], 10, 100), Some(1));
        assert_eq!(free(&[own(0, 1), own(1, 10), own(15, 10)], 4, 100), Some(11));
        assert_eq!(free(&[own(0, 1), own(1, 10), own(15, 10)], 5, 100), Some(25));
        assert_eq!(free(&[own(0, 1)], 100, 100), None);
        assert_eq!(around(&[range(3, 0, 2)], 10), [range(0, 0, 3), range(5, 5, 5)]);
        assert_eq!(numbered(&[range(7, 100_004, 3)], &usual()), [own(5, 3)]);
    }
}
