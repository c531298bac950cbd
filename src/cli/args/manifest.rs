//! Verbs on manifest lists.

use std::path::PathBuf;

use clap::{ArgAction, Args, Subcommand};

use super::image::RegistryFlags;

/// Manage manifest lists: one name for an image's versions for several platforms
#[derive(Debug, Subcommand)]
pub enum ManifestCommand {
    Create(Create),
    Add(Add),
    Annotate(Annotate),
    Inspect(Inspect),
    Exists(Exists),
    Push(Push),
    Remove(Remove),
    Rm(Rm),
}

/// Make a manifest list
#[derive(Debug, Args)]
pub struct Create {
    /// Add every image of lists that are named
    #[arg(long)]
    pub all: bool,
    /// Change the list if there is one
    #[arg(short, long)]
    pub amend: bool,
    /// Annotation of the list (key=value)
    #[arg(long)]
    pub annotation: Vec<String>,
    /// Let registries be without TLS
    #[arg(long)]
    pub insecure: bool,
    #[command(flatten)]
    pub registry: RegistryFlags,
    #[arg(value_name = "LIST")]
    pub list: String,
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// What is said about one image of a list
#[derive(Debug, Args)]
pub struct EntryFlags {
    /// Annotation of the image (key=value)
    #[arg(long)]
    pub annotation: Vec<String>,
    /// Architecture it is for
    #[arg(long)]
    pub arch: Option<String>,
    /// CPU features it wants
    #[arg(long, value_delimiter = ',')]
    pub features: Vec<String>,
    /// Operating system it is for
    #[arg(long)]
    pub os: Option<String>,
    /// Features of the operating system
    #[arg(long, value_delimiter = ',')]
    pub os_features: Vec<String>,
    /// Version of the operating system
    #[arg(long)]
    pub os_version: Option<String>,
    /// Variant of the architecture
    #[arg(long)]
    pub variant: Option<String>,
}

/// Add an image to a manifest list
#[derive(Debug, Args)]
pub struct Add {
    /// Add every image of a list
    #[arg(long)]
    pub all: bool,
    #[command(flatten)]
    pub entry: EntryFlags,
    #[command(flatten)]
    pub registry: RegistryFlags,
    #[arg(value_name = "LIST")]
    pub list: String,
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// Say more about an image of a manifest list
#[derive(Debug, Args)]
pub struct Annotate {
    #[command(flatten)]
    pub entry: EntryFlags,
    #[arg(value_name = "LIST")]
    pub list: String,
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// Show a manifest list or an image's manifest
#[derive(Debug, Args)]
pub struct Inspect {
    /// Let the registry be without TLS
    #[arg(long)]
    pub insecure: bool,
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// Also show the manifest of every image of a list, and its descriptor
    #[arg(short, long)]
    pub verbose: bool,
    #[arg(value_name = "NAME")]
    pub name: String,
}

/// Whether there is a manifest list of this name
#[derive(Debug, Args)]
pub struct Exists {
    #[arg(value_name = "LIST")]
    pub list: String,
}

/// Send a manifest list, and the images in it, to a registry
#[derive(Debug, Args)]
pub struct Push {
    /// Accepted for podman's sake: the images are always sent too
    #[arg(long)]
    pub all: bool,
    /// Write the digest of the list into a file
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,
    /// Let the registry be without TLS
    #[arg(long)]
    pub insecure: bool,
    /// Remove the list afterwards
    #[arg(short, long, visible_alias = "rm", action = ArgAction::SetTrue)]
    pub purge: bool,
    /// Print the digest only
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryFlags,
    #[arg(value_name = "LIST")]
    pub list: String,
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,
}

/// Take an image out of a manifest list
#[derive(Debug, Args)]
pub struct Remove {
    #[arg(value_name = "LIST")]
    pub list: String,
    #[arg(value_name = "IMAGE|DIGEST")]
    pub image: String,
}

/// Remove manifest lists
#[derive(Debug, Args)]
pub struct Rm {
    /// No error if there is none
    #[arg(short, long)]
    pub ignore: bool,
    #[arg(value_name = "LIST", required = true)]
    pub lists: Vec<String>,
}
