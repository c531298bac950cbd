//! The command line's grammar: one struct a command, whose doc comments are its help.
//!
//! Arguments are only split here; what they mean is said by [`super::value`], so that an error
//! names the flag and keeps its hint.

pub mod container;
pub mod image;
pub mod system;

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
    /// Say what is being done
    #[arg(short = 'D', long)]
    pub debug: bool,
    #[command(subcommand)]
    pub command: Command,
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
    Wait(container::Wait),
    Rm(container::Rm),
    Rename(container::Rename),
    Pull(image::Pull),
    Load(image::Load),
    Import(image::Import),
    Images(image::Images),
    Rmi(image::Rmi),
    Inspect(system::Inspect),
    Version(system::Version),
    Info(system::Info),
    Doctor(system::Doctor),
    /// Manage containers
    #[command(subcommand)]
    Container(ContainerCommand),
    /// Manage images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Manage dhow
    #[command(subcommand)]
    System(SystemCommand),
    #[command(hide = true)]
    Completion(system::Completion),
    #[command(hide = true)]
    Man(system::Man),
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
    Wait(container::Wait),
    #[command(visible_alias = "remove")]
    Rm(container::Rm),
    Rename(container::Rename),
    Inspect(system::Inspect),
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    Pull(image::Pull),
    Load(image::Load),
    Import(image::Import),
    #[command(visible_alias = "list")]
    Ls(image::Images),
    #[command(visible_alias = "remove")]
    Rm(image::Rmi),
    Inspect(system::Inspect),
}

#[derive(Debug, Subcommand)]
pub enum SystemCommand {
    Info(system::Info),
    Doctor(system::Doctor),
}

/// A word where an image or container should be that looks like a flag: one this version does
/// not have. `VERB --help` lists those it has.
pub fn unknown_flag(verb: &str, typed: &str) -> crate::error::Error {
    let flag = typed.split('=').next().unwrap_or(typed);
    crate::error::Error::invalid(format!("unknown flag: {flag}"))
        .hint(format!("`dhow {verb} --help` lists the flags of this version"))
}
