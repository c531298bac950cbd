//! Verbs that keep the store in order.

use clap::Args;

/// Show how much disk is used
#[derive(Debug, Args)]
pub struct Df {
    /// Go template, `table TEMPLATE` or json
    #[arg(long)]
    pub format: Option<String>,
    /// Show each image and container
    #[arg(short, long)]
    pub verbose: bool,
}

/// Find what is wrong with the store, and mend it
#[derive(Debug, Args)]
pub struct Check {
    /// Mend what can be mended
    #[arg(short, long)]
    pub repair: bool,
    /// With --repair: also remove images and containers that cannot be mended
    #[arg(short, long, requires = "repair")]
    pub force: bool,
    /// Do not read what blobs and layers hold
    #[arg(short, long)]
    pub quick: bool,
    /// text or json
    #[arg(long, default_value = "text")]
    pub format: String,
}

/// Remove the images that were used least recently
#[derive(Debug, Args)]
pub struct Gc {
    /// Bytes that images may take (e.g. 20g); leftovers go in any case
    #[arg(long, value_name = "SIZE")]
    pub keep: Option<String>,
}

/// Remove everything: containers, images and the store itself
#[derive(Debug, Args)]
pub struct Reset {
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
}

/// Remove what nobody needs: stopped containers, networks, images, what builds keep
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove all images that no container is made of, not only those without a name
    #[arg(short, long)]
    pub all: bool,
    /// What unfinished builds have left goes in any case
    #[arg(long)]
    pub build: bool,
    /// Remove only what matches (until=TIME, label=KEY[=VALUE], label!=KEY[=VALUE])
    #[arg(long)]
    pub filter: Vec<String>,
    /// Do not ask
    #[arg(short, long)]
    pub force: bool,
    /// Also remove anonymous volumes that no container has
    #[arg(long)]
    pub volumes: bool,
}
