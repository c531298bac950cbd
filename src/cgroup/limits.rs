//! Limits, from what the user typed to what is written into which file.
//!
//! `Resources` (docker's units) are checked in docker's words and become the specification's
//! `LinuxResources`; those become writes. A bundle made by someone else enters half way, and
//! both end in the same files.
//!
//! **Invariant:** no I/O, except [`online_cpus`] and the numbers of the devices that are named.

use std::{collections::BTreeSet, os::unix::fs::MetadataExt as _, path::Path};

use nix::unistd::{SysconfVar, sysconf};

use crate::{
    error::{Context as _, Error, Result},
    oci::runtime::{
        LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice,
        LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
    },
    state::record::{DeviceLimit, Resources},
};

/// Docker refuses less: a container's start alone needs about this much.
const LEAST_MEMORY: u64 = 6 << 20;
/// The kernel's default `cpu.max` period, in microseconds (admin-guide/cgroup-v2.rst, "CPU").
const PERIOD: u64 = 100_000;

/// What to write where, in order: `("memory.max", "67108864")`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    writes: Vec<(String, String)>,
}

impl Limits {
    /// The limits of a container record. `online` is this host's number of CPUs.
    ///
    /// Fails with kind `Invalid` where docker would, in its words.
    pub fn from_resources(resources: &Resources, online: u64) -> Result<Self> {
        check(resources, online)?;
        Self::from_spec(&to_spec(resources)?)
    }

    /// The limits of a bundle: runtime-spec config-linux.md, "Control groups".
    ///
    /// `devices` is not a cgroup v2 file (it is a BPF program) and is left to others. What else
    /// has no translation here is an error, kind `Unsupported`.
    pub fn from_spec(spec: &LinuxResources) -> Result<Self> {
        refuse_untranslated(spec)?;
        let mut writes = Vec::new();
        if let Some(memory) = spec.memory() {
            memory_writes(memory, &mut writes)?;
        }
        if let Some(cpu) = spec.cpu() {
            cpu_writes(cpu, &mut writes)?;
        }
        if let Some(limit) = spec.pids().map(|pids| pids.limit()).filter(|&limit| limit != 0) {
            writes.push(("pids.max", max_or(limit)));
        }
        if let Some(io) = spec.block_io() {
            block_writes(io, &mut writes)?;
        }
        let mut writes: Vec<_> = writes.into_iter().map(|(f, text)| (f.to_owned(), text)).collect();
        // The spec's map names files itself. Sorted, so that a plan prints the same twice.
        let mut unified: Vec<_> = spec.unified().iter().flatten().collect();
        unified.sort();
        for (file, text) in unified {
            check_file_name(file)?;
            writes.push((file.clone(), text.clone()));
        }
        Ok(Self { writes })
    }

    /// The files and their new contents, in the order to write them.
    pub fn writes(&self) -> &[(String, String)] {
        &self.writes
    }

    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// What has to be written where `old` holds; a limit that is gone is `max`.
    #[must_use]
    pub fn since(&self, old: &Self) -> Self {
        let changed = self.writes.iter().filter(|write| !old.writes.contains(write));
        let gone = old.writes.iter().filter(|(file, _)| self.get(file).is_none());
        let gone = gone.map(|(file, _)| (file.clone(), "max".to_owned()));
        Self { writes: changed.cloned().chain(gone).collect() }
    }

    /// The controllers whose files these are: what stands before the first dot. `cgroup.*`
    /// files are there without any.
    pub fn controllers(&self) -> BTreeSet<&str> {
        let names = self.writes.iter().filter_map(|(file, _)| Some(file.split_once('.')?.0));
        names.filter(|&name| name != "cgroup").collect()
    }

    /// What will be written into `file`, if anything.
    pub fn get(&self, file: &str) -> Option<&str> {
        self.writes.iter().find(|(name, _)| name == file).map(|(_, text)| text.as_str())
    }
}

/// How many CPUs this host has online: `sysconf(3)`, `_SC_NPROCESSORS_ONLN`.
pub fn online_cpus() -> u64 {
    let count = sysconf(SysconfVar::_NPROCESSORS_ONLN).ok().flatten();
    count.and_then(|n| u64::try_from(n).ok()).unwrap_or(1)
}

