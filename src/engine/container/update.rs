//! `update`: other limits, another restart policy, health check and environment for a container
//! that exists.

use std::{fs, io::ErrorKind};

use super::{restart::check_policy, start::read_spec};
use crate::{
    cgroup::{self, Cgroup, Limits, limits::online_cpus},
    engine::Engine,
    error::{Context as _, Error, Result},
    run::{
        attach::Frame,
        monitor,
        spec::{self, merge_environment, without_unset},
    },
    state::{
        ContainerId,
        health::{HealthCheck, HealthLog, HealthState, OnFailure, StartupCheck},
        layout::ContainerPaths,
        record::{ContainerRecord, DeviceLimit, Resources, Ulimit},
        restart::RestartPolicy,
        store::{Durability, Lock, write_json},
    },
};

/// What is to be changed; what is `None` stays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UpdateRequest {
    pub resources: Resources,
    pub restart: Option<RestartPolicy>,
    pub health: HealthChange,
    /// `KEY=VALUE`; a bare name is taken away.
    pub env: Vec<String>,
    pub ulimits: Vec<Ulimit>,
}

/// Another health check. What is empty, zero or `None` stays; lengths are nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HealthChange {
    /// There is none any more.
    pub none: bool,
    pub test: Vec<String>,
    pub interval: Option<u64>,
    pub timeout: Option<u64>,
    pub start_period: Option<u64>,
    pub start_interval: Option<u64>,
    pub retries: Option<u32>,
    pub on_failure: Option<OnFailure>,
    pub startup: StartupCheck,
    pub log: HealthLog,
    /// No copy of the results in a directory of the host's any more.
    pub log_here: bool,
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
        // What cannot be is refused before anything is changed.
        let is_new_check = lay_health(&mut record, &request.health)?;
        record.config.env = merge_environment(record.config.env, &request.env);
        lay_ulimits(&mut record.host.ulimits, &request.ulimits);
        spec::rlimits(&record.host.ulimits)?;
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
        let of_process = !request.ulimits.is_empty() || !request.env.is_empty();
        if of_process && container.status.made().is_some() {
            self.change_entry(&record, &paths, request)?;
        }
        write_json(&paths.record(), &record, Durability::Synced)?;
        if is_new_check && paths.health().exists() {
            write_json(&paths.health(), &HealthState::default(), Durability::Renamed)?;
        }
        if request.health != HealthChange::default() && container.status.is_running() {
            // One that ends just now need not hear of it.
            if let Ok(mut stream) = monitor::connect(&paths) {
                let _ = Frame::Changed.write_to(&mut stream);
            }
        }
        self.note(&record, "update");
        Ok(())
    }
}

impl Engine {
    /// Tells those who will enter the container of its other variables and limits. Its command goes
    /// on with what it has.
    fn change_entry(
        &self,
        record: &ContainerRecord,
        paths: &ContainerPaths,
        request: &UpdateRequest,
    ) -> Result<()> {
        let Some(mut spec) = read_spec(paths)? else { return Ok(()) };
        let mut process = spec.process().clone().unwrap_or_default();
        let env = merge_environment(process.env().clone().unwrap_or_default(), &request.env);
        process
            .set_env(Some(without_unset(env)))
            .set_rlimits(Some(spec::rlimits(&record.host.ulimits)?));
        spec.set_process(Some(process));
        write_json(&paths.spec(), &spec, Durability::Renamed)?;
        // Made anew of that.
        match fs::remove_file(paths.exec_plan()) {
            Err(err) if err.kind() != ErrorKind::NotFound => Err(err).at(paths.exec_plan()),
            _ => self.door(&record.id)?.write(&paths.exec_plan()),
        }
    }
}

/// Whether something else is checked from here on.
fn lay_health(record: &mut ContainerRecord, change: &HealthChange) -> Result<bool> {
    let special = &mut record.host.special;
    let old = record.config.health.clone();
    if let Some(act) = change.on_failure {
        record.host.health_on_failure = act;
    }
    special.health_log.runs = change.log.runs.or(special.health_log.runs);
    special.health_log.bytes = change.log.bytes.or(special.health_log.bytes);
    if change.log_here || change.log.directory.is_some() {
        special.health_log.directory.clone_from(&change.log.directory);
    }
    if change.none {
        record.config.health =
            Some(HealthCheck { test: vec!["NONE".into()], ..HealthCheck::default() });
        special.startup = None;
        return Ok(false);
    }
    let had = old.as_ref().is_some_and(|check| check.command().is_some());
    let mut check = old.clone().filter(|_| had).unwrap_or_default();
    if !change.test.is_empty() {
        check.test.clone_from(&change.test);
    }
    for (mine, new) in [
        (&mut check.interval, change.interval),
        (&mut check.timeout, change.timeout),
        (&mut check.start_period, change.start_period),
        (&mut check.start_interval, change.start_interval),
    ] {
        *mine = new.unwrap_or(*mine);
    }
    check.retries = change.retries.unwrap_or(check.retries);
    let startup = lay_startup(special.startup.take(), &change.startup);
    let missing = |what: &str, flag: &str| {
        Err(Error::invalid(format!(
            "container {} has no {what} that could be changed",
            record.name
        ))
        .hint(format!("{flag} gives it one")))
    };
    if startup.as_ref().is_some_and(|startup| startup.test.is_empty()) {
        return missing("startup check", "--health-startup-cmd");
    }
    let is_empty = check == HealthCheck::default() && startup.is_none();
    if check.test.is_empty() && !is_empty {
        return missing("health check", "--health-cmd");
    }
    let is_new =
        old.as_ref().map(|old| &old.test) != Some(&check.test) || special.startup != startup;
    special.startup = startup;
    if !is_empty {
        record.config.health = Some(check);
    }
    Ok(is_new)
}

fn lay_startup(old: Option<StartupCheck>, new: &StartupCheck) -> Option<StartupCheck> {
    if *new == StartupCheck::default() {
        return old;
    }
    let mut check = old.unwrap_or_default();
    if !new.test.is_empty() {
        check.test.clone_from(&new.test);
    }
    let lay = |mine: &mut u64, new| *mine = if new == 0 { *mine } else { new };
    lay(&mut check.interval, new.interval);
    lay(&mut check.timeout, new.timeout);
    let lay = |mine: &mut u32, new| *mine = if new == 0 { *mine } else { new };
    lay(&mut check.retries, new.retries);
    lay(&mut check.successes, new.successes);
    Some(check)
}

/// Other limits stay.
fn lay_ulimits(old: &mut Vec<Ulimit>, new: &[Ulimit]) {
    old.retain(|limit| new.iter().all(|other| other.name != limit.name));
    old.extend_from_slice(new);
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
