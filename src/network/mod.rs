//! Networks: links, packet rules, addresses, and the role that carries an ordinary user's
//! traffic.

pub mod attachment;
mod cable;
pub mod carrier;
pub mod client;
mod egress;
pub mod firewall;
pub mod host;
pub mod lease;
pub mod link;
pub mod names;
pub mod nft;
mod protocol;
pub mod role;
mod share;
pub mod sweep;

use std::fs;

use crate::{
    state::{ContainerId, Layout, record::ProcessRecord, store::read_json},
    sys,
};

/// The containers that run and have networks.
pub(crate) fn running(layout: &Layout) -> Vec<(ContainerId, ProcessRecord)> {
    let boot_id = boot_id();
    let runs = |id| running_one(layout, &id, &boot_id).map(|process| (id, process));
    ids_that_ran(layout)
        .filter_map(runs)
        .filter(|(id, _)| layout.container(id).network().exists())
        .collect()
}

/// The containers that ran when somebody last looked.
fn ids_that_ran(layout: &Layout) -> impl Iterator<Item = ContainerId> {
    let entries = fs::read_dir(layout.run_containers()).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// A container's process, if it runs.
fn running_one(layout: &Layout, id: &ContainerId, boot_id: &str) -> Option<ProcessRecord> {
    let process: ProcessRecord = read_json(&layout.container(id).process()).ok()??;
    let is_alive = process.boot_id.trim() == boot_id
        && sys::process::is_alive(process.init.pid, process.init.start_time);
    is_alive.then_some(process)
}

fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}
