//! `run`, `create` and the verbs on containers that exist.

use std::ffi::OsString;

use clap::Args;

use super::{
    health::{HealthFlags, SeldomHealth},
    life::Chosen,
    resources::{Ending, ResourceFlags},
    seldom::{PassedFds, Seldom, SeldomExec, SeldomFlags},
};

/// Docker's.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// What a container is made of: the flags `run` and `create` share.
#[derive(Debug, Args)]
pub struct ContainerFlags {
    /// All words behind the verb; see [`words_behind_verb`].
    #[arg(skip)]
    pub typed: Vec<String>,
    /// The global `--hooks-dir`.
    #[arg(skip)]
    pub hooks_dir: Vec<std::path::PathBuf>,
    /// Annotation of the runtime spec (key=value)
    #[arg(long)]
    pub annotation: Vec<String>,
    /// Attach to stdin, stdout or stderr
    #[arg(short, long)]
    pub attach: Vec<String>,
    /// Add a capability
    #[arg(long)]
    pub cap_add: Vec<String>,
    /// Drop a capability
    #[arg(long)]
    pub cap_drop: Vec<String>,
    /// Cgroup below which the container's is made
    #[arg(long, default_value = "", hide_default_value = true)]
    pub cgroup_parent: String,
    /// Cgroup namespace: host, private or container:NAME
    #[arg(long)]
    pub cgroupns: Option<String>,
    /// Write the container's id to this file
    #[arg(long)]
    pub cidfile: Option<std::path::PathBuf>,
    /// Give a device of the host (HOST[:CONTAINER][:rwm])
    #[arg(long)]
    pub device: Vec<String>,
    /// Allow use of more devices (KIND MAJOR:MINOR ACCESS, e.g. "c 42:* rwm")
    #[arg(long)]
    pub device_cgroup_rule: Vec<String>,
    /// NIS domain name
    #[arg(long, default_value = "", hide_default_value = true)]
    pub domainname: String,
    /// Replace the image's entrypoint
    #[arg(long)]
    pub entrypoint: Option<String>,
    /// Set a variable (NAME=VALUE, or NAME from this environment)
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Read variables from a file
    #[arg(long)]
    pub env_file: Vec<std::path::PathBuf>,
    /// Line for /etc/hosts (NAME:ADDRESS or NAME:host-gateway)
    #[arg(long)]
    pub add_host: Vec<String>,
    /// Resolver's address
    #[arg(long)]
    pub dns: Vec<String>,
    /// Resolver option
    #[arg(long, visible_alias = "dns-opt")]
    pub dns_option: Vec<String>,
    /// Search domain; `.` is none
    #[arg(long)]
    pub dns_search: Vec<String>,
    /// Expose a port (PORT[-END][/PROTOCOL])
    #[arg(long)]
    pub expose: Vec<String>,
    /// Additional groups
    #[arg(long)]
    pub group_add: Vec<String>,
    #[command(flatten)]
    pub health: HealthFlags,
    /// Host name inside
    #[arg(short = 'h', long)]
    pub hostname: Option<String>,
    /// Run an init that reaps and forwards signals
    #[arg(long)]
    pub init: bool,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// IPC namespace: host, private, shareable or container:NAME
    #[arg(long)]
    pub ipc: Option<String>,
    /// IPv4 address of the container
    #[arg(long)]
    pub ip: Option<String>,
    /// IPv6 address of the container
    #[arg(long)]
    pub ip6: Option<String>,
    /// Set a label (key=value)
    #[arg(short, long)]
    pub label: Vec<String>,
    /// Read labels from a file
    #[arg(long)]
    pub label_file: Vec<std::path::PathBuf>,
    /// Where output goes: local, json-file, k8s-file, journald, passthrough or none
    #[arg(long)]
    pub log_driver: Option<String>,
    /// Name for another container on the network (CONTAINER[:ALIAS])
    #[arg(long)]
    pub link: Vec<String>,
    /// A further address of the container, for who is on the same network
    #[arg(long)]
    pub link_local_ip: Vec<String>,
    /// Logging option: max-size=10m, max-file=3
    #[arg(long)]
    pub log_opt: Vec<String>,
    /// MAC address of the container
    #[arg(long)]
    pub mac_address: Option<String>,
    /// Mount something (type=volume|bind|tmpfs,source=...,target=...)
    #[arg(long)]
    pub mount: Vec<String>,
    /// Name of the container
    #[arg(long)]
    pub name: Option<String>,
    /// Where it may go: deny, record, or allow=HOST[:PORT],*.DOMAIN,CIDR[:PORT]... (an echo needs one without a port)
    #[arg(long, value_name = "POLICY")]
    pub egress: Vec<String>,
    /// Network: bridge, the name of one (with :ip=...), none, host or container:NAME
    #[arg(long, visible_alias = "net", env = "DHOW_NETWORK", hide_env_values = true)]
    pub network: Vec<String>,
    /// Another name of the container on its network
    #[arg(long, visible_alias = "net-alias")]
    pub network_alias: Vec<String>,
    /// OOM killer's preference (-1000 to 1000)
    #[arg(long, allow_negative_numbers = true)]
    pub oom_score_adj: Option<i32>,
    /// PID namespace: host, private or container:NAME
    #[arg(long)]
    pub pid: Option<String>,
    /// Platform of the image (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    /// Give every capability and device of the host
    #[arg(long)]
    pub privileged: bool,
    /// Publish a port ([[IP:]HOST_PORT:]PORT[/PROTOCOL], ranges too)
    #[arg(short, long)]
    pub publish: Vec<String>,
    /// Publish all exposed ports, on ports that are free
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Pull the image: always, missing or never
    #[arg(long, default_value = "missing")]
    pub pull: String,
    /// Do not show the pull
    #[arg(short, long)]
    pub quiet: bool,
    /// Mount the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Start it again when it ends: no, on-failure[:N], always or unless-stopped
    #[arg(long)]
    pub restart: Option<String>,
    /// Remove the container when it ends
    #[arg(long)]
    pub rm: bool,
    /// no-new-privileges, seccomp=FILE|unconfined, apparmor=NAME, mask=PATH, unmask=PATH|ALL
    #[arg(long)]
    pub security_opt: Vec<String>,
    /// Size of /dev/shm
    #[arg(long)]
    pub shm_size: Option<String>,
    /// Signal that `stop` sends
    #[arg(long)]
    pub stop_signal: Option<String>,
    /// Seconds `stop` waits before it kills; -1 for ever
    #[arg(long, allow_negative_numbers = true)]
    pub stop_timeout: Option<i64>,
    /// Set a kernel parameter of the container's namespaces
    #[arg(long)]
    pub sysctl: Vec<String>,
    /// Mount a tmpfs (PATH[:OPTIONS])
    #[arg(long)]
    pub tmpfs: Vec<String>,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set a resource limit (NAME=SOFT[:HARD])
    #[arg(long)]
    pub ulimit: Vec<String>,
    /// User, as name or number (USER[:GROUP])
    #[arg(short, long)]
    pub user: Option<String>,
    /// User namespace: host, keep-id[:uid=N,gid=N] or nomap
    #[arg(long)]
    pub userns: Option<String>,
    /// UTS namespace: host or private
    #[arg(long)]
    pub uts: Option<String>,
    /// Mount a volume or a path of the host ([SOURCE:]TARGET[:OPTIONS])
    #[arg(short, long)]
    pub volume: Vec<String>,
    /// What makes volumes that are not there yet: local is all there is
    #[arg(long)]
    pub volume_driver: Option<String>,
    /// Mount the volumes of another container (CONTAINER[:ro])
    #[arg(long)]
    pub volumes_from: Vec<String>,
    /// Working directory inside
    #[arg(short, long)]
    pub workdir: Option<String>,
    #[command(flatten)]
    pub resources: ResourceFlags,
    #[command(flatten)]
    pub seldom: Seldom<SeldomFlags>,
    #[command(flatten)]
    pub health_more: Seldom<SeldomHealth>,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Image, command and its arguments
    #[arg(
        value_name = "IMAGE [COMMAND] [ARG...]",
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub image_and_command: Vec<String>,
}

