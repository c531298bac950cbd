//! Limits as they are typed.

use std::collections::BTreeMap;

use super::{
    super::{
        args::resources::ResourceFlags,
        exit,
        value::{device, size},
    },
    create::{list, one},
};
use crate::{
    error::{Error, Result},
    state::record::{DeviceLimit, Resources},
};

/// What was typed, read; what it comes to is checked by the engine.
pub(super) fn read(flags: &ResourceFlags) -> Result<Resources> {
    if flags.cpus.is_some() && (flags.cpu_quota.is_some() || flags.cpu_period.is_some()) {
        return Err(Error::invalid(
            "conflicting options: CPU period or quota cannot be used together with --cpus",
        ));
    }
    let bytes = |flag: &str, text: &Option<String>| one(flag, text.as_ref(), size::bytes);
    let seldom = &flags.seldom;
    let rates = |flag, texts, parse: fn(&str) -> Result<DeviceLimit>| list(flag, texts, parse);
    if let Some(swappiness) = seldom.memory_swappiness {
        discard_swappiness(swappiness)?;
    }
    Ok(Resources {
        memory: bytes("--memory", &flags.memory)?.filter(|bytes| *bytes > 0),
        memory_swap: one("--memory-swap", flags.memory_swap.as_ref(), size::memory_swap)?,
        memory_reservation: bytes("--memory-reservation", &flags.memory_reservation)?,
        nano_cpus: one("--cpus", flags.cpus.as_ref(), size::cpus)?,
        cpu_shares: flags.cpu_shares,
        cpu_quota: flags.cpu_quota,
        cpu_period: flags.cpu_period,
        cpuset_cpus: flags.cpuset_cpus.clone(),
        cpuset_mems: flags.cpuset_mems.clone(),
        pids_limit: flags.pids_limit,
        blkio_weight: seldom.blkio_weight.filter(|weight| *weight != 0),
        blkio_weight_device: rates(
            "--blkio-weight-device",
            &seldom.blkio_weight_device,
            device::weight,
        )?,
        device_read_bps: rates("--device-read-bps", &seldom.device_read_bps, device::bps)?,
        device_read_iops: rates("--device-read-iops", &seldom.device_read_iops, device::iops)?,
        device_write_bps: rates("--device-write-bps", &seldom.device_write_bps, device::bps)?,
        device_write_iops: rates("--device-write-iops", &seldom.device_write_iops, device::iops)?,
        unified: BTreeMap::new(),
    })
}

/// Only cgroup v1 had it for each container; -1 is its "leave it".
fn discard_swappiness(swappiness: i64) -> Result<()> {
    if !(-1..=100).contains(&swappiness) {
        return Err(Error::invalid(format!(
            "invalid value: {swappiness}. Valid memory swappiness range is 0-100"
        )));
    }
    if swappiness >= 0 {
        exit::note(
            "WARNING: Your kernel does not support memory swappiness capabilities or the cgroup is \
             not mounted. Memory swappiness discarded.",
        );
    }
    Ok(())
}

/// `--cgroup-conf FILE=TEXT`.
pub(super) fn unified(typed: &[String]) -> Result<BTreeMap<String, String>> {
    let parse = |text: &str| match text.split_once('=') {
        Some((file, content)) if !file.is_empty() => Ok((file.to_owned(), content.to_owned())),
        _ => Err(Error::invalid("it is not FILE=TEXT").hint("for example memory.high=512000000")),
    };
    Ok(list("--cgroup-conf", typed, parse)?.into_iter().collect())
}
