//! Flags that are seldom typed, and cost nothing when they are not.
//!
//! Making a grammar costs by the flag, and `run` has more than a hundred. The quick one, told by
//! the name of its command, goes without these; a command line that it cannot read is read again
//! by the whole grammar.

use std::ops::Deref;

use clap::{ArgMatches, Args, Command, Error, FromArgMatches, Id};

/// The name of a command whose grammar has no seldom flags.
pub const QUICK: &str = "quick";

/// A group of flags none of which has a default value.
#[derive(Debug, Default)]
pub struct Seldom<T>(T);

impl<T> Deref for Seldom<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Args + Default> Args for Seldom<T> {
    fn group_id() -> Option<Id> {
        None
    }

    fn augment_args(command: Command) -> Command {
        match command.get_name() {
            QUICK => command,
            _ => T::augment_args(command),
        }
    }

    fn augment_args_for_update(command: Command) -> Command {
        T::augment_args_for_update(command)
    }
}

impl<T: Args + Default> FromArgMatches for Seldom<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        Self::from_arg_matches_mut(&mut matches.clone())
    }

    fn from_arg_matches_mut(matches: &mut ArgMatches) -> Result<Self, Error> {
        let group = T::group_id();
        let typed = group.is_some_and(|id| matches.try_contains_id(id.as_str()).unwrap_or(false));
        Ok(Self(if typed { T::from_arg_matches_mut(matches)? } else { T::default() }))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }

    fn update_from_arg_matches_mut(&mut self, matches: &mut ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches_mut(matches)?;
        Ok(())
    }
}

/// Of `run` and `create`.
#[derive(Debug, Default, Args)]
pub struct SeldomFlags {
    /// Write into a file of the container's cgroup (FILE=TEXT, e.g. memory.high=1073741824)
    #[arg(long, value_delimiter = ',')]
    pub cgroup_conf: Vec<String>,
    /// Content trust is docker's, and gone: true is all there is
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub disable_content_trust: Option<bool>,
    /// How the container is isolated: default
    #[arg(long)]
    pub isolation: Option<String>,
    /// Limit on the kernel's memory: --memory counts it, so this only warns
    #[arg(long)]
    pub kernel_memory: Option<String>,
    /// Spare the container from the OOM killer: cgroup v2 cannot, so this only warns
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub oom_kill_disable: Option<bool>,
    /// What runs the container: dhow
    #[arg(long)]
    pub runtime: Option<String>,
}
