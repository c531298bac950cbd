//! Limits, and other flags that several verbs share.

use clap::Args;

use super::seldom::Seldom;

/// What `run`, `create` and `update` limit.
#[derive(Debug, Args)]
pub struct ResourceFlags {
    /// CPU period in microseconds
    #[arg(long)]
    pub cpu_period: Option<u64>,
    /// CPU time per period in microseconds
    #[arg(long, allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// CPU weight relative to others (2 to 262144)
    #[arg(short, long)]
    pub cpu_shares: Option<u64>,
    /// Number of CPUs, e.g. 1.5
    #[arg(long)]
    pub cpus: Option<String>,
    /// CPUs to run on, e.g. 0-3,7
    #[arg(long)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes to use, e.g. 0,1
    #[arg(long)]
    pub cpuset_mems: Option<String>,
    /// Memory limit, e.g. 512m
    #[arg(short, long)]
    pub memory: Option<String>,
    /// Memory the kernel tries to keep to under pressure
    #[arg(long)]
    pub memory_reservation: Option<String>,
    /// Memory and swap together; -1 is unlimited swap
    #[arg(long, allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Limit on processes; -1 is unlimited
    #[arg(long, allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
    #[command(flatten)]
    pub seldom: Seldom<SeldomResources>,
}

/// The rest of them.
#[derive(Debug, Default, Args)]
pub struct SeldomResources {
    /// Weight of block I/O relative to others (10 to 1000)
    #[arg(long)]
    pub blkio_weight: Option<u16>,
    /// The same for one device (PATH:WEIGHT)
    #[arg(long)]
    pub blkio_weight_device: Vec<String>,
    /// Limit on reading from a device, in bytes a second (PATH:RATE, e.g. /dev/sda:1mb)
    #[arg(long)]
    pub device_read_bps: Vec<String>,
    /// Limit on reads from a device, in operations a second (PATH:RATE)
    #[arg(long)]
    pub device_read_iops: Vec<String>,
    /// Limit on writing to a device, in bytes a second (PATH:RATE)
    #[arg(long)]
    pub device_write_bps: Vec<String>,
    /// Limit on writes to a device, in operations a second (PATH:RATE)
    #[arg(long)]
    pub device_write_iops: Vec<String>,
    /// How readily memory is swapped out: cgroup v2 cannot be told, so this only warns
    #[arg(long, allow_negative_numbers = true)]
    pub memory_swappiness: Option<i64>,
}

/// How `stop` and `restart` end a container.
#[derive(Debug, Args)]
pub struct Ending {
    /// Signal to send
    #[arg(short, long)]
    pub signal: Option<String>,
    /// Seconds to wait before killing; -1 for ever
    #[arg(short = 't', long = "timeout", visible_alias = "time", allow_negative_numbers = true)]
    pub timeout: Option<i64>,
}
