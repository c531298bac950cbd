//! Verbs that watch containers, and change what is watched.

use clap::Args;

/// Show what containers use
#[derive(Debug, Args)]
pub struct Stats {
    /// Show all containers, not only running ones
    #[arg(short, long)]
    pub all: bool,
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    /// Seconds between two readings
    #[arg(short, long, default_value = "1")]
    pub interval: u64,
    /// The one created last
    #[arg(short, long)]
    pub latest: bool,
    /// Do not clear the screen before each reading
    #[arg(long)]
    pub no_reset: bool,
    /// Show one reading and end
    #[arg(long)]
    pub no_stream: bool,
    /// Do not shorten
    #[arg(long)]
    pub no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// Change the limits of containers
#[derive(Debug, Args)]
pub struct Update {
    /// Weight of block I/O: not in this version
    #[arg(long, hide = true)]
    pub blkio_weight: Option<u16>,
    /// CPU period in microseconds
    #[arg(long)]
    pub cpu_period: Option<u64>,
    /// CPU time per period in microseconds
    #[arg(long, allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// Real-time limits: cgroup v2 has none
    #[arg(long, hide = true)]
    pub cpu_rt_period: Option<u64>,
    #[arg(long, hide = true)]
    pub cpu_rt_runtime: Option<u64>,
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
    /// Start it again when it ends: no, on-failure[:N], always or unless-stopped
    #[arg(long)]
    pub restart: Option<String>,
    #[arg(value_name = "CONTAINER", required = true)]
    pub containers: Vec<String>,
}

/// Show what happens to containers and images
#[derive(Debug, Args)]
pub struct Events {
    /// Only what matches (key=value)
    #[arg(short, long)]
    pub filter: Vec<String>,
    /// Go template, or json
    #[arg(long)]
    pub format: Option<String>,
    /// Accepted for podman's sake: ids are never shortened
    #[arg(long)]
    pub no_trunc: bool,
    /// From this moment on (time, or how long ago)
    #[arg(long)]
    pub since: Option<String>,
    /// Go on when all that has happened is shown
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub stream: bool,
    /// Until this moment
    #[arg(long)]
    pub until: Option<String>,
}

/// Run a container's health check once
#[derive(Debug, Args)]
pub struct HealthcheckRun {
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// Print a systemd unit: for one container, or for all that have a restart policy
#[derive(Debug, Args)]
pub struct GenerateSystemd {
    /// Write it to a file in the current directory, and print its name
    #[arg(short, long)]
    pub files: bool,
    /// Use the container's name instead of its id
    #[arg(short, long)]
    pub name: bool,
    /// Do not say what made it
    #[arg(long)]
    pub no_header: bool,
    /// systemd's own restart policy
    #[arg(long, default_value = "on-failure")]
    pub restart_policy: String,
    /// Seconds that a stop may take
    #[arg(short, long, default_value = "10")]
    pub stop_timeout: u32,
    #[arg(value_name = "CONTAINER")]
    pub container: Option<String>,
}
