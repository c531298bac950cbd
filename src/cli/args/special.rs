//! Verbs that only dhow or podman has.

use clap::Args;

use super::resources::ResourceFlags;

/// Say why a container does not run, and what to do
#[derive(Debug, Args)]
pub struct Explain {
    /// json, or a Go template
    #[arg(long)]
    pub format: Option<String>,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

/// Run a command in a user namespace like that of containers
#[derive(Debug, Args)]
pub struct Unshare {
    /// Join the network namespace of rootless networks: not in this version
    #[arg(long)]
    pub rootless_netns: bool,
    /// The command; your shell if none is named
    #[arg(value_name = "COMMAND [ARG...]", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Create a container like another one
#[derive(Debug, Args)]
pub struct Clone {
    #[command(flatten)]
    pub resources: ResourceFlags,
    /// Remove the original
    #[arg(long)]
    pub destroy: bool,
    /// Remove the original even if it runs
    #[arg(short, long, requires = "destroy")]
    pub force: bool,
    /// Name of the new container
    #[arg(long)]
    pub name: Option<String>,
    /// Start it, too
    #[arg(long)]
    pub run: bool,
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    #[arg(value_name = "NAME", conflicts_with = "name")]
    pub new_name: Option<String>,
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,
}
