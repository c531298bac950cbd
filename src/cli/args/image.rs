//! Verbs on images.

use std::path::PathBuf;

use clap::Args;

/// Fetch an image from a registry
#[derive(Debug, Args)]
pub struct Pull {
    /// Platform (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    /// Print the image's name only
    #[arg(short, long)]
    pub quiet: bool,
    /// Verify TLS; false also allows plain HTTP
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// Read images from an archive
#[derive(Debug, Args)]
pub struct Load {
    /// File to read instead of stdin
    #[arg(short, long)]
    pub input: Option<PathBuf>,
    /// Print the images' names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Make an image of a root file system's tar
#[derive(Debug, Args)]
pub struct Import {
    /// Dockerfile instruction to apply, e.g. 'CMD ["sh"]'
    #[arg(short, long)]
    pub change: Vec<String>,
    /// Message for the image's history
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub message: String,
    /// Platform of its content
    #[arg(long)]
    pub platform: Option<String>,
    /// The tar, or - for stdin
    #[arg(value_name = "FILE|-")]
    pub source: String,
    /// Name for the image
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
}
