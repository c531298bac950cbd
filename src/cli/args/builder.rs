//! `builder` and `buildx`: builds, what they keep, and the names that builders have.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    build::{Build, BuilderDu, BuilderPrune},
    image::RegistryFlags,
};

/// Build images, and manage what builds keep
#[derive(Debug, Args)]
pub struct Builder {
    /// A name that `buildx ls` lists; dhow itself builds in any case
    #[arg(long, global = true, value_name = "NAME")]
    pub builder: Option<String>,
    /// Say more of what is done
    #[arg(short = 'D', long, global = true)]
    pub debug: bool,
    #[command(subcommand)]
    pub command: BuilderCommand,
}

#[derive(Debug, Subcommand)]
pub enum BuilderCommand {
    /// What builds have kept to be faster the next time
    Du(BuilderDu),
    #[command(visible_alias = "b")]
    Build(Box<Build>),
    Prune(BuilderPrune),
    Version(Version),
    Ls(Ls),
    Inspect(Inspect),
    Create(Create),
    Use(Use),
    Rm(Rm),
    Stop(Stop),
    /// Show and make images of registries
    #[command(subcommand)]
    Imagetools(ImagetoolsCommand),
}

/// Show dhow's version as buildx shows its own
#[derive(Debug, Args)]
pub struct Version {}

/// List the names of builders
#[derive(Debug, Args)]
pub struct Ls {
    /// How to show each: json, table, or a template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show all platforms
    #[arg(long)]
    pub no_trunc: bool,
}

/// Show a builder
#[derive(Debug, Args)]
pub struct Inspect {
    /// See that it runs, as dhow always does
    #[arg(long)]
    pub bootstrap: bool,
    /// The one in use, if none is named
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

/// Give dhow a name to build by
#[derive(Debug, Args)]
pub struct Create {
    /// Name of the builder
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Use it from now on
    #[arg(long = "use")]
    pub use_it: bool,
    /// See that it runs, as dhow always does
    #[arg(long)]
    pub bootstrap: bool,
    /// docker or docker-container, whose place dhow takes
    #[arg(long, value_name = "DRIVER")]
    pub driver: Option<String>,
    /// Option for the driver, which is only noted (KEY=VALUE)
    #[arg(long, value_name = "OPTION", value_delimiter = ',')]
    pub driver_opt: Vec<String>,
    /// Flags for the daemon of BuildKit, which are only noted
    #[arg(
        long,
        visible_alias = "oci-worker-flags",
        value_name = "FLAGS",
        allow_hyphen_values = true
    )]
    pub buildkitd_flags: Option<String>,
    /// Platforms that it is meant for
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Where it would be: only this machine, default
    #[arg(value_name = "CONTEXT|ENDPOINT")]
    pub endpoint: Option<String>,
}

/// Choose the builder that is used
#[derive(Debug, Args)]
pub struct Use {
    /// As is always so: it is used whatever docker's context is
    #[arg(long, hide = true)]
    pub default: bool,
    /// As is always so: it is used whatever docker's context is
    #[arg(long, hide = true)]
    pub global: bool,
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Forget names of builders
#[derive(Debug, Args)]
pub struct Rm {
    /// Those that do not run, of which there are none
    #[arg(long, conflicts_with = "names")]
    pub all_inactive: bool,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// There is no daemon that would go
    #[arg(long, hide = true)]
    pub keep_daemon: bool,
    /// What builds have kept stays, as is always so
    #[arg(long, hide = true)]
    pub keep_state: bool,
    /// The one in use, if none is named
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
}

/// Stop a builder, of which nothing runs
#[derive(Debug, Args)]
pub struct Stop {
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum ImagetoolsCommand {
    Inspect(ImagetoolsInspect),
    Create(ImagetoolsCreate),
}

/// Show an image or a list of images in its registry
#[derive(Debug, Args)]
pub struct ImagetoolsInspect {
    /// Go template
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Show the manifest as it is
    #[arg(long, conflicts_with = "format")]
    pub raw: bool,
    #[command(flatten)]
    pub registry: RegistryFlags,
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Make a list of images of registries
#[derive(Debug, Args)]
pub struct ImagetoolsCreate {
    /// Annotation (index:KEY=VALUE, manifest-descriptor[PLATFORM]:KEY=VALUE)
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Add to the list that is there
    #[arg(long)]
    pub append: bool,
    /// Show the list and send nothing
    #[arg(long)]
    pub dry_run: bool,
    /// File with a source: a digest, a name or a descriptor
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<PathBuf>,
    /// Only images for these platforms
    #[arg(short, long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Make a list of a single image; with false it stays what it is
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub prefer_index: Option<bool>,
    /// How to show what is done: auto, plain, tty, rawjson or none
    #[arg(long, value_name = "KIND", default_value = "auto", hide_default_value = true)]
    pub progress: String,
    /// What it shall be called
    #[arg(short, long, value_name = "NAME")]
    pub tag: Vec<String>,
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// Digests, names, or descriptors as JSON
    #[arg(value_name = "SOURCE")]
    pub sources: Vec<String>,
}
