//! The command line's grammar: one struct a command, whose doc comments are its help.
//!
//! Arguments are only split here; what they mean is said by [`super::value`], so that an error
//! names the flag and keeps its hint.

pub mod build;
pub mod buildah;
pub mod builder;
pub mod container;
pub mod health;
pub mod image;
pub mod life;
pub mod manifest;
pub mod network;
pub mod refused;
pub mod registry;
pub mod resources;
pub mod secret;
pub mod seldom;
pub mod special;
pub mod store;
pub mod system;
pub mod upkeep;
pub mod volume;
pub mod watch;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Containers with no daemon, no root and no set-up
#[derive(Debug, Parser)]
#[command(name = "dhow", version, disable_help_subcommand = true, propagate_version = false)]
pub struct Cli {
    /// Where images and containers are kept
    #[arg(long, global = true, env = "DHOW_ROOT", value_name = "DIR", hide_env_values = true)]
    pub root: Option<PathBuf>,
    /// Where running containers are noted
    #[arg(long, global = true, env = "DHOW_RUNROOT", value_name = "DIR", hide_env_values = true)]
    pub runroot: Option<PathBuf>,
    /// What new containers' files are stacked with: overlay, fuse-overlayfs or vfs
    #[arg(
        long,
        global = true,
        env = "DHOW_STORAGE",
        value_name = "DRIVER",
        hide_env_values = true
    )]
    pub storage_driver: Option<String>,
    /// Say what is being done
    #[arg(short = 'D', long)]
    pub debug: bool,
    /// Say no less than this: debug, info, warn, error or fatal
    #[arg(short, long, value_name = "LEVEL", value_parser = log_level)]
    pub log_level: Option<log::LevelFilter>,
    /// Where docker's config.json with credentials is [env: DOCKER_CONFIG]
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Directory of files that choose programs to run around the lives of new containers
    /// (oci-hooks(5))
    #[arg(long, value_name = "DIR")]
    pub hooks_dir: Vec<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

