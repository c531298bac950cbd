//! Verbs that watch containers, and change what is watched.

use clap::Args;

use super::{
    health::{HealthFlags, SeldomHealth},
    resources::ResourceFlags,
    seldom::Seldom,
};

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

/// Change the limits and health checks of containers
#[derive(Debug, Args)]
pub struct Update {
    #[command(flatten)]
    pub resources: ResourceFlags,
    #[command(flatten)]
    pub health: Seldom<HealthFlags>,
    #[command(flatten)]
    pub health_more: Seldom<SeldomHealth>,
    #[command(flatten)]
    pub process: Seldom<SeldomUpdate>,
    /// Start it again when it ends: no, on-failure[:N], always or unless-stopped
    #[arg(long)]
    pub restart: Option<String>,
    /// The one created last
    #[arg(short, long)]
    pub latest: bool,
    #[arg(value_name = "CONTAINER", required_unless_present = "latest")]
    pub containers: Vec<String>,
}

/// What the container's command gets at its next start, and an exec at once.
#[derive(Debug, Default, Args)]
pub struct SeldomUpdate {
    /// Set a variable
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Set a resource limit (NAME=SOFT[:HARD])
    #[arg(long)]
    pub ulimit: Vec<String>,
    /// Take away a variable
    #[arg(long)]
    pub unsetenv: Vec<String>,
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
    /// Make a new container at each start, as this one was made, and remove it at its end
    #[arg(long)]
    pub new: bool,
    /// One unit for many containers, NAME@INSTANCE.service
    #[arg(long, requires = "new")]
    pub template: bool,
    /// Do not say what made it
    #[arg(long)]
    pub no_header: bool,
    /// systemd's own restart policy
    #[arg(long, default_value = "on-failure")]
    pub restart_policy: String,
    /// Seconds that systemd waits before it starts it again
    #[arg(long, value_name = "SECONDS")]
    pub restart_sec: Option<u32>,
    /// Seconds that a start may take
    #[arg(long, value_name = "SECONDS")]
    pub start_timeout: Option<u32>,
    /// Seconds that a stop may take
    #[arg(short, long, default_value = "10")]
    pub stop_timeout: u32,
    /// Units that must have been started before it
    #[arg(long, value_name = "UNIT", value_delimiter = ',')]
    pub after: Vec<String>,
    /// Units that are started with it
    #[arg(long, value_name = "UNIT", value_delimiter = ',')]
    pub wants: Vec<String>,
    /// Units without which it does not start
    #[arg(long, value_name = "UNIT", value_delimiter = ',')]
    pub requires: Vec<String>,
    /// A variable for what the unit runs: NAME=VALUE
    #[arg(short, long)]
    pub env: Vec<String>,
    /// What the unit's name begins with
    #[arg(long, value_name = "PREFIX", default_value = "container")]
    pub container_prefix: String,
    /// What stands between that and the container's name
    #[arg(long, default_value = "-")]
    pub separator: String,
    /// json: an object with the unit's name and text
    #[arg(long, conflicts_with = "files", value_parser = ["json"])]
    pub format: Option<String>,
    #[arg(value_name = "CONTAINER")]
    pub container: Option<String>,
}