/// The specification's form of what was typed, docker's defaults filled in. Not checked.
pub fn to_spec(resources: &Resources) -> Result<LinuxResources> {
    let mut spec = LinuxResources::default();
    let mut memory = LinuxMemory::default();
    memory.set_limit(signed(resources.memory));
    memory.set_reservation(signed(resources.memory_reservation));
    memory.set_swap(match (resources.memory_swap, resources.memory) {
        (Some(swap), _) if swap != 0 => Some(swap),
        // Without --memory-swap, docker allows as much swap as memory.
        (_, Some(memory)) if memory != 0 => signed(Some(memory.saturating_mul(2))),
        _ => None,
    });
    if memory != LinuxMemory::default() {
        spec.set_memory(Some(memory));
    }

    let mut cpu = LinuxCpu::default();
    cpu.set_shares(resources.cpu_shares.filter(|&shares| shares != 0));
    cpu.set_quota(resources.cpu_quota.filter(|&quota| quota != 0));
    cpu.set_period(resources.cpu_period.filter(|&period| period != 0));
    if let Some(nano) = resources.nano_cpus.filter(|&nano| nano != 0) {
        let quota = u128::from(nano) * u128::from(PERIOD) / 1_000_000_000;
        cpu.set_quota(Some(i64::try_from(quota).unwrap_or(i64::MAX)));
        cpu.set_period(Some(PERIOD));
    }
    cpu.set_cpus(resources.cpuset_cpus.clone().filter(|list| !list.is_empty()));
    cpu.set_mems(resources.cpuset_mems.clone().filter(|list| !list.is_empty()));
    if cpu != LinuxCpu::default() {
        spec.set_cpu(Some(cpu));
    }

    if let Some(limit) = resources.pids_limit.filter(|&limit| limit > 0) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        spec.set_pids(Some(pids));
    }
    let io = block_io(resources)?;
    if io != LinuxBlockIo::default() {
        spec.set_block_io(Some(io));
    }
    if !resources.unified.is_empty() {
        spec.set_unified(Some(resources.unified.clone().into_iter().collect()));
    }
    Ok(spec)
}

fn block_io(resources: &Resources) -> Result<LinuxBlockIo> {
    let mut io = LinuxBlockIo::default();
    io.set_weight(resources.blkio_weight);
    let weights =
        resources.blkio_weight_device.iter().map(weight_of).collect::<Result<Vec<_>>>()?;
    let rates = |limits: &[DeviceLimit]| -> Result<Option<Vec<LinuxThrottleDevice>>> {
        let rates = limits.iter().map(rate_of).collect::<Result<Vec<_>>>()?;
        Ok(Some(rates).filter(|rates| !rates.is_empty()))
    };
    io.set_weight_device(Some(weights).filter(|weights| !weights.is_empty()))
        .set_throttle_read_bps_device(rates(&resources.device_read_bps)?)
        .set_throttle_write_bps_device(rates(&resources.device_write_bps)?)
        .set_throttle_read_iops_device(rates(&resources.device_read_iops)?)
        .set_throttle_write_iops_device(rates(&resources.device_write_iops)?);
    Ok(io)
}

fn weight_of(limit: &DeviceLimit) -> Result<LinuxWeightDevice> {
    let (major, minor) = numbers(&limit.path)?;
    let weight = u16::try_from(limit.value).unwrap_or(u16::MAX);
    let device = LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight);
    device.build().map_err(|err| Error::engine(format!("compose a block device's weight: {err}")))
}

fn rate_of(limit: &DeviceLimit) -> Result<LinuxThrottleDevice> {
    let (major, minor) = numbers(&limit.path)?;
    let device = LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(limit.value);
    device.build().map_err(|err| Error::engine(format!("compose a block device's rate: {err}")))
}

/// Major and minor of a block device.
fn numbers(path: &Path) -> Result<(i64, i64)> {
    use std::os::unix::fs::FileTypeExt as _;
    let meta = std::fs::metadata(path).at(path).doing("find the block device")?;
    if !meta.file_type().is_block_device() {
        return Err(Error::invalid(format!("{} is not a block device", path.display())));
    }
    let (major, minor) = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    Ok((i64::from(major), i64::from(minor)))
}