/// What of a command line stands behind `run` or `create`.
pub fn words_behind_verb(args: &[OsString]) -> Vec<String> {
    const WITH_VALUE: [&str; 7] =
        ["--root", "--runroot", "--storage-driver", "-l", "--log-level", "--config", "--hooks-dir"];
    let mut words = args.iter().skip(1).map(|word| word.to_string_lossy().into_owned());
    while let Some(word) = words.next() {
        if WITH_VALUE.contains(&word.as_str()) {
            words.next();
        } else if !word.starts_with('-') && word != "container" {
            break;
        }
    }
    words.collect()
}

impl ContainerFlags {
    /// Whether the container goes when it ends.
    pub fn goes(&self) -> bool {
        self.rm || self.seldom.rmi
    }
}

/// Create and run a container
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Run {
    /// Run in the background and print the id
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that detach from the terminal
    #[arg(long, default_value = DETACH_KEYS)]
    pub detach_keys: String,
    /// Pass signals on to the container
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub sig_proxy: bool,
    #[command(flatten)]
    pub fds: Seldom<PassedFds>,
    #[command(flatten)]
    pub container: ContainerFlags,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// Create a container without starting it
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Create {
    #[command(flatten)]
    pub container: ContainerFlags,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

/// Start containers that do not run
#[derive(Debug, Args)]
pub struct Start {
    /// Attach to output and pass signals on
    #[arg(short, long)]
    pub attach: bool,
    /// Attach stdin
    #[arg(short, long)]
    pub interactive: bool,
    /// Keys that detach from the terminal
    #[arg(long, default_value = DETACH_KEYS)]
    pub detach_keys: String,
    /// Pass signals on to the container
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub sig_proxy: bool,
    /// All that do not run
    #[arg(long)]
    pub all: bool,
    /// All that their restart policies bring back after a reboot
    #[arg(long, conflicts_with_all = ["containers", "attach", "interactive"])]
    pub all_restartable: bool,
    /// The one created last
    #[arg(short, long)]
    pub latest: bool,
    /// Those that `ps -a --filter` would show (key=value)
    #[arg(short, long)]
    pub filter: Vec<String>,
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "all_restartable", "latest", "filter"])]
    pub containers: Vec<String>,
}

