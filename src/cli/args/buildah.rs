//! Flags of `build` that podman alone has.

use std::path::PathBuf;

use clap::Args;

/// What `podman build` can be told and `docker build` cannot.
#[derive(Debug, Args)]
pub struct BuildahFlags {
    /// Build for every platform that the base images are there for
    #[arg(long, conflicts_with_all = ["platform", "arch", "os", "variant"])]
    pub all_platforms: bool,
    /// Architecture to build for
    #[arg(long, conflicts_with = "platform")]
    pub arch: Option<String>,
    /// Operating system to build for
    #[arg(long, conflicts_with = "platform")]
    pub os: Option<String>,
    /// Variant of the architecture to build for
    #[arg(long, conflicts_with = "platform")]
    pub variant: Option<String>,
    /// File with values of ARGs, a NAME=VALUE a line; --build-arg wins
    #[arg(long, value_name = "FILE")]
    pub build_arg_file: Vec<PathBuf>,
    /// Make again what was made longer ago than this (e.g. 24h)
    #[arg(long, value_name = "DURATION")]
    pub cache_ttl: Option<String>,
    /// Add a capability to RUN
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Drop a capability of RUN
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// Cgroup namespace of RUN: private or host
    #[arg(long, value_name = "MODE")]
    pub cgroupns: Option<String>,
    /// Say in an annotation when the image was made
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub created_annotation: Option<bool>,
    /// Give RUN a device of the host (HOST[:CONTAINER][:rwm], or a CDI name)
    #[arg(long)]
    pub device: Vec<String>,
    /// Layers that stay here are never compressed: true is all there is
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub disable_compression: Option<bool>,
    /// Content trust is docker's, and gone: true is all there is
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub disable_content_trust: Option<bool>,
    /// Resolver's address in RUN
    #[arg(long)]
    pub dns: Vec<String>,
    /// Resolver option in RUN
    #[arg(long)]
    pub dns_option: Vec<String>,
    /// Search domain in RUN; `.` is none
    #[arg(long)]
    pub dns_search: Vec<String>,
    /// Set a variable of the image (NAME=VALUE, or NAME from this environment)
    #[arg(long, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    /// Kind of the image's manifest: oci or docker
    #[arg(long, value_name = "KIND", env = "BUILDAH_FORMAT", hide_env_values = true)]
    pub format: Option<String>,
    /// Image in the place of the first FROM's
    #[arg(long, value_name = "IMAGE")]
    pub from: Option<String>,
    /// Additional groups of RUN
    #[arg(long)]
    pub group_add: Vec<String>,
    /// Set the variables for proxies in RUN as they are here
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub http_proxy: Option<bool>,
    /// No label says what has built an image: false is all there is
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub identity_label: Option<bool>,
    /// File in the place of .dockerignore
    #[arg(long, value_name = "FILE")]
    pub ignorefile: Option<PathBuf>,
    /// Take over the annotations of the base image
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub inherit_annotations: Option<bool>,
    /// Take over the labels of the base image and of stages, as is usual
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub inherit_labels: Option<bool>,
    /// IPC namespace of RUN: private or host
    #[arg(long, value_name = "MODE")]
    pub ipc: Option<String>,
    /// How many steps may work at once; 0 is as many as there are
    #[arg(long, value_name = "COUNT")]
    pub jobs: Option<usize>,
    /// Keep what each step makes; with false all that is new is one layer, made anew
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub layers: Option<bool>,
    /// Tell what is done in this file
    #[arg(long, value_name = "FILE")]
    pub logfile: Option<PathBuf>,
    /// Add the image to this manifest list, which is made if it is not there
    #[arg(long, value_name = "LIST")]
    pub manifest: Option<String>,
    /// Leave /etc/hostname as it is in the image
    #[arg(long)]
    pub no_hostname: bool,
    /// Leave /etc/hosts as it is in the image
    #[arg(long)]
    pub no_hosts: bool,
    /// Leave the history out of the image
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub omit_history: Option<bool>,
    /// Feature of the operating system that the image wants
    #[arg(long, value_name = "FEATURE")]
    pub os_feature: Vec<String>,
    /// Version of the operating system that the image is for
    #[arg(long, value_name = "VERSION")]
    pub os_version: Option<String>,
    /// PID namespace of RUN: private or host
    #[arg(long, value_name = "MODE")]
    pub pid: Option<String>,
    /// No time in a layer is later than the image's, which is always so: true is all there is
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rewrite_timestamp: Option<bool>,
    /// Leave out stages that the target does not need, as is usual
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub skip_unused_stages: Option<bool>,
    /// The image's time, and the latest that is in it (seconds since 1970)
    #[arg(long, value_name = "SECONDS", conflicts_with = "timestamp")]
    pub source_date_epoch: Option<i64>,
    /// As --source-date-epoch
    #[arg(long, value_name = "SECONDS")]
    pub timestamp: Option<i64>,
    /// Annotation of the base image that is not taken over
    #[arg(long, value_name = "KEY")]
    pub unsetannotation: Vec<String>,
    /// Variable that the image shall not have
    #[arg(long, value_name = "NAME")]
    pub unsetenv: Vec<String>,
    /// Label that the image shall not have
    #[arg(long, value_name = "KEY")]
    pub unsetlabel: Vec<String>,
    /// User namespace of RUN: host, which is the usual one
    #[arg(long, value_name = "MODE")]
    pub userns: Option<String>,
    /// UTS namespace of RUN: private or host
    #[arg(long, value_name = "MODE")]
    pub uts: Option<String>,
    /// Show RUN a directory of the host (SOURCE:TARGET[:OPTIONS])
    #[arg(short, long)]
    pub volume: Vec<String>,
}