/// Docker's checks, in its order and words (moby `daemon/daemon_unix.go`,
/// `verifyPlatformContainerResources`).
fn check(resources: &Resources, online: u64) -> Result<()> {
    check_memory(resources)?;
    check_cpu(resources, online)?;
    if resources.blkio_weight.is_some_and(|weight| !(10..=1000).contains(&weight)) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    for (list, what) in [(&resources.cpuset_cpus, "cpus"), (&resources.cpuset_mems, "mems")] {
        if let Some(list) = list
            && parse_list(list).is_none()
        {
            return Err(Error::invalid(format!("Invalid value {list} for cpuset {what}"))
                .hint("a list of numbers and ranges, like 0-2,5"));
        }
    }
    Ok(())
}

fn check_memory(resources: &Resources) -> Result<()> {
    let memory = resources.memory.unwrap_or(0);
    let swap = resources.memory_swap.unwrap_or(0);
    let reservation = resources.memory_reservation.unwrap_or(0);
    let refuse = |why: &str| Err(Error::invalid(why));

    if memory != 0 && memory < LEAST_MEMORY {
        return refuse("Minimum memory limit allowed is 6MB");
    }
    if memory == 0 && swap > 0 {
        return refuse(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    if swap < -1 || (swap > 0 && swap.unsigned_abs() < memory) {
        return refuse("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if reservation != 0 && reservation < LEAST_MEMORY {
        return refuse("Minimum memory reservation allowed is 6MB");
    }
    if memory != 0 && memory < reservation {
        return refuse(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    Ok(())
}

fn check_cpu(resources: &Resources, online: u64) -> Result<()> {
    let refuse = |why: String| Err(Error::invalid(why));
    let nano = resources.nano_cpus.unwrap_or(0);
    let period = resources.cpu_period.unwrap_or(0);
    let quota = resources.cpu_quota.unwrap_or(0);

    if nano != 0 && period != 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Period cannot both be set.".into());
    }
    if nano != 0 && quota != 0 {
        return refuse("Conflicting options: Nano CPUs and CPU Quota cannot both be set.".into());
    }
    // The kernel's least quota is 1 ms of the 100 ms period: a hundredth of a CPU.
    if nano != 0 && (nano < 10_000_000 || nano > online.saturating_mul(1_000_000_000)) {
        return refuse(format!(
            "Range of CPUs is from 0.01 to {online}.00, as there are only {online} CPUs available"
        ));
    }
    if period != 0 && !(1_000..=1_000_000).contains(&period) {
        return refuse(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)"
                .into(),
        );
    }
    if quota > 0 && quota < 1_000 {
        return refuse("CPU cfs quota can not be less than 1ms (i.e. 1000)".into());
    }
    Ok(())
}

/// `cpu.weight` for docker's `--cpu-shares`.
///
/// The curve of runc and crun (opencontainers/cgroups `ConvertCPUSharesToCgroupV2Value`): it
/// meets both ends, 2 → 1 and 262144 → 10000, and the defaults, 1024 → 100.
pub fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "below 2^18")]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 1 and 10000"
            )]
            let weight = 10_f64.powf(exponent).ceil() as u64;
            weight
        }
    }
}

/// The members of a kernel list such as `0-2,5` (cpuset(7), "List format"); `None` if it is not
/// one. An empty list has no members.
pub(super) fn parse_list(list: &str) -> Option<BTreeSet<u32>> {
    // As docker does: enough for any machine, and a typed range cannot fill the memory.
    const MOST: u32 = 8192;
    let mut members = BTreeSet::new();
    for part in list.trim().split(',').filter(|_| !list.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last > MOST {
            return None;
        }
        members.extend(first..=last);
    }
    Some(members)
}

