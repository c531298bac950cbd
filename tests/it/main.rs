//! Everything that needs a kernel: the built binary, driven from outside. One test binary: one
//! link, one harness.
//!
//! **Identities.** `scripts/test` runs this binary three times, and the module a test stands in
//! says in which of them it belongs:
//!
//! | module               | run as                                                        |
//! | -------------------- | ------------------------------------------------------------- |
//! | `…::as_root::…`      | root                                                          |
//! | `…::rootless::…`     | an ordinary user with subordinate ids                         |
//! | `…::solo::…`         | an ordinary user without any                                  |
//! | `…::limits::…`      | both, where cgroup v2 has the controllers: here or in a machine of its own |
//! | anything else        | root, and again as the ordinary user with subordinate ids     |
//!
//! **Needs.** What a machine may lack is asked for with `needs!`, which skips by name.

#![expect(clippy::unwrap_used, reason = "in a test, a panic with a line number is the report")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the test runner keeps both")]
#![allow(dead_code, reason = "a harness offers more than the tests of one day use")]

mod build;
mod build_cache;
mod build_check;
mod build_flags;
mod build_hostile;
mod build_language;
mod build_lock;
mod build_mounts;
mod build_output;
mod build_platform;
mod build_progress;
mod build_real;
mod build_remote;
mod builders;
mod capture;
mod carrier;
mod changes;
mod depot;
mod egress;
mod env;
mod exec;
mod explain;
mod files;
mod firewall;
mod fixture;
mod flags;
mod harness;
mod hostile;
mod images;
mod init;
mod inspect;
mod layering;
mod life;
mod lifecycle;
mod links;
mod load;
mod login;
mod logs;
mod manifest;
mod mirrors;
mod monitor;
mod mount;
mod mounts;
mod names;
mod needs;
mod network;
mod network_options;
mod ports;
mod ps;
mod pty;
mod pull;
mod push;
mod referrers;
mod registry;
mod resources;
mod rootfs;
mod run;
mod save;
mod search;
mod secrets;
mod security;
mod seldom;
mod server;
mod servers;
mod special;
mod storage;
mod store;
mod surface;
mod token;
mod trust;
mod tty;
mod upkeep;
mod userns;
mod volume_attacks;
mod volumes;
mod watch;
