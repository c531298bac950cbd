//! `build`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

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
    /// The stage to build
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Use nothing that was built before
    #[arg(long)]
    pub no_cache: bool,
    /// Ask the registry even for images that are here
    #[arg(long)]
    pub pull: bool,
    /// Label of the image (key=value)
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Write the image's id to this file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Print the image's id and nothing else
    #[arg(short, long)]
    pub quiet: bool,
    /// How to tell what is done: auto, plain or quiet
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub progress: String,
    /// What RUN may reach: none or host
    #[arg(long, value_name = "MODE")]
    pub network: Option<String>,
    /// What to build for: this machine's own
    #[arg(long, value_name = "OS/ARCH")]
    pub platform: Option<String>,
    /// Size of /dev/shm in RUN
    #[arg(long, value_name = "BYTES")]
    pub shm_size: Option<String>,
    /// Limits of RUN (NAME=SOFT[:HARD])
    #[arg(long, value_name = "LIMIT")]
    pub ulimit: Vec<String>,
    /// Keep the image here, as is always done
    #[arg(long)]
    pub load: bool,
    /// A directory, or - for a Dockerfile or a tar on stdin
    #[arg(value_name = "PATH")]
    pub context: String,
}

/// Forget what builds have kept to be faster the next time
#[derive(Debug, Args)]
pub struct BuilderPrune {
    /// All of it, as is always done
    #[arg(short, long)]
    pub all: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub enum BuilderCommand {
    Build(Box<Build>),
    Prune(BuilderPrune),
}
