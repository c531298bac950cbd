//! Flags of health checks, of `run`, `create` and `update`.

use clap::Args;

/// What is checked, and what follows from it.
#[derive(Debug, Default, Args)]
pub struct HealthFlags {
    /// Command that tells whether the container is healthy
    #[arg(long)]
    pub health_cmd: Option<String>,
    /// Time between two checks
    #[arg(long)]
    pub health_interval: Option<String>,
    /// What to do when it becomes unhealthy: none, kill, restart or stop
    #[arg(long)]
    pub health_on_failure: Option<String>,
    /// Failures in a row that make it unhealthy
    #[arg(long)]
    pub health_retries: Option<u32>,
    /// Time between two checks in the start period
    #[arg(long)]
    pub health_start_interval: Option<String>,
    /// Time to start up in, in which failures do not count
    #[arg(long)]
    pub health_start_period: Option<String>,
    /// Time that a check may take
    #[arg(long)]
    pub health_timeout: Option<String>,
    /// Check nothing, whatever the image says
    #[arg(long)]
    pub no_healthcheck: bool,
}

/// The rest of them.
#[derive(Debug, Default, Args)]
pub struct SeldomHealth {
    /// Where results of health checks are kept: local, or also in a directory of this host
    #[arg(long, value_name = "local|DIR")]
    pub health_log_destination: Option<String>,
    /// How many results are kept; 0 is all
    #[arg(long, value_name = "COUNT")]
    pub health_max_log_count: Option<u32>,
    /// Bytes of a health check's output that are kept; 0 is all
    #[arg(long, value_name = "BYTES")]
    pub health_max_log_size: Option<u32>,
    /// Command that has to pass before there are health checks
    #[arg(long, value_name = "COMMAND")]
    pub health_startup_cmd: Option<String>,
    /// Time between two runs of it
    #[arg(long, value_name = "DURATION")]
    pub health_startup_interval: Option<String>,
    /// Failures after which the container is started anew; 0 is never
    #[arg(long, value_name = "COUNT")]
    pub health_startup_retries: Option<u32>,
    /// How often it has to pass
    #[arg(long, value_name = "COUNT")]
    pub health_startup_success: Option<u32>,
    /// How long one run may take
    #[arg(long, value_name = "DURATION")]
    pub health_startup_timeout: Option<String>,
}