/// Docker's and podman's names of levels. Only warnings and what is for debugging is said at all.
fn log_level(name: &str) -> Result<log::LevelFilter, String> {
    match name.to_lowercase().as_str() {
        "trace" | "debug" => Ok(log::LevelFilter::Debug),
        "info" | "warn" | "warning" => Ok(log::LevelFilter::Warn),
        "error" | "fatal" | "panic" => Ok(log::LevelFilter::Off),
        _ => Err("it is debug, info, warn, error or fatal".to_owned()),
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Run(Box<container::Run>),
    Create(Box<container::Create>),
    Start(container::Start),
    Exec(container::Exec),
    Ps(container::Ps),
    Logs(container::Logs),
    Stop(container::Stop),
    Kill(container::Kill),
    Restart(life::Restart),
    Init(life::Init),
    Pause(life::Pause),
    Unpause(life::Unpause),
    Top(life::Top),
    Attach(life::Attach),
    Explain(special::Explain),
    Unshare(special::Unshare),
    Wait(life::Wait),
    Port(life::Port),
    Cp(life::Cp),
    Diff(life::Diff),
    Export(life::Export),
    Commit(life::Commit),
    Mount(life::Mount),
    #[command(visible_alias = "umount")]
    Unmount(life::Unmount),
    Stats(watch::Stats),
    Update(Box<watch::Update>),
    Events(watch::Events),
    Rm(container::Rm),
    Rename(container::Rename),
    Build(Box<build::Build>),
    Pull(image::Pull),
    Push(image::Push),
    Login(registry::Login),
    Logout(registry::Logout),
    Search(registry::Search),
    Load(image::Load),
    Import(image::Import),
    Images(store::Images),
    Rmi(store::Rmi),
    Tag(store::Tag),
    Untag(store::Untag),
    History(store::History),
    Save(store::Save),
    Inspect(system::Inspect),
    Version(system::Version),
    Info(system::Info),
    Doctor(system::Doctor),
    #[command(visible_alias = "buildx")]
    Builder(Box<builder::Builder>),
    /// Manage containers
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage volumes
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    #[command(subcommand)]
    Manifest(manifest::ManifestCommand),
    /// Manage secrets
    #[command(subcommand)]
    Secret(secret::SecretCommand),
    /// Check the health of containers
    #[command(subcommand)]
    Healthcheck(HealthcheckCommand),
    /// Write what other programs read
    #[command(subcommand)]
    Generate(GenerateCommand),
    /// Manage networks
    #[command(subcommand)]
    Network(NetworkCommand),
    /// Manage dhow
    #[command(subcommand)]
    System(SystemCommand),
    #[command(hide = true)]
    Completion(system::Completion),
    #[command(hide = true)]
    Man(system::Man),
}

impl Command {
    /// Of a container that is to be made.
    pub fn container_flags(&mut self) -> Option<&mut container::ContainerFlags> {
        #[expect(clippy::wildcard_enum_match_arm, reason = "all others make none")]
        match self {
            Self::Run(run) | Self::Container(ContainerCommand::Run(run)) => {
                Some(&mut run.container)
            }
            Self::Create(create) | Self::Container(ContainerCommand::Create(create)) => {
                Some(&mut create.container)
            }
            _ => None,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum ContainerCommand {
    Run(Box<container::Run>),
    Create(Box<container::Create>),
    Start(container::Start),
    Exec(container::Exec),
    #[command(visible_aliases = ["list", "ps"])]
    Ls(container::Ps),
    Logs(container::Logs),
    Stop(container::Stop),
    Kill(container::Kill),
    Restart(life::Restart),
    Init(life::Init),
    Pause(life::Pause),
    Unpause(life::Unpause),
    Top(life::Top),
    Attach(life::Attach),
    Wait(life::Wait),
    Port(life::Port),
    Cp(life::Cp),
    Diff(life::Diff),
    Export(life::Export),
    Commit(life::Commit),
    Mount(life::Mount),
    #[command(visible_alias = "umount")]
    Unmount(life::Unmount),
    Stats(watch::Stats),
    Update(Box<watch::Update>),
    Prune(life::Prune),
    Exists(life::Exists),
    Clone(Box<special::Clone>),
    #[command(visible_alias = "remove")]
    Rm(container::Rm),
    Rename(container::Rename),
    Inspect(system::Inspect),
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    Build(Box<build::Build>),
    Pull(image::Pull),
    Push(image::Push),
    Load(image::Load),
    Import(image::Import),
    #[command(visible_alias = "list")]
    Ls(store::Images),
    #[command(visible_alias = "remove")]
    Rm(store::Rmi),
    Tag(store::Tag),
    Untag(store::Untag),
    History(store::History),
    Save(store::Save),
    Cp(store::Copy),
    Exists(store::Exists),
    Tree(store::Tree),
    Prune(store::Prune),
    Referrers(registry::Referrers),
    Diff(store::ImageDiff),
    Mount(store::Mount),
    #[command(visible_alias = "umount")]
    Unmount(store::Unmount),
    Inspect(system::Inspect),
}

#[derive(Debug, Subcommand)]
pub enum HealthcheckCommand {
    Run(watch::HealthcheckRun),
}

#[derive(Debug, Subcommand)]
pub enum GenerateCommand {
    Systemd(watch::GenerateSystemd),
}

#[derive(Debug, Subcommand)]
pub enum NetworkCommand {
    Create(network::Create),
    #[command(visible_alias = "list")]
    Ls(network::Ls),
    Inspect(network::Inspect),
    #[command(visible_alias = "remove")]
    Rm(network::Rm),
    Prune(network::Prune),
    Exists(network::Exists),
    Log(network::Log),
    Connect(network::Connect),
    Disconnect(network::Disconnect),
    Reload(network::Reload),
    Update(network::Update),
}

#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    Events(watch::Events),
    Info(system::Info),
    Df(upkeep::Df),
    Check(upkeep::Check),
    Gc(upkeep::Gc),
    Prune(upkeep::Prune),
    Reset(upkeep::Reset),
    Doctor(system::Doctor),
}

/// A word where an image or container should be that looks like a flag: one that docker or podman
/// have and dhow refuses, or one that nobody has.
pub fn unknown_flag(verb: &str, typed: &str) -> crate::error::Error {
    if let Some(refusal) = refused::refusal(verb, typed) {
        return refusal;
    }
    let flag = typed.split('=').next().unwrap_or(typed);
    let hint = format!("`dhow {verb} --help` lists the flags of this version");
    crate::error::Error::invalid(format!("unknown flag: {flag}")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_of_docker_is_told_from_a_mistake() {
        let said = |typed: &str| unknown_flag("run", typed).to_string();
        assert!(said("--pod=a").starts_with("--pod: "));
        for mistake in ["--nosuch", "-z", "--"] {
            assert!(said(mistake).starts_with("unknown flag"), "{mistake}");
        }
    }
}
