//! Verbs on volumes.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    Create(Create),
    #[command(visible_alias = "list")]
    Ls(Ls),
    Inspect(Inspect),
    #[command(visible_alias = "remove")]
    Rm(Rm),
    Prune(Prune),
    Exists(Exists),
    Export(Export),
    Import(Import),
    Mount(Mount),
    #[command(visible_alias = "umount")]
    Unmount(Unmount),
}

/// Say where the files of volumes are
///
/// They are there at any time; what a volume's options mount is mounted in containers only.
#[derive(Debug, Args)]
pub struct Mount {
    #[arg(value_name = "VOLUME", required = true)]
    pub names: Vec<String>,
}

/// Accepted after `volume mount`: there is nothing to unmount
#[derive(Debug, Args)]
pub struct Unmount {
    #[arg(value_name = "VOLUME", required = true)]
    pub names: Vec<String>,
}

/// Create a volume
#[derive(Debug, Args)]
pub struct Create {
    /// What makes it: local is all there is
    #[arg(short, long, default_value = "local")]
    pub driver: String,
    /// Label (KEY=VALUE)
    #[arg(short, long)]
    pub label: Vec<String>,
    /// Option of the driver: type, device and o, as mount(8) has them, and size (KEY=VALUE)
    #[arg(short, long)]
    pub opt: Vec<String>,
    /// User it belongs to, as containers number them
    #[arg(long)]
    pub uid: Option<u32>,
    /// Group it belongs to, as containers number them
    #[arg(long)]
    pub gid: Option<u32>,
    /// Accepted for podman's sake: a volume that is there already is no error
    #[arg(long)]
    pub ignore: bool,
    #[arg(value_name = "VOLUME")]
    pub name: Option<String>,
}

/// List volumes
#[derive(Debug, Args)]
pub struct Ls {
    /// Show only what matches (anonymous=, dangling=, driver=, label=, label!=, name=, opt=, since=,
    /// until=)
    #[arg(short, long)]
    pub filter: Vec<String>,
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    /// Leave the heading away
    #[arg(short, long)]
    pub noheading: bool,
    /// Show names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Describe volumes
#[derive(Debug, Args)]
pub struct Inspect {
    /// Go template, or json
    #[arg(short, long)]
    pub format: Option<String>,
    /// Describe every volume
    #[arg(short, long)]
    pub all: bool,
    #[arg(value_name = "VOLUME", required_unless_present = "all", conflicts_with = "all")]
    pub names: Vec<String>,
}

/// Remove volumes
#[derive(Debug, Args)]
pub struct Rm {
    /// It is no error if there is none of that name
    #[arg(short, long)]
    pub force: bool,
    /// Remove every volume that no container has
    #[arg(short, long)]
    pub all: bool,
    /// With --force: give the volume's containers so many seconds to stop, and remove them, too;
    /// -1 is for ever
    #[arg(short, long, requires = "force", allow_negative_numbers = true)]
    pub time: Option<i64>,
    #[arg(value_name = "VOLUME", required_unless_present = "all", conflicts_with = "all")]
    pub names: Vec<String>,
}

/// Remove volumes that no container has
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove named volumes as well, not only those that nobody named
    #[arg(short, long)]
    pub all: bool,
    /// Remove only what matches (all=, label=, label!=, until=, and those of ls)
    #[arg(long)]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// Say by the exit code whether there is such a volume
#[derive(Debug, Args)]
pub struct Exists {
    #[arg(value_name = "VOLUME")]
    pub name: String,
}

/// Write a volume's files as a tar
#[derive(Debug, Args)]
pub struct Export {
    /// File to write to; - is standard output
    #[arg(short, long)]
    pub output: Option<std::path::PathBuf>,
    #[arg(value_name = "VOLUME")]
    pub name: String,
}

/// Put a tar's files into a volume
#[derive(Debug, Args)]
pub struct Import {
    #[arg(value_name = "VOLUME")]
    pub name: String,
    /// The tar; standard input without it or with -
    #[arg(value_name = "FILE")]
    pub source: Option<std::path::PathBuf>,
}
