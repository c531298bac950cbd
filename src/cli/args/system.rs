//! Verbs on dhow and this host.

use clap::Args;

/// Show everything about containers and images
#[derive(Debug, Args)]
pub struct Inspect {
    /// Go template, or json
    #[arg(short, long)]
    pub format: Option<String>,
    /// Only an image for this platform (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    /// Show sizes of containers
    #[arg(short, long)]
    pub size: bool,
    /// The container created last
    #[arg(short, long)]
    pub latest: bool,
    /// container, image, network or volume
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    #[arg(value_name = "NAME|ID", required_unless_present = "latest")]
    pub names: Vec<String>,
}

/// Show dhow's version
#[derive(Debug, Args)]
pub struct Version {
    /// Go template, or json
    #[arg(short, long)]
    pub format: Option<String>,
}

/// Show what dhow uses of this host
#[derive(Debug, Args)]
pub struct Info {
    /// Go template, or json
    #[arg(short, long)]
    pub format: Option<String>,
}

/// Find what is wrong with this host, and how to mend it
#[derive(Debug, Args)]
pub struct Doctor {
    /// text or json
    #[arg(long, default_value = "text")]
    pub format: String,
}

/// Print a shell's completion script
#[derive(Debug, Args)]
pub struct Completion {
    pub shell: clap_complete::Shell,
}

/// Write the manual pages into a directory
#[derive(Debug, Args)]
pub struct Man {
    pub directory: std::path::PathBuf,
}
