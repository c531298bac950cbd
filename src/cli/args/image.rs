//! Verbs on images.

use std::path::PathBuf;

use clap::{ArgAction, Args};

/// How a registry is reached
#[derive(Debug, Clone, Args)]
pub struct RegistryFlags {
    /// File with credentials, instead of the usual ones
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    /// Directory with the registry's certificates
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Who to be to the registry (USER:PASSWORD)
    #[arg(long)]
    pub creds: Option<String>,
    /// How often to try again after a failure
    #[arg(long, value_name = "TIMES")]
    pub retry: Option<u32>,
    /// How long to wait before that (e.g. 2s)
    #[arg(long, value_name = "DURATION")]
    pub retry_delay: Option<String>,
    /// Verify TLS; false also allows plain HTTP
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub tls_verify: bool,
}

/// Fetch an image from a registry
#[derive(Debug, Args)]
pub struct Pull {
    /// Fetch every tag of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Architecture, instead of this machine's
    #[arg(long, conflicts_with = "platform")]
    pub arch: Option<String>,
    /// Content trust is docker's, and gone: true is all there is
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub disable_content_trust: Option<bool>,
    /// Operating system, instead of this machine's
    #[arg(long, conflicts_with = "platform")]
    pub os: Option<String>,
    /// When to ask the registry: always, missing, never, newer
    #[arg(long, value_name = "WHEN", default_value = "always")]
    pub policy: String,
    /// Platform (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    /// How to show what is done: auto, plain, json
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub progress: String,
    /// Print the image's name only
    #[arg(short, long)]
    pub quiet: bool,
    /// Variant of the architecture
    #[arg(long, conflicts_with = "platform")]
    pub variant: Option<String>,
    /// Only an image that has been signed with this key (cosign's format)
    #[arg(long, value_name = "FILE")]
    pub verify_key: Vec<PathBuf>,
    #[command(flatten)]
    pub registry: RegistryFlags,
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// Send an image to a registry
#[derive(Debug, Args)]
pub struct Push {
    /// Send every tag of the repository
    #[arg(short, long)]
    pub all_tags: bool,
    /// Pack the layers anew: gzip, zstd or zstd:chunked
    #[arg(long, visible_alias = "compression-format", value_name = "KIND")]
    pub compression: Option<String>,
    /// How hard to compress what is packed (gzip 1-9, zstd 1-20)
    #[arg(long, value_name = "LEVEL")]
    pub compression_level: Option<i32>,
    /// Pack anew what is packed already, too (so where a compression is asked for)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub force_compression: Option<bool>,
    /// Content trust is docker's, and gone: true is all there is
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub disable_content_trust: Option<bool>,
    /// Write the digest of what the registry has into a file
    #[arg(long, value_name = "FILE")]
    pub digestfile: Option<PathBuf>,
    /// Kind of manifest: oci or docker
    #[arg(short, long)]
    pub format: Option<String>,
    /// Only an image for this platform (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    /// How to show what is done: auto, plain, json
    #[arg(long, value_name = "KIND", default_value = "auto")]
    pub progress: String,
    /// Print the image's name only
    #[arg(short, long)]
    pub quiet: bool,
    /// Sign what the registry has with this key (cosign's format)
    #[arg(long, visible_alias = "sign-by-sigstore-private-key", value_name = "FILE")]
    pub sign_by: Option<PathBuf>,
    /// Read the key's password from a file (else COSIGN_PASSWORD, or the terminal)
    #[arg(long, value_name = "FILE", requires = "sign_by")]
    pub sign_passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    pub registry: RegistryFlags,
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Where to, if the image is not called so
    #[arg(value_name = "DESTINATION")]
    pub destination: Option<String>,
}

/// Read images from an archive
#[derive(Debug, Args)]
pub struct Load {
    /// Archive, or directory of an image layout, to read instead of stdin
    #[arg(short, long)]
    pub input: Option<PathBuf>,
    /// Platform to choose where there are several (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    /// Print the images' names only
    #[arg(short, long)]
    pub quiet: bool,
}

/// Make an image of a root file system's tar
#[derive(Debug, Args)]
pub struct Import {
    /// Architecture of its content
    #[arg(long, conflicts_with = "platform")]
    pub arch: Option<String>,
    /// Dockerfile instruction to apply, e.g. 'CMD ["sh"]'
    #[arg(short, long)]
    pub change: Vec<String>,
    /// Message for the image's history
    #[arg(short, long, default_value = "", hide_default_value = true)]
    pub message: String,
    /// Operating system of its content
    #[arg(long, conflicts_with = "platform")]
    pub os: Option<String>,
    /// Platform of its content
    #[arg(long)]
    pub platform: Option<String>,
    /// Accepted for podman's sake: the image's id is all that is printed
    #[arg(short, long)]
    pub quiet: bool,
    /// Variant of its architecture
    #[arg(long, conflicts_with = "platform")]
    pub variant: Option<String>,
    /// The tar, or - for stdin
    #[arg(value_name = "FILE|-")]
    pub source: String,
    /// Name for the image
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
}
