//! Verbs on the images that are here.

use clap::Args;

/// Give an image another name
#[derive(Debug, Args)]
pub struct Tag {
    #[arg(value_name = "SOURCE_IMAGE[:TAG]")]
    pub source: String,
    #[arg(value_name = "TARGET_IMAGE[:TAG]", required = true)]
    pub targets: Vec<String>,
}

/// Take names from an image, which stays
#[derive(Debug, Args)]
pub struct Untag {
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// Names to take; all of the image's if none is given
    #[arg(value_name = "NAME[:TAG]")]
    pub names: Vec<String>,
}

/// Remove images
#[derive(Debug, Args)]
pub struct Rmi {
    /// Remove every image
    #[arg(short, long)]
    pub all: bool,
    /// Remove it although containers use it, or although it is not there
    #[arg(short, long)]
    pub force: bool,
    /// An image that is not there is no error
    #[arg(short, long)]
    pub ignore: bool,
    /// Accepted for docker's sake: untagged parents are never kept
    #[arg(long)]
    pub no_prune: bool,
    /// Remove only what is for this platform (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    #[arg(value_name = "IMAGE", required_unless_present = "all", conflicts_with = "all")]
    pub images: Vec<String>,
}

/// List images
#[derive(Debug, Args)]
pub struct Images {
    /// Show untagged images as well
    #[arg(short, long)]
    pub all: bool,
    /// Show digests
    #[arg(long)]
    pub digests: bool,
    /// Show only what matches (key=value)
    #[arg(short, long)]
    pub filter: Vec<String>,
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    /// Do not shorten
    #[arg(long)]
    pub no_trunc: bool,
    /// Leave the heading away
    #[arg(short, long)]
    pub noheading: bool,
    /// Show ids only
    #[arg(short, long)]
    pub quiet: bool,
    /// Order: created, id, repository, size or tag
    #[arg(long, value_name = "KEY", default_value = "created")]
    pub sort: String,
    /// Show each image with all its names and its platform
    #[arg(long)]
    pub tree: bool,
    /// Show only this repository or image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    pub reference: Option<String>,
}

/// Write images to an archive
#[derive(Debug, Args)]
pub struct Save {
    /// docker-archive, oci-archive, oci-dir or docker-dir
    #[arg(long, default_value = "docker-archive")]
    pub format: String,
    /// Accepted for podman's sake: several names are several images in any case
    #[arg(short, long)]
    pub multi_image_archive: bool,
    /// File or directory to write instead of stdout
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<std::path::PathBuf>,
    /// Platform the images must be for (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    /// Accepted for podman's sake: nothing is printed in any case
    #[arg(short, long)]
    pub quiet: bool,
    /// Unpack layers, as docker does
    #[arg(long)]
    pub uncompressed: bool,
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// Copy an image between registries, archives, directories and here
#[derive(Debug, Args)]
pub struct Copy {
    /// Platform to choose where there are several (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Verify TLS; false also allows plain HTTP
    #[arg(long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub tls_verify: bool,
    /// Unpack layers
    #[arg(long)]
    pub uncompressed: bool,
    /// docker://NAME, docker-archive:FILE[:NAME], oci-archive:FILE[:NAME], oci:DIR[:NAME],
    /// dir:DIR, or an image that is here
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The same; what is no such place is a name for the image here
    #[arg(value_name = "DESTINATION")]
    pub destination: String,
}

/// Show how an image was made
#[derive(Debug, Args)]
pub struct History {
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    /// Sizes and ages for people; false gives bytes and times
    #[arg(short = 'H', long, default_value = "true", num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub human: bool,
    /// Do not shorten
    #[arg(long)]
    pub no_trunc: bool,
    /// Platform the image must be for (os/arch[/variant])
    #[arg(long)]
    pub platform: Option<String>,
    /// Show ids only
    #[arg(short, long)]
    pub quiet: bool,
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// Say by the exit code whether an image is here
#[derive(Debug, Args)]
pub struct Exists {
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// Show an image's layers
#[derive(Debug, Args)]
pub struct Tree {
    /// Show what stands on its topmost layer instead
    #[arg(long)]
    pub whatrequires: bool,
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// Remove images that nobody needs
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove all that no container is made of, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    /// Remove only what matches (until=, label=, label!=, dangling=)
    #[arg(long)]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// Show what an image's topmost layer has changed, or how two images differ
#[derive(Debug, Args)]
pub struct ImageDiff {
    /// Go template or json
    #[arg(long)]
    pub format: Option<String>,
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// What it is compared with
    #[arg(value_name = "IMAGE")]
    pub other: Option<String>,
}

/// Mount images, read-only, and say where; without a name, list what is mounted
#[derive(Debug, Args)]
pub struct Mount {
    /// Mount every image
    #[arg(short, long, conflicts_with = "images")]
    pub all: bool,
    /// json instead of lines
    #[arg(long)]
    pub format: Option<String>,
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
}

/// Take mounts of images away
#[derive(Debug, Args)]
pub struct Unmount {
    /// All of them
    #[arg(short, long, conflicts_with = "images")]
    pub all: bool,
    /// Even if somebody uses it
    #[arg(short, long)]
    pub force: bool,
    #[arg(value_name = "IMAGE", required_unless_present = "all")]
    pub images: Vec<String>,
}
