//! Flags that are seldom typed, and cost nothing when they are not.
//!
//! Making a grammar costs by the flag, and `run` has more than a hundred. The quick one, told by
//! the name of its command, goes without these; a command line that it cannot read is read again
//! by the whole grammar.

use std::{ops::Deref, path::PathBuf};

use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Id};

/// The name of a command whose grammar has no seldom flags.
pub const QUICK: &str = "quick";

/// A group of flags none of which has a default value.
#[derive(Debug, Default)]
pub struct Seldom<T>(T);

impl<T> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Args + Default> Args for Seldom<T> {
    fn group_id() -> Option<Id> {
        None
    }

    fn augment_args(command: Command) -> Command {
        match command.get_name() {
            QUICK => command,
            _ => T::augment_args(command),
        }
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T: Args + Default> FromArgMatches for Seldom<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        let group = T::group_id();
        let typed = group.is_some_and(|id| matches.try_contains_id(id.as_str()).unwrap_or(false));
        Ok(Self(if typed { T::from_arg_matches_mut(matches)? } else { T::default() }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }

    fn update_from_arg_matches_mut(&mut self, matches: &mut ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches_mut(matches)?;
        Ok(())
    }
}

/// Of `run` and `create`.
#[derive(Debug, Default, Args)]
pub struct SeldomFlags {
    /// Architecture of the image
    #[arg(long)]
    pub arch: Option<String>,
    /// File with credentials, instead of the usual ones
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Directory with the registry's certificates
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Write into a file of the container's cgroup (FILE=TEXT, e.g. memory.high=1073741824)
    #[arg(long, value_delimiter = ',')]
    pub cgroup_conf: Vec<String>,
    /// How the container is placed in cgroups: enabled, no-conmon, which is the same here, split
    /// (within the one dhow is called in) or disabled
    #[arg(long)]
    pub cgroups: Option<String>,
    /// Directories inside that get /etc/hosts and its like, too (PATH[,PATH...])
    #[arg(long, value_delimiter = ',', value_name = "PATH")]
    pub chrootdirs: Vec<String>,
    /// Write the monitor's process id to this file
    #[arg(long, value_name = "FILE")]
    pub conmon_pidfile: Option<PathBuf>,
    /// Who to be to the registry (USER:PASSWORD)
    #[arg(long)]
    pub creds: Option<String>,
    /// Content trust is docker's, and gone: true is all there is
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub disable_content_trust: Option<bool>,
    /// Give it the variables of this environment
    #[arg(long)]
    pub env_host: bool,
    /// Set a variable to what refers to the image's (NAME=TEXT with ${NAME})
    #[arg(long)]
    pub env_merge: Vec<String>,
    /// Give GPUs, as CDI devices nvidia.com/gpu: all, a number, or device=N[,N...]
    #[arg(long)]
    pub gpus: Option<String>,
    /// Map groups as --uidmap maps users; without it as --uidmap says
    #[arg(long, value_delimiter = ',')]
    pub gidmap: Vec<String>,
    /// Line for /etc/group ($GROUPNAME, $GID and $USERLIST are replaced)
    #[arg(long)]
    pub group_entry: Option<String>,
    /// What /etc/hosts begins with: a file, image or none
    #[arg(long)]
    pub hosts_file: Option<String>,
    /// Add a user of this host to /etc/passwd
    #[arg(long, value_name = "NAME|UID")]
    pub hostuser: Vec<String>,
    /// Set the variables for proxies as they are here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub http_proxy: Option<bool>,
    /// What to make of the image's volumes: anonymous, bind, tmpfs or ignore
    #[arg(long)]
    pub image_volume: Option<String>,
    /// Program of this host to run as pid 1
    #[arg(long, value_name = "FILE")]
    pub init_path: Option<PathBuf>,
    /// How the container is isolated: default
    #[arg(long)]
    pub isolation: Option<String>,
    /// Limit on the kernel's memory: --memory counts it, so this only warns
    #[arg(long)]
    pub kernel_memory: Option<String>,
    /// Leave /etc/hostname as it is in the image
    #[arg(long)]
    pub no_hostname: bool,
    /// Leave /etc/hosts as it is in the image
    #[arg(long)]
    pub no_hosts: bool,
    /// Spare the container from the OOM killer: cgroup v2 cannot, so this only warns
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub oom_kill_disable: Option<bool>,
    /// Operating system of the image
    #[arg(long)]
    pub os: Option<String>,
    /// Add a user that the image does not know to /etc/passwd
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub passwd: Option<bool>,
    /// Line for /etc/passwd ($USERNAME, $UID, $GID, $NAME and $HOME are replaced)
    #[arg(long)]
    pub passwd_entry: Option<String>,
    /// Execution domain: LINUX or LINUX32, in which uname tells of a 32-bit machine
    #[arg(long, value_name = "DOMAIN")]
    pub personality: Option<String>,
    /// Write the process id of the container's command to this file
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// With --read-only: mount a tmpfs on /run, /tmp and /var/tmp
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub read_only_tmpfs: Option<bool>,
    /// Remove the container that has this name first
    #[arg(long)]
    pub replace: bool,
    /// With the container remove its image, unless another container uses it; includes --rm
    #[arg(long)]
    pub rmi: bool,
    /// Containers that are started before this one
    #[arg(long, value_delimiter = ',')]
    pub requires: Vec<String>,
    /// How often to try again after a failure of the registry
    #[arg(long, value_name = "TIMES")]
    pub retry: Option<u32>,
    /// How long to wait before that (e.g. 2s)
    #[arg(long, value_name = "DURATION")]
    pub retry_delay: Option<String>,
    /// The container is made of a directory (PATH[:O][:idmap]) in the image's place; O keeps what is written apart
    #[arg(long)]
    pub rootfs: bool,
    /// What runs the container: dhow
    #[arg(long)]
    pub runtime: Option<String>,
    /// Who tells systemd that it is ready: container, conmon (dhow does, once it runs), healthy
    /// (dhow does, once it is) or ignore
    #[arg(long)]
    pub sdnotify: Option<String>,
    /// Give it a secret (NAME[,type=mount|env,target=,uid=,gid=,mode=])
    #[arg(long)]
    pub secret: Vec<String>,
    /// Prepare it for a systemd inside: true (if that is its command), always or false
    #[arg(long)]
    pub systemd: Option<String>,
    /// Kill it after so many seconds
    #[arg(long)]
    pub timeout: Option<u32>,
    /// Verify TLS; false also allows plain HTTP
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tls_verify: Option<bool>,
    /// Whose seccomp profile: default, or image for the one in the image's label
    /// io.containers.seccomp.profile, if it has one
    #[arg(long, value_name = "default|image")]
    pub seccomp_policy: Option<String>,
    /// Size of what a systemd gets: /run, /run/lock, /tmp and /var/log/journal
    #[arg(long, value_name = "SIZE")]
    pub shm_size_systemd: Option<String>,
    /// Limit what the container writes (size=SIZE): root's, on XFS or ext4 with project quotas
    #[arg(long, value_name = "size=SIZE")]
    pub storage_opt: Vec<String>,
    /// Use the subordinate groups of this user, as --subuidname
    #[arg(long, value_name = "NAME")]
    pub subgidname: Option<String>,
    /// Use the subordinate ids of this user, without your own
    #[arg(long, value_name = "NAME")]
    pub subuidname: Option<String>,
    /// Time zone (Area/City), or local for this host's
    #[arg(long)]
    pub tz: Option<String>,
    /// Map users ([+]INSIDE:FROM[:SIZE]; FROM counts 0 for you and your subordinate ids on, @FROM is this host's id)
    #[arg(long, value_delimiter = ',')]
    pub uidmap: Vec<String>,
    /// File mode bits that its command does not set, in octal
    #[arg(long)]
    pub umask: Option<String>,
    /// Take away a variable of the image
    #[arg(long)]
    pub unsetenv: Vec<String>,
    /// Take away all variables that were not typed
    #[arg(long)]
    pub unsetenv_all: bool,
    /// Variant of the image's architecture
    #[arg(long)]
    pub variant: Option<String>,
}

/// Descriptors of the caller's that a command gets, of `run` and `exec`.
#[derive(Debug, Default, Args)]
pub struct PassedFds {
    /// Pass these open descriptors on (N[,N...])
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub preserve_fd: Vec<i32>,
    /// Pass so many open descriptors on, from 3 up
    #[arg(long, value_name = "COUNT")]
    pub preserve_fds: Option<u16>,
}

/// Of `exec`.
#[derive(Debug, Default, Args)]
pub struct SeldomExec {
    /// Read the container's id from a file that --cidfile wrote
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// In the container created last
    #[arg(short, long)]
    pub latest: bool,
    /// There is no database of sessions, so this changes nothing
    #[arg(long)]
    pub no_session: bool,
}
