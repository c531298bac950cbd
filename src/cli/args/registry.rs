//! Verbs on registries themselves.

use std::path::PathBuf;

use clap::{ArgAction, Args};

use super::image::RegistryFlags;

/// Look for images in registries
#[derive(Debug, Args)]
pub struct Search {
    /// Accepted for podman's sake: the columns are docker's in any case
    #[arg(long)]
    pub compatible: bool,
    /// Show only what matches (stars=NUMBER, is-official=true|false)
    #[arg(short, long)]
    pub filter: Vec<String>,
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    /// How many results at most; 25 unless told (of a search, at most 100)
    #[arg(long, allow_negative_numbers = true)]
    pub limit: Option<i64>,
    /// List the tags of the repository that TERM names
    #[arg(long)]
    pub list_tags: bool,
    /// Do not shorten
    #[arg(long)]
    pub no_trunc: bool,
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// [REGISTRY/]WORD; Docker Hub, or the registries that are searched, where none is named.
    /// REGISTRY/ alone lists all that it has
    #[arg(value_name = "TERM")]
    pub term: String,
}

/// Tell a registry who you are, and remember it
#[derive(Debug, Args)]
pub struct Login {
    /// File to keep the credentials in
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Directory with the registry's certificates
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Print the user's name that is on file
    #[arg(long)]
    pub get_login: bool,
    /// Password or token
    #[arg(short, long)]
    pub password: Option<String>,
    /// Read the password from stdin
    #[arg(long)]
    pub password_stdin: bool,
    /// Verify TLS; false also allows plain HTTP
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub tls_verify: bool,
    /// User's name
    #[arg(short, long)]
    pub username: Option<String>,
    /// Docker Hub if none is named
    #[arg(value_name = "REGISTRY")]
    pub server: Option<String>,
}

/// Forget who you are to a registry
#[derive(Debug, Args)]
pub struct Logout {
    /// Forget it for every registry
    #[arg(short, long)]
    pub all: bool,
    /// File with the credentials
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Docker Hub if none is named
    #[arg(value_name = "REGISTRY")]
    pub server: Option<String>,
}

/// List what a registry has about an image: signatures, attestations, other artifacts
#[derive(Debug, Args)]
pub struct Referrers {
    /// Only artifacts of this type
    #[arg(long, value_name = "TYPE")]
    pub artifact_type: Vec<String>,
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    /// Platform of the image where there are several (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    /// Print digests only
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryFlags,
    #[arg(value_name = "IMAGE")]
    pub image: String,
}
