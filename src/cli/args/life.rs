//! Verbs on the life of containers that exist, and how they are told which ones.

use std::path::PathBuf;

use clap::Args;

use super::resources::Ending;

/// Which containers: named, or all that a condition holds for.
#[derive(Debug, Clone, Args)]
pub struct Chosen {
    /// All that the command can be meant for
    #[arg(short, long)]
    pub all: bool,
    /// The one created last
    #[arg(short, long)]
    pub latest: bool,
    /// Read an id from a file that --cidfile wrote
    #[arg(long)]
    pub cidfile: Vec<PathBuf>,
    /// Those that `ps --filter` would show (key=value)
    #[arg(short, long)]
    pub filter: Vec<String>,
    #[arg(
        value_name = "CONTAINER",
        required_unless_present_any = ["all", "latest", "cidfile", "filter"]
    )]
    pub containers: Vec<String>,
}

/// Stop containers and start them again
#[derive(Debug, Args)]
#[command(mut_arg("containers", |arg| arg.required_unless_present("running")))]
pub struct Restart {
    #[command(flatten)]
    pub ending: Ending,
    /// Those that run
    #[arg(long)]
    pub running: bool,
    #[command(flatten)]
    pub chosen: Chosen,
}

/// Mount containers' files on this host, and say where; without a name, list what is mounted
#[derive(Debug, Args)]
pub struct Mount {
    /// Mount every container
    #[arg(short, long, conflicts_with = "containers")]
    pub all: bool,
    /// The one created last
    #[arg(short, long)]
    pub latest: bool,
    /// json instead of lines
    #[arg(long)]
    pub format: Option<String>,
    /// Whole ids in the list
    #[arg(long, visible_alias = "notruncate")]
    pub no_trunc: bool,
    #[arg(value_name = "CONTAINER")]
    pub containers: Vec<String>,
}

/// Take mounts of containers away
#[derive(Debug, Args)]
pub struct Unmount {
    /// All of them
    #[arg(short, long, conflicts_with = "containers")]
    pub all: bool,
    /// Even if somebody uses it
    #[arg(short, long)]
    pub force: bool,
    /// Of the one created last
    #[arg(short, long)]
    pub latest: bool,
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "latest"])]
    pub containers: Vec<String>,
}

/// Prepare containers: all is made, and the first process waits for `start`
#[derive(Debug, Args)]
pub struct Init {
    /// All that do not run
    #[arg(short, long)]
    pub all: bool,
    /// The one created last
    #[arg(short, long)]
    pub latest: bool,
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "latest"])]
    pub containers: Vec<String>,
}

/// Make all processes of containers stand still
#[derive(Debug, Args)]
pub struct Pause {
    #[command(flatten)]
    pub chosen: Chosen,
}

/// Let paused containers go on
#[derive(Debug, Args)]
pub struct Unpause {
    #[command(flatten)]
    pub chosen: Chosen,
}

/// Show the processes of a container
#[derive(Debug, Args)]
pub struct Top {
    /// Of the one created last
    #[arg(short, long)]
    pub latest: bool,
    /// Container, and options for the host's ps
    #[arg(
        value_name = "CONTAINER [PS OPTIONS]",
        required_unless_present = "latest",
        num_args = 1..,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub container_and_options: Vec<String>,
}

/// Attach to a running container
#[derive(Debug, Args)]
pub struct Attach {
    /// Keys that detach from the terminal
    #[arg(long, default_value = "ctrl-p,ctrl-q")]
    pub detach_keys: String,
    /// Do not attach stdin
    #[arg(long)]
    pub no_stdin: bool,
    /// Pass signals on to the container
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub sig_proxy: bool,
    /// To the one created last
    #[arg(short, long)]
    pub latest: bool,
    #[arg(value_name = "CONTAINER", required_unless_present = "latest")]
    pub container: Option<String>,
}

