//! `build`.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::{buildah::BuildahFlags, image::RegistryFlags};

/// Build an image from a Dockerfile
#[derive(Debug, Args)]
pub struct Build {
    /// Name of the image (may be given again)
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Vec<String>,
    /// The Dockerfile; - is stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Value of an ARG (name=value, or name for the environment's)
    #[arg(long, value_name = "NAME=VALUE")]
    pub build_arg: Vec<String>,
    /// Another source of files (name=DIR) or image (name=docker-image://NAME)
    #[arg(long, value_name = "NAME=PLACE")]
    pub build_context: Vec<String>,
    /// Say what the Dockerfile holds: check, outline or targets; perhaps ,format=json
    #[arg(long, value_name = "METHOD", default_value = "build", hide_default_value = true)]
    pub call: String,
    /// As --call=check: tell what is likely a mistake
    #[arg(long)]
    pub check: bool,
    /// The stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Use nothing that was built before
    #[arg(long)]
    pub no_cache: bool,
    /// Build these stages anew
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// When to ask the registry for images: always (without a value), missing, newer, never
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "always", default_value = "missing")]
    pub pull: String,
    /// Take what was made before from here, too: NAME, type=registry,ref=NAME or type=local,src=DIR
    #[arg(long, value_name = "CACHE")]
    pub cache_from: Vec<String>,
    /// Keep what steps make for other machines: type=inline, type=registry,ref=NAME or type=local,dest=DIR, perhaps ,mode=max
    #[arg(long, value_name = "CACHE")]
    pub cache_to: Vec<String>,
    /// Write what is taken from elsewhere, by digest, to dhow.lock in the context
    #[arg(long, conflicts_with = "locked")]
    pub lock: bool,
    /// Take nothing from elsewhere but what dhow.lock in the context has
    #[arg(long)]
    pub locked: bool,
    /// Make one layer of those that the build puts on its base
    #[arg(long)]
    pub squash: bool,
    /// Make one layer of all, those of the base too
    #[arg(long)]
    pub squash_all: bool,
    /// Label of the image (key=value)
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Annotation of the image ([manifest:|index:|...]key=value)
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// What becomes of it: a directory, -, or type=local|tar|oci|docker|image|registry,...
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Vec<String>,
    /// Send it to the registry of its name
    #[arg(long)]
    pub push: bool,
    /// Tell in the index how it was built (true, false, mode=min or mode=max)
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub provenance: Option<String>,
    /// Tell in the index which packages of dpkg and apk are in it (true or false)
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sbom: Option<String>,
    /// As --provenance and --sbom (type=provenance,mode=max; type=sbom)
    #[arg(long, value_name = "ATTESTATION")]
    pub attest: Vec<String>,
    /// Write what was made to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Print the image's id and nothing else
    #[arg(short, long)]
    pub quiet: bool,
    /// How to tell what is done: auto, tty, plain, rawjson or quiet
    #[arg(
        long,
        value_name = "KIND",
        default_value = "auto",
        env = "BUILDKIT_PROGRESS",
        hide_env_values = true
    )]
    pub progress: String,
    /// Write a timeline to this file, for a browser's trace viewer
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// What RUN may reach: default, none or host
    #[arg(long, value_name = "MODE", env = "DHOW_NETWORK", hide_env_values = true)]
    pub network: Option<String>,
    /// What to build for, perhaps several (default: this machine)
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Size of /dev/shm in RUN
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// A line of /etc/hosts in RUN (NAME:ADDRESS)
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Something that RUN --mount=type=secret may see (id=ID[,src=FILE|,env=NAME])
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// An agent's socket for RUN --mount=type=ssh (default, or ID=SOCKET)
    #[arg(long, value_name = "ID[=SOCKET]")]
    pub ssh: Vec<String>,
    /// What steps may have beyond the usual: network.host or security.insecure
    #[arg(long, value_name = "RIGHT")]
    pub allow: Vec<String>,
    /// Limits of RUN (NAME=SOFT[:HARD])
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// CPU period of RUN in microseconds
    #[arg(long)]
    pub cpu_period: Option<u64>,
    /// CPU time of RUN per period in microseconds
    #[arg(long, allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,
    /// CPU weight of RUN relative to others (2 to 262144)
    #[arg(short, long)]
    pub cpu_shares: Option<u64>,
    /// CPUs for RUN, e.g. 0-3,7
    #[arg(long)]
    pub cpuset_cpus: Option<String>,
    /// Memory nodes for RUN, e.g. 0,1
    #[arg(long)]
    pub cpuset_mems: Option<String>,
    /// Memory limit of RUN, e.g. 512m
    #[arg(short, long)]
    pub memory: Option<String>,
    /// Memory and swap of RUN together; -1 is unlimited swap
    #[arg(long, allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// The cgroup beneath which RUN is placed
    #[arg(long, default_value = "", hide_default_value = true)]
    pub cgroup_parent: String,
    /// Security of RUN (no-new-privileges, seccomp=FILE, ...)
    #[arg(long)]
    pub security_opt: Vec<String>,
    /// A name that `buildx ls` lists; dhow itself builds in any case
    #[arg(long, hide = true)]
    pub builder: Option<String>,
    /// Changes nothing: the context is sent nowhere
    #[arg(long, hide = true)]
    pub compress: bool,
    /// Keep the image here
    #[arg(long)]
    pub load: bool,
    /// Remove what steps leave behind, as is always done
    #[arg(long, hide = true, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub rm: bool,
    /// As --rm
    #[arg(long, hide = true)]
    pub force_rm: bool,
    /// Say more of what is done
    #[arg(short = 'D', long)]
    pub debug: bool,
    #[command(flatten)]
    pub more: Box<BuildahFlags>,
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// A directory, or - for a Dockerfile or a tar on stdin
    #[arg(value_name = "PATH")]
    pub context: String,
}

/// List what builds have kept to be faster the next time
#[derive(Debug, Args)]
pub struct BuilderDu {
    /// Only what these say: until=AGE, type=regular or exec.cachemount, id=ID, description~=TEXT, inuse, mutable, ...
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// How to show each: json, table, or a template
    #[arg(long, value_name = "FORMAT", conflicts_with = "verbose")]
    pub format: Option<String>,
    /// All that is known of each
    #[arg(long)]
    pub verbose: bool,
}

/// Forget what builds have kept to be faster the next time
#[derive(Debug, Args)]
pub struct BuilderPrune {
    /// Only what these say: until=AGE, type=regular or exec.cachemount, id=ID, description~=TEXT, inuse, mutable, ...
    #[arg(long, value_name = "FILTER")]
    pub filter: Vec<String>,
    /// So many bytes always stay, of what was used last
    #[arg(long, value_name = "BYTES", visible_alias = "keep-storage")]
    pub reserved_space: Option<String>,
    /// No more bytes than this stay
    #[arg(long, value_name = "BYTES")]
    pub max_used_space: Option<String>,
    /// Forget no more than what leaves so many bytes free on the file system
    #[arg(long, value_name = "BYTES")]
    pub min_free_space: Option<String>,
    /// Say all that is known of what goes
    #[arg(long)]
    pub verbose: bool,
    /// All of it, as is always done
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}
