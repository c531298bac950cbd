//! Verbs on secrets.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    Create(Create),
    #[command(visible_alias = "list")]
    Ls(Ls),
    Inspect(Inspect),
    #[command(visible_alias = "remove")]
    Rm(Rm),
    Exists(Exists),
}

/// Keep a secret for containers
///
/// It is a file that only you can read; what is in it is not encrypted.
#[derive(Debug, Args)]
pub struct Create {
    /// What keeps it: file is all there is
    #[arg(short, long, default_value = "file")]
    pub driver: String,
    /// Option of the driver (KEY=VALUE)
    #[arg(long, value_delimiter = ',')]
    pub driver_opts: Vec<String>,
    /// Take the variable of that name of this environment instead of a file
    #[arg(long)]
    pub env: bool,
    /// It is no error if there is one of this name: that one stays
    #[arg(long, conflicts_with = "replace")]
    pub ignore: bool,
    /// Label (KEY=VALUE)
    #[arg(short, long)]
    pub label: Vec<String>,
    /// Put it in the place of the one of this name; containers that exist keep the old value
    #[arg(long)]
    pub replace: bool,
    #[arg(value_name = "NAME")]
    pub name: String,
    /// File with the value, or - for standard input
    #[arg(value_name = "FILE|-")]
    pub source: Option<String>,
}

/// List secrets
#[derive(Debug, Args)]
pub struct Ls {
    /// Show only what matches (id=, label=, name=)
    #[arg(short, long)]
    pub filter: Vec<String>,
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    /// Leave the heading away
    #[arg(short, long)]
    pub noheading: bool,
    /// Show ids only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Describe secrets
#[derive(Debug, Args)]
pub struct Inspect {
    /// Go template, or json
    #[arg(short, long)]
    pub format: Option<String>,
    /// As text for people
    #[arg(long, conflicts_with = "format")]
    pub pretty: bool,
    /// Show the value, too
    #[arg(long)]
    pub showsecret: bool,
    #[arg(value_name = "SECRET", required = true)]
    pub names: Vec<String>,
}

/// Remove secrets; containers keep what they were given
#[derive(Debug, Args)]
pub struct Rm {
    /// Remove every secret
    #[arg(short, long)]
    pub all: bool,
    /// It is no error if there is none of that name
    #[arg(short, long)]
    pub ignore: bool,
    #[arg(value_name = "SECRET", required_unless_present = "all", conflicts_with = "all")]
    pub names: Vec<String>,
}

/// Say by the exit code whether there is such a secret
#[derive(Debug, Args)]
pub struct Exists {
    #[arg(value_name = "SECRET")]
    pub name: String,
}