/// Wait until containers end, then print their exit codes
#[derive(Debug, Args)]
pub struct Wait {
    /// Wait for one of these states instead: created, exited, next-exit, not-running, paused,
    /// removed, running, stopped
    #[arg(long)]
    pub condition: Vec<String>,
    /// Wait until it is so of one of them, and print its exit code alone
    #[arg(long)]
    pub exit_first_match: bool,
    /// How often to look at what nothing tells of
    #[arg(short, long, default_value = "250ms")]
    pub interval: String,
    /// A container that is not there has ended with -1
    #[arg(long)]
    pub ignore: bool,
    /// The one created last
    #[arg(short, long)]
    pub latest: bool,
    #[arg(value_name = "CONTAINER", required_unless_present = "latest")]
    pub containers: Vec<String>,
}

/// Remove all containers that do not run
#[derive(Debug, Args)]
pub struct Prune {
    /// Only what matches (until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE])
    #[arg(long)]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// Tell by the exit code whether a container exists
#[derive(Debug, Args)]
pub struct Exists {
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// List the ports that a container publishes
#[derive(Debug, Args)]
pub struct Port {
    /// Of all containers that run
    #[arg(short, long)]
    pub all: bool,
    /// Of the one created last
    #[arg(short, long)]
    pub latest: bool,
    #[arg(value_name = "CONTAINER", required_unless_present_any = ["all", "latest"])]
    pub container: Option<String>,
    /// One port inside (PORT[/PROTOCOL])
    #[arg(value_name = "PRIVATE_PORT[/PROTO]")]
    pub port: Option<String>,
}

/// Copy files between a container and this host, or another container
#[derive(Debug, Args)]
pub struct Cp {
    /// Keep owners
    #[arg(short, long)]
    pub archive: bool,
    /// Follow a link at the end of the source's path
    #[arg(short = 'L', long)]
    pub follow_link: bool,
    /// A directory may replace a file, and a file a directory
    #[arg(long)]
    pub overwrite: bool,
    /// Do not say what was copied
    #[arg(short, long)]
    pub quiet: bool,
    #[arg(value_name = "CONTAINER:SRC_PATH|SRC_PATH|-", allow_hyphen_values = true)]
    pub source: String,
    #[arg(value_name = "CONTAINER:DEST_PATH|DEST_PATH|-", allow_hyphen_values = true)]
    pub target: String,
}

/// Show what a container has changed in its file system
#[derive(Debug, Args)]
pub struct Diff {
    /// json, or a Go template
    #[arg(long)]
    pub format: Option<String>,
    /// Of the one created last
    #[arg(short, long)]
    pub latest: bool,
    #[arg(value_name = "CONTAINER", required_unless_present = "latest")]
    pub container: Option<String>,
}

/// Write a container's file system as a tar
#[derive(Debug, Args)]
pub struct Export {
    /// Write it to a file instead of stdout
    #[arg(short, long)]
    pub output: Option<PathBuf>,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// Make an image of a container
#[derive(Debug, Args)]
pub struct Commit {
    /// Author, e.g. "Jane <jane@example.com>"
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub author: String,
    /// Dockerfile instruction to apply, e.g. 'CMD ["sh"]'
    #[arg(short, long)]
    pub change: Vec<String>,
    /// Lay a configuration over the container's (a file with docker's fields, as JSON)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Format of the manifest: oci or docker
    #[arg(short, long, default_value = "oci")]
    pub format: String,
    /// Write the image's id to this file
    #[arg(long)]
    pub iidfile: Option<PathBuf>,
    /// Declare the container's volumes and mounts as volumes of the image
    #[arg(long)]
    pub include_volumes: bool,
    /// Message for the image's history
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub message: String,
    /// Pause the container meanwhile
    #[arg(short, long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub pause: bool,
    /// Do not pause it
    #[arg(long)]
    pub no_pause: bool,
    /// Accepted for podman's sake: nothing is said but the id
    #[arg(short, long)]
    pub quiet: bool,
    /// One layer of all files, the base image's included
    #[arg(short, long)]
    pub squash: bool,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub name: Option<String>,
}