/// Digits only: `parse` alone would take a sign.
fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn memory_writes(memory: &LinuxMemory, writes: &mut Vec<(&'static str, String)>) -> Result<()> {
    let limit = memory.limit().unwrap_or(0);
    let swap = memory.swap().unwrap_or(0);
    if limit != 0 {
        writes.push(("memory.max", max_or(limit)));
    }
    // The specification counts memory and swap together, the kernel swap alone.
    match swap {
        0 => {}
        ..0 => writes.push(("memory.swap.max", "max".into())),
        _ if limit <= 0 => {
            return Err(Error::invalid("memory.swap is set without memory.limit"));
        }
        _ if swap < limit => return Err(Error::invalid("memory.swap is below memory.limit")),
        _ => writes.push(("memory.swap.max", (swap - limit).to_string())),
    }
    // A soft limit is protection in cgroup v2: runc and crun write memory.low.
    if let Some(reservation) = memory.reservation().filter(|&bytes| bytes != 0) {
        writes.push(("memory.low", max_or(reservation)));
    }
    Ok(())
}

fn cpu_writes(cpu: &LinuxCpu, writes: &mut Vec<(&'static str, String)>) -> Result<()> {
    if cpu.realtime_runtime().is_some_and(|us| us != 0)
        || cpu.realtime_period().is_some_and(|us| us != 0)
    {
        return Err(Error::unsupported("cgroup v2 has no real-time CPU limits"));
    }
    if let Some(shares) = cpu.shares().filter(|&shares| shares != 0) {
        writes.push(("cpu.weight", weight_of_shares(shares).to_string()));
    }
    let quota = cpu.quota().filter(|&quota| quota != 0);
    let period = cpu.period().filter(|&period| period != 0);
    if quota.is_some() || period.is_some() {
        let quota = max_or(quota.unwrap_or(-1));
        writes.push(("cpu.max", format!("{quota} {}", period.unwrap_or(PERIOD))));
    }
    // After cpu.max: the kernel refuses a burst above the quota.
    if let Some(burst) = cpu.burst() {
        writes.push(("cpu.max.burst", burst.to_string()));
    }
    if let Some(idle) = cpu.idle() {
        writes.push(("cpu.idle", idle.to_string()));
    }
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            writes.push((file, list.clone()));
        }
    }
    Ok(())
}

/// Weights for the file of the BFQ scheduler, which are docker's; [`io_weight`] makes others of
/// them where the kernel has none. Rates of one device are one line of `io.max`, which keeps what
/// a line does not name (admin-guide/cgroup-v2.rst, "IO Interface Files").
fn block_writes(io: &LinuxBlockIo, writes: &mut Vec<(&'static str, String)>) -> Result<()> {
    if io.leaf_weight().is_some() {
        return Err(Error::unsupported("cgroup v2 has no leaf weights of block I/O"));
    }
    if let Some(weight) = io.weight().filter(|&weight| weight != 0) {
        writes.push((BFQ_WEIGHT, weight.to_string()));
    }
    for device in io.weight_device().iter().flatten() {
        let weight = device.weight().unwrap_or(0);
        writes.push((BFQ_WEIGHT, format!("{}:{} {weight}", device.major(), device.minor())));
    }
    for (key, devices) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { "max".into() } else { device.rate().to_string() };
            let (major, minor) = (device.major(), device.minor());
            writes.push(("io.max", format!("{major}:{minor} {key}={rate}")));
        }
    }
    Ok(())
}

/// The weights of the BFQ scheduler: 1 to 1000.
pub(super) const BFQ_WEIGHT: &str = "io.bfq.weight";

/// What `io.weight` (1 to 10000, default 100) is given for a line of [`BFQ_WEIGHT`]: runc's and
/// crun's line through both ends, 10 → 1 and 1000 → 10000.
pub(super) fn io_weight(line: &str) -> String {
    let (device, weight) = line.rsplit_once(' ').unwrap_or(("default", line));
    let weight = weight.parse::<u64>().unwrap_or(0).max(10);
    format!("{device} {}", 1 + (weight - 10) * 9999 / 990)
}

fn refuse_untranslated(spec: &LinuxResources) -> Result<()> {
    let huge = spec.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty());
    let rdma = spec.rdma().as_ref().is_some_and(|limits| !limits.is_empty());
    for (set, what) in [(huge, "hugepageLimits"), (rdma, "rdma")] {
        if set {
            return Err(Error::unsupported(format!("linux.resources.{what} is not supported"))
                .hint("name the cgroup v2 files in linux.resources.unified instead"));
        }
    }
    Ok(())
}

/// A key of `unified` is one file of the container's own cgroup, and never its structure.
fn check_file_name(file: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if file.contains('.') && !file.starts_with('.') && file.bytes().all(plain) {
        return Ok(());
    }
    Err(Error::invalid(format!("{file:?} is not a cgroup v2 file")))
        .doing("read linux.resources.unified")
}

