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

use std::fs;

use crate::{
    state::{ContainerId, Layout, record::ProcessRecord, store::read_json},
    sys,
};

/// The containers that run and have networks.
pub(crate) fn running(layout: &Layout) -> Vec<(ContainerId, ProcessRecord)> {
    let entries = fs::read_dir(layout.run_containers()).into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<ContainerId>().ok());
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    ids.filter_map(|id| {
        let paths = layout.container(&id);
        let process: ProcessRecord = read_json(&paths.process()).ok()??;
        let is_alive = process.boot_id.trim() == boot_id.trim()
            && sys::process::is_alive(process.init.pid, process.init.start_time);
        (is_alive && paths.network().exists()).then_some((id, process))
    })
    .collect()
}
