//! `stats`: what containers use now.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::list::Query;
use crate::{
    cgroup::{Cgroup, stats},
    engine::Engine,
    error::Result,
    state::{ContainerId, record::ProcessRecord},
};

/// One reading of one container. What nobody counts here is `None`, never zero.
#[derive(Debug, Clone)]
pub struct Sample {
    pub id: ContainerId,
    pub name: String,
    pub is_running: bool,
    pub at: Instant,
    /// CPU time since the start, microseconds.
    pub cpu_usec: Option<u64>,
    /// Bytes in use, without the page cache that is given up first.
    pub memory: Option<u64>,
    /// Bytes; this host's memory if there is no limit.
    pub memory_limit: Option<u64>,
    /// Bytes received and sent on the interfaces of the container's own network.
    pub network: Option<(u64, u64)>,
    /// Bytes read from and written to block devices.
    pub block: Option<(u64, u64)>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Sample {
    /// Hundredths of one CPU used since an `earlier` reading of the same container.
    pub fn cpu_percent(&self, earlier: Option<&Self>) -> Option<f64> {
        let earlier = earlier?;
        let used = Duration::from_micros(self.cpu_usec?.saturating_sub(earlier.cpu_usec?));
        let passed = self.at.saturating_duration_since(earlier.at);
        (!passed.is_zero()).then(|| 100.0 * used.as_secs_f64() / passed.as_secs_f64())
    }
}

impl Engine {
    /// Reads what the named containers use; without names those that run, or `all`.
    pub fn stats(&self, names: &[ContainerId], all: bool) -> Result<Vec<Sample>> {
        if names.is_empty() {
            let found = self.containers(&Query { all, ..Query::default() })?.containers;
            let samples = found.into_iter().map(|one| {
                let process = one.status.process().cloned();
                self.sample(one.id, one.name, process.as_ref())
            });
            return Ok(samples.collect());
        }
        let sample = |id: &ContainerId| {
            let container = self.load(id)?;
            let process = container.status.process();
            Ok(self.sample(id.clone(), container.record.name.clone(), process))
        };
        names.iter().map(sample).collect()
    }

    fn sample(&self, id: ContainerId, name: String, process: Option<&ProcessRecord>) -> Sample {
        let cgroup = process.and_then(|process| Cgroup::open(process.cgroup.clone()?).ok());
        let stats = cgroup.as_ref().map(stats::read).unwrap_or_default();
        let limit = stats.memory_limit.or_else(host_memory).filter(|_| stats.memory.is_some());
        Sample {
            is_running: process.is_some(),
            at: Instant::now(),
            cpu_usec: stats.cpu_usec,
            memory: stats
                .memory
                .map(|all| all.saturating_sub(stats.memory_inactive_file.unwrap_or(0))),
            memory_limit: limit,
            network: process.and_then(network),
            block: stats.io_read.zip(stats.io_written),
            pids: stats.pids.or_else(|| cgroup.as_ref().and_then(threads)),
            id,
            name,
        }
    }
}

/// Without the pids controller they can still be counted.
fn threads(cgroup: &Cgroup) -> Option<u64> {
    let pids = cgroup.pids().ok()?;
    let count = |pid: &i32| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
        u64::try_from(tasks.count()).ok()
    };
    Some(pids.iter().filter_map(count).sum())
}

/// `/proc/meminfo`, MemTotal (proc_meminfo(5)).
fn host_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// The interfaces that init sees, loopback left out (proc_pid_net(5), "dev"). The host's own are
/// not the container's.
fn network(process: &ProcessRecord) -> Option<(u64, u64)> {
    let own = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    let pid = process.init.pid.to_string();
    if own(&pid)? == own("self")? {
        return Some((0, 0));
    }
    Some(bytes(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?))
}

fn bytes(table: &str) -> (u64, u64) {
    let lines = table.lines().filter_map(|line| line.split_once(':'));
    let others = lines.filter(|(name, _)| name.trim() != "lo");
    others.fold((0, 0), |(received, sent), (_, numbers)| {
        let mut numbers = numbers.split_whitespace().map(|number| number.parse().unwrap_or(0));
        (received + numbers.next().unwrap_or(0), sent + numbers.nth(7).unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_summed_without_loopback() {
        let table = "Inter-|   Receive      |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes packets\n    lo:  99 1 0 0 0 0 0 0 99 1 0 0 0 0 0 0\n  eth0: 100 1 0 0 0 0 0 0 20 1 0 0 0 0 0 0\n  eth1:   5 1 0 0 0 0 0 0  7 1 0 0 0 0 0 0\n";
        assert_eq!(bytes(table), (105, 27));
        assert!(host_memory() > Some(1 << 20));
    }
}
