//! Stages side by side: each is a thread that waits for the ones it needs when it needs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{
    INTERRUPTED,
    stage::{Builder, Outcome},
};
use crate::error::{Context as _, Error, Result};

/// What a stage says that another one's failure has ended.
pub(super) const STOPPED: &str = "another stage has failed";

/// Directories are walked by recursion.
const STACK: usize = 16 << 20;
/// So many steps work at once even on few cores: most of them wait most of the time.
const TURNS_MIN: usize = 4;

/// What the stages of a build know of each other.
#[derive(Debug)]
pub(super) struct Graph {
    shared: Mutex<Shared>,
    changed: Condvar,
    /// Its reader sees the end as soon as a stage has failed.
    stop: (UnixStream, UnixStream),
}

#[derive(Debug)]
struct Shared {
    /// Stages that somebody runs, or has run.
    begun: BTreeSet<usize>,
    done: BTreeMap<usize, Outcome>,
    /// The first failure, until it is told.
    failed: Option<Error>,
    has_failed: bool,
    /// How many more steps may work now.
    turns: usize,
}

/// The right to work on a step.
#[derive(Debug)]
pub(super) struct Turn<'g>(&'g Graph);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.lock().turns += 1;
        self.0.changed.notify_all();
    }
}

impl Graph {
    /// `jobs` steps work at once; 0 is as many as there are.
    pub(super) fn new(jobs: Option<usize>) -> Result<Self> {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let shared = Shared {
            begun: BTreeSet::new(),
            done: BTreeMap::new(),
            failed: None,
            has_failed: false,
            turns: match jobs {
                None => cores.max(TURNS_MIN),
                Some(0) => usize::MAX,
                Some(jobs) => jobs,
            },
        };
        let stop = UnixStream::pair().doing("create a socket pair")?;
        Ok(Self { shared: Mutex::new(shared), changed: Condvar::new(), stop })
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `ready` has something, or another stage has failed.
    fn wait<T>(&self, mut ready: impl FnMut(&mut Shared) -> Option<T>) -> Result<T> {
        let mut shared = self.lock();
        loop {
            if shared.has_failed {
                return Err(Error::engine(STOPPED));
            }
            if let Some(found) = ready(&mut shared) {
                return Ok(found);
            }
            shared = self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until fewer steps work than may.
    pub(super) fn turn(&self) -> Result<Turn<'_>> {
        self.wait(|shared| {
            shared.turns = shared.turns.checked_sub(1)?;
            Some(())
        })?;
        Ok(Turn(self))
    }

    /// What a stage has become, once it has.
    fn outcome(&self, stage: usize) -> Result<Outcome> {
        self.wait(|shared| shared.done.get(&stage).cloned())
    }

    /// Readable once a stage has failed.
    pub(super) fn stopped(&self) -> BorrowedFd<'_> {
        self.stop.0.as_fd()
    }

    fn ended(&self, stage: usize, result: Result<Outcome>) {
        let mut shared = self.lock();
        match result {
            Ok(outcome) => {
                shared.done.insert(stage, outcome);
            }
            Err(err) => {
                if !shared.has_failed {
                    shared.failed = Some(err);
                }
                shared.has_failed = true;
                // The other end lives as long as this one.
                let _ = self.stop.1.shutdown(std::net::Shutdown::Both);
            }
        }
        drop(shared);
        self.changed.notify_all();
    }
}

impl Builder<'_> {
    /// Runs the stages, of which `target` is one; what that has become.
    pub(super) fn stages(&self, needed: &[usize], target: usize) -> Result<Outcome> {
        self.graph.lock().begun.extend(needed);
        if let [only] = needed {
            return self.stage(*only);
        }
        thread::scope(|scope| {
            for &stage in needed {
                let started = thread::Builder::new()
                    .name(format!("stage {stage}"))
                    .stack_size(STACK)
                    .spawn_scoped(scope, move || self.graph.ended(stage, self.stage(stage)));
                if let Err(err) = started {
                    let err = Error::from(err).context("start a thread");
                    self.graph.ended(stage, Err(err));
                    break;
                }
            }
        });
        let failed = self.graph.lock().failed.take();
        failed.map_or_else(|| self.graph.outcome(target), Err)
    }

    /// What a stage has become. One that nobody runs is run now: a trigger asks for it, which is
    /// only known once its image is here.
    pub(super) fn outcome(&self, stage: usize) -> Result<Outcome> {
        if self.graph.lock().begun.insert(stage) {
            let outcome = self.stage(stage)?;
            self.graph.ended(stage, Ok(outcome));
        }
        self.graph.outcome(stage)
    }

    /// An error if the user has asked for the end, or another stage has failed.
    pub(super) fn go_on(&self) -> Result<()> {
        let stopped = PollFd::new(self.graph.stopped(), PollFlags::POLLIN);
        let mut fds = vec![stopped];
        fds.extend(self.request.interrupt.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let count = poll(&mut fds, PollTimeout::ZERO).unwrap_or(0);
        if count == 0 {
            return Ok(());
        }
        let is_interrupt = fds.get(1).is_some_and(|fd| fd.any() == Some(true));
        Err(Error::engine(if is_interrupt { INTERRUPTED } else { STOPPED }))
    }
}
