//! Several transfers at once.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    error::{Error, Result},
    image::packing,
};

/// Transfers side by side; Docker's default is five.
const WORKERS: usize = 5;

/// Does `one` for each number below `count`, some at once. The first failure stops the others, which
/// are told by the flag.
pub(super) fn together<T: Send>(
    count: usize,
    one: impl Fn(usize, &AtomicBool) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let slots: Vec<Mutex<Option<Result<T>>>> = (0..count).map(|_| Mutex::default()).collect();
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(slot), false) = (slots.get(index), stop.load(Ordering::Relaxed)) else {
                return;
            };
            let done = one(index, &stop);
            stop.fetch_or(done.is_err(), Ordering::Relaxed);
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        }
    };
    thread::scope(|scope| {
        for _ in 1..count.min(WORKERS) {
            // Without a thread, those that there are do its share.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
    let done = slots.into_iter().map(|s| s.into_inner().unwrap_or_else(PoisonError::into_inner));
    let mut done: Vec<_> = done.collect();
    // What was stopped says nothing of why.
    let stopped = |result: &Result<T>| {
        result.as_ref().is_err_and(|err| err.to_string().ends_with(packing::GIVEN_UP))
    };
    if let Some(at) =
        done.iter().position(|r| r.as_ref().is_some_and(|r| r.is_err() && !stopped(r)))
        && let Some(Err(err)) = done.swap_remove(at)
    {
        return Err(err);
    }
    let missing = || Err(Error::engine("it was not sent"));
    done.into_iter().map(|sent| sent.unwrap_or_else(missing)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_one_failure_stops_the_rest() {
        let squares = together(40, |n, _| Ok(n * n)).expect("no failure");
        assert_eq!(squares, (0..40).map(|n| n * n).collect::<Vec<_>>());
        let failed = together(1_000, |n, stop| match n {
            3 => Err(Error::engine("three")),
            _ if stop.load(Ordering::Relaxed) => Err(Error::engine(packing::GIVEN_UP)),
            _ => Ok(()),
        });
        assert!(failed.is_err_and(|err| err.to_string() == "three"));
        assert!(together(0, |_, _| Ok(())).is_ok_and(|done| done.is_empty()));
    }
}
