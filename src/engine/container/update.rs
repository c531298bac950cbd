//! `update`: other limits and another restart policy for a container that exists.

use super::restart::check_policy;
use crate::{
    cgroup::{self, Cgroup, Limits, limits::online_cpus},
    engine::Engine,
    error::{Context as _, Error, Result},
    state::{
        ContainerId,
        record::{DeviceLimit, Resources},
        restart::RestartPolicy,
        store::{Durability, Lock, write_json},
    },
};

/// What is to be changed; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateRequest {
    pub resources: Resources,
    pub restart: Option<RestartPolicy>,
}

impl Engine {
    /// Changes the record, and what the kernel was told of a container that runs.
    pub fn update(&self, id: &ContainerId, request: &UpdateRequest) -> Result<()> {
        let paths = self.layout.container(id);
        let _lock = Lock::exclusive(paths.dir())?;
        let container = self.load(id)?;
        let mut record = container.record;
        if let Some(policy) = request.restart {
            check_policy(policy, record.host.auto_remove).map_err(|_| {
                Error::conflict(
                    "Restart policy cannot be updated because AutoRemove is enabled for the container",
                )
            })?;
            record.host.restart = policy;
        }
        let old = Limits::from_resources(&record.host.resources, online_cpus())?;
        merge(&mut record.host.resources, &request.resources)?;
        let new = Limits::from_resources(&record.host.resources, online_cpus())?;
        if let Some(process) = container.status.made() {
            let changes = new.since(&old);
            if !changes.is_empty() {
                let host = cgroup::Host::detect()?;
                let path = process.cgroup.clone().ok_or_else(|| {
                    Error::unsupported(format!("container {} has no cgroup", record.name))
                        .hint("`dhow doctor` says how this user gets a cgroup v2 subtree")
                })?;
                host.change(&Cgroup::open(path)?, &changes)
                    .doing_with(|| format!("update container {}", record.name))?;
            }
        }
        write_json(&paths.record(), &record, Durability::Synced)?;
        self.note(&record, "update");
        Ok(())
    }
}

/// Lays what was typed over what there is.
pub(super) fn merge(old: &mut Resources, new: &Resources) -> Result<()> {
    // Docker: the two must stay in order, and only one of them was named.
    if let (Some(memory), None, Some(swap)) = (new.memory, new.memory_swap, old.memory_swap)
        && u64::try_from(swap).is_ok_and(|swap| swap > 0 && memory > swap)
    {
        return Err(Error::invalid(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ));
    }
    let cpus = new.nano_cpus.is_some();
    if cpus && (old.cpu_quota.is_some() || old.cpu_period.is_some()) {
        return Err(Error::conflict(
            "Conflicting options: Nano CPUs cannot be updated as CPU Period/Quota has already been set",
        ));
    }
    if old.nano_cpus.is_some() && (new.cpu_quota.is_some() || new.cpu_period.is_some()) {
        return Err(Error::conflict(
            "Conflicting options: CPU Period/Quota cannot be updated as NanoCPUs has already been set",
        ));
    }
    fn lay<T: Clone>(old: &mut Option<T>, new: &Option<T>) {
        if new.is_some() {
            old.clone_from(new);
        }
    }
    lay(&mut old.memory, &new.memory);
    lay(&mut old.memory_swap, &new.memory_swap);
    lay(&mut old.memory_reservation, &new.memory_reservation);
    lay(&mut old.nano_cpus, &new.nano_cpus);
    lay(&mut old.cpu_shares, &new.cpu_shares);
    lay(&mut old.cpu_quota, &new.cpu_quota);
    lay(&mut old.cpu_period, &new.cpu_period);
    lay(&mut old.cpuset_cpus, &new.cpuset_cpus);
    lay(&mut old.cpuset_mems, &new.cpuset_mems);
    lay(&mut old.blkio_weight, &new.blkio_weight);
    lay_devices(&mut old.blkio_weight_device, &new.blkio_weight_device);
    lay_devices(&mut old.device_read_bps, &new.device_read_bps);
    lay_devices(&mut old.device_write_bps, &new.device_write_bps);
    lay_devices(&mut old.device_read_iops, &new.device_read_iops);
    lay_devices(&mut old.device_write_iops, &new.device_write_iops);
    // Zero or less is unlimited.
    if let Some(limit) = new.pids_limit {
        old.pids_limit = Some(limit).filter(|&limit| limit > 0);
    }
    Ok(())
}

/// Other devices keep what they have.
fn lay_devices(old: &mut Vec<DeviceLimit>, new: &[DeviceLimit]) {
    old.retain(|limit| new.iter().all(|other| other.path != limit.path));
    old.extend_from_slice(new);
}