/// Run a command in a running container
#[derive(Debug, Default, Args)]
pub struct Exec {
    /// Run in the background
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that detach from the terminal
    #[arg(long, default_value = DETACH_KEYS)]
    pub detach_keys: String,
    /// Set a variable
    #[arg(short, long)]
    pub env: Vec<String>,
    /// Read variables from a file
    #[arg(long)]
    pub env_file: Vec<std::path::PathBuf>,
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give every capability
    #[arg(long)]
    pub privileged: bool,
    /// Give it a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// User, as name or number (USER[:GROUP])
    #[arg(short, long)]
    pub user: Option<String>,
    /// Working directory
    #[arg(short, long)]
    pub workdir: Option<String>,
    #[command(flatten)]
    pub seldom: Seldom<SeldomExec>,
    #[command(flatten)]
    pub fds: Seldom<PassedFds>,
    /// Container, command and its arguments
    #[arg(
        value_name = "CONTAINER COMMAND [ARG...]",
        required = true,
        num_args = 1..,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub container_and_command: Vec<String>,
}

/// Stop running containers
#[derive(Debug, Args)]
pub struct Stop {
    #[command(flatten)]
    pub ending: Ending,
    /// It is no error if there is none of that name
    #[arg(short, long)]
    pub ignore: bool,
    #[command(flatten)]
    pub chosen: Chosen,
}

/// Send a signal to running containers
#[derive(Debug, Args)]
pub struct Kill {
    /// Signal to send
    #[arg(short, long, default_value = "KILL")]
    pub signal: String,
    #[command(flatten)]
    pub chosen: Chosen,
}