/// The kernel's word for no limit is `max`, the specification's a negative number.
fn max_or(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn signed(bytes: Option<u64>) -> Option<i64> {
    bytes.filter(|&n| n != 0).map(|n| i64::try_from(n).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn writes(resources: &Resources) -> Vec<(String, String)> {
        Limits::from_resources(resources, 4).expect("valid").writes
    }

    #[test]
    fn docker_units_become_the_kernels() {
        let none = Resources::default();
        let table: &[(Resources, &[(&str, &str)])] = &[
            (none.clone(), &[]),
            // Zero is docker's unset.
            (
                Resources {
                    memory: Some(0),
                    memory_swap: Some(0),
                    nano_cpus: Some(0),
                    pids_limit: Some(0),
                    ..none.clone()
                },
                &[],
            ),
            (
                Resources { memory: Some(64 * MB), ..none.clone() },
                &[("memory.max", "67108864"), ("memory.swap.max", "67108864")],
            ),
            (
                Resources { memory: Some(64 * MB), memory_swap: Some(67_108_864), ..none.clone() },
                &[("memory.max", "67108864"), ("memory.swap.max", "0")],
            ),
            (
                Resources { memory: Some(64 * MB), memory_swap: Some(-1), ..none.clone() },
                &[("memory.max", "67108864"), ("memory.swap.max", "max")],
            ),
            (
                Resources { memory_reservation: Some(8 * MB), ..none.clone() },
                &[("memory.low", "8388608")],
            ),
            (
                Resources { nano_cpus: Some(1_500_000_000), ..none.clone() },
                &[("cpu.max", "150000 100000")],
            ),
            (
                Resources { cpu_quota: Some(5_000), cpu_period: Some(10_000), ..none.clone() },
                &[("cpu.max", "5000 10000")],
            ),
            (Resources { cpu_quota: Some(-1), ..none.clone() }, &[("cpu.max", "max 100000")]),
            (Resources { cpu_period: Some(50_000), ..none.clone() }, &[("cpu.max", "max 50000")]),
            (Resources { cpu_shares: Some(1024), ..none.clone() }, &[("cpu.weight", "100")]),
            (
                Resources {
                    cpuset_cpus: Some("0-1,3".into()),
                    cpuset_mems: Some("0".into()),
                    pids_limit: Some(5),
                    ..none.clone()
                },
                &[("pids.max", "5"), ("cpuset.cpus", "0-1,3"), ("cpuset.mems", "0")],
            ),
        ];
        for (resources, expected) in table {
            let mut got = writes(resources);
            let mut expected: Vec<_> =
                expected.iter().map(|&(f, t)| (f.to_owned(), t.to_owned())).collect();
            got.sort();
            expected.sort();
            assert_eq!(got, expected, "{resources:?}");
        }
    }

    #[test]
    fn only_what_changes_is_written_again() {
        let limits = |resources| Limits::from_resources(&resources, 4).expect("valid");
        let none = Resources::default();
        let old = limits(Resources { memory: Some(64 * MB), pids_limit: Some(5), ..none.clone() });
        let new = limits(Resources { memory: Some(64 * MB), cpu_shares: Some(2), ..none });
        let writes = |limits: Limits| limits.writes().to_vec();
        let pair = |file: &str, text: &str| (file.to_owned(), text.to_owned());
        assert_eq!(writes(new.since(&old)), [pair("cpu.weight", "1"), pair("pids.max", "max")]);
        assert_eq!(writes(old.since(&old)), []);
    }

    #[test]
    fn the_share_curve_meets_its_three_points() {
        let table = [(0, 1), (1, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)];
        for (shares, weight) in table {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        let weights: Vec<_> = (2..262_144).step_by(97).map(weight_of_shares).collect();
        assert!(weights.is_sorted());
        assert!(weights.iter().all(|w| (1..=10_000).contains(w)));
    }

    #[test]
    fn refusals_are_in_dockers_words() {
        let none = Resources::default();
        let table = [
            (
                Resources { memory: Some(4 * MB), ..none.clone() },
                "Minimum memory limit allowed is 6MB",
            ),
            (
                Resources { memory: Some(64 * MB), memory_swap: Some(1), ..none.clone() },
                "Minimum memoryswap limit should be larger than memory limit, see usage",
            ),
            (
                Resources { memory_swap: Some(64 << 20), ..none.clone() },
                "You should always set the Memory limit when using Memoryswap limit, see usage",
            ),
            (
                Resources { memory_reservation: Some(MB), ..none.clone() },
                "Minimum memory reservation allowed is 6MB",
            ),
            (
                Resources {
                    memory: Some(8 * MB),
                    memory_reservation: Some(9 * MB),
                    ..none.clone()
                },
                "Minimum memory limit can not be less than memory reservation limit, see usage",
            ),
            (
                Resources { nano_cpus: Some(5_000_000_000), ..none.clone() },
                "Range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available",
            ),
            (
                Resources { nano_cpus: Some(1), ..none.clone() },
                "Range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available",
            ),
            (
                Resources {
                    nano_cpus: Some(1_000_000_000),
                    cpu_quota: Some(5_000),
                    ..none.clone()
                },
                "Conflicting options: Nano CPUs and CPU Quota cannot both be set.",
            ),
            (
                Resources { cpu_period: Some(10), ..none.clone() },
                "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. \
                 1000000)",
            ),
            (
                Resources { cpu_quota: Some(10), ..none.clone() },
                "CPU cfs quota can not be less than 1ms (i.e. 1000)",
            ),
            (
                Resources { cpuset_cpus: Some("0-".into()), ..none.clone() },
                "Invalid value 0- for cpuset cpus",
            ),
        ];
        for (resources, expected) in table {
            let err = Limits::from_resources(&resources, 4).expect_err(expected);
            assert_eq!(err.to_string(), expected);
        }
    }

    #[test]
    fn lists_are_the_kernels() {
        let members = |list| parse_list(list).map(|set| set.into_iter().collect::<Vec<_>>());
        assert_eq!(members("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(members(""), Some(vec![]));
        for bad in ["a", "1-", "-1", "2-1", "0,,1", "+1", "0-99999999", "1 2"] {
            assert_eq!(members(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_bundle_may_name_files_but_not_paths() {
        let spec = |key: &str| -> LinuxResources {
            serde_json::from_value(serde_json::json!({ "unified": { key: "1" } })).expect("json")
        };
        let limits = Limits::from_spec(&spec("memory.high")).expect("a file");
        assert_eq!(limits.get("memory.high"), Some("1"));
        assert_eq!(limits.controllers(), BTreeSet::from(["memory"]));
        for bad in ["../memory.max", "memory/max.x", "procs", ".hidden"] {
            assert!(Limits::from_spec(&spec(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_translated_is_refused() {
        let io = serde_json::json!({ "blockIO": { "leafWeight": 10 } });
        let spec: LinuxResources = serde_json::from_value(io).expect("json");
        assert!(Limits::from_spec(&spec).is_err());
        let empty = serde_json::json!({ "blockIO": {}, "hugepageLimits": [] });
        let spec: LinuxResources = serde_json::from_value(empty).expect("json");
        assert_eq!(Limits::from_spec(&spec), Ok(Limits::default()));
    }

    #[test]
    fn block_io_is_a_line_a_device() {
        let spec = serde_json::json!({ "blockIO": {
            "weight": 500,
            "weightDevice": [{ "major": 8, "minor": 0, "weight": 1000 }],
            "throttleReadBpsDevice": [{ "major": 8, "minor": 0, "rate": 1024 }],
            "throttleWriteIOPSDevice": [{ "major": 8, "minor": 16, "rate": 0 }],
        } });
        let spec: LinuxResources = serde_json::from_value(spec).expect("json");
        let limits = Limits::from_spec(&spec).expect("all of it");
        let writes: Vec<_> = limits.writes().iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(writes, ["500", "8:0 1000", "8:0 rbps=1024", "8:16 wiops=max"]);
        assert_eq!(limits.controllers(), BTreeSet::from(["io"]));
        assert_eq!(io_weight("8:0 1000"), "8:0 10000");
        assert_eq!(
            (io_weight("10"), io_weight("500")),
            ("default 1".into(), "default 4950".into())
        );
    }
}