/// Remove containers
#[derive(Debug, Args)]
pub struct Rm {
    /// Kill running containers first; it is no error if there is none of that name
    #[arg(short, long)]
    pub force: bool,
    /// Remove a link, CONTAINER/ALIAS, instead of a container
    #[arg(long, conflicts_with_all = ["force", "volumes", "all", "latest", "cidfile", "filter", "depend"])]
    pub link: bool,
    /// Remove the anonymous volumes of the container, too
    #[arg(short, long)]
    pub volumes: bool,
    /// It is no error if there is none of that name
    #[arg(short, long)]
    pub ignore: bool,
    /// All containers
    #[arg(short, long)]
    pub all: bool,
    /// Those that need it, too: by --requires or in its namespaces
    #[arg(long)]
    pub depend: bool,
    /// Seconds to wait before killing, with --force; without it SIGKILL comes at once
    #[arg(short = 't', long = "time", visible_alias = "timeout", allow_negative_numbers = true)]
    pub time: Option<i64>,
    /// The one created last
    #[arg(short, long)]
    pub latest: bool,
    /// Read an id from a file that --cidfile wrote
    #[arg(long)]
    pub cidfile: Vec<std::path::PathBuf>,
    /// Those that `ps -a --filter` would show (key=value)
    #[arg(long)]
    pub filter: Vec<String>,
    #[arg(
        value_name = "CONTAINER",
        required_unless_present_any = ["all", "latest", "cidfile", "filter"]
    )]
    pub containers: Vec<String>,
}

/// Rename a container
#[derive(Debug, Args)]
pub struct Rename {
    pub container: String,
    pub name: String,
}

/// List containers
#[derive(Debug, Args)]
pub struct Ps {
    /// Show all containers, not only running ones
    #[arg(short, long)]
    pub all: bool,
    /// Show only what matches (key=value)
    #[arg(short, long)]
    pub filter: Vec<String>,
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    /// Show the last N created
    #[arg(
        short = 'n',
        long,
        allow_negative_numbers = true,
        default_value = "-1",
        hide_default_value = true
    )]
    pub last: i64,
    /// Show the last one created
    #[arg(short, long)]
    pub latest: bool,
    /// Do not shorten
    #[arg(long)]
    pub no_trunc: bool,
    /// Show ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Show sizes
    #[arg(short, long)]
    pub size: bool,
    /// Containers of other programs are never shown, so this changes nothing
    #[arg(long, hide = true)]
    pub external: bool,
    /// Leave the headings out
    #[arg(long)]
    pub noheading: bool,
    /// Show the process id and the namespaces
    #[arg(long, conflicts_with = "format")]
    pub ns: bool,
    /// Order by command, created, id, image, names, runningfor, size or status
    #[arg(long)]
    pub sort: Option<String>,
    /// The kernel is asked each time, so this changes nothing
    #[arg(long, hide = true)]
    pub sync: bool,
    /// Show it again each so many seconds
    #[arg(short, long)]
    pub watch: Option<u32>,
}

/// Show a container's output
#[derive(Debug, Args)]
pub struct Logs {
    /// Go on showing what comes
    #[arg(short, long)]
    pub follow: bool,
    /// From this moment on (time, or how long ago)
    #[arg(long)]
    pub since: Option<String>,
    /// Until this moment
    #[arg(long)]
    pub until: Option<String>,
    /// So many lines from the end, or all
    #[arg(short = 'n', long = "tail", default_value = "all", allow_hyphen_values = true)]
    pub tail: String,
    /// Show times
    #[arg(short, long)]
    pub timestamps: bool,
    /// Show extra attributes of the log options
    #[arg(long)]
    pub details: bool,
    /// The one created last
    #[arg(short, long)]
    pub latest: bool,
    /// Begin each line with the container's name
    #[arg(long)]
    pub names: bool,
    /// A colour for each of several containers
    #[arg(long)]
    pub color: bool,
    #[arg(value_name = "CONTAINER", required_unless_present = "latest")]
    pub containers: Vec<String>,
}
