//! The layers of one image on their way here: fetched, or taken from blobs that are here, and
//! unpacked side by side; committed bottom up.

use std::{
    io::Read as _,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
};

use crate::{
    error::{Context as _, Error, Kind, Result},
    image::{
        Addition, Event, LayerRef, Progress, Unpack,
        addition::{self, Partial},
        ingest::{self, Unsettled},
        registry::{Client, Kept},
    },
};

/// Layers fetched side by side; Docker's default is three.
const WORKERS: usize = 4;

/// The layers of one image on their way here.
pub(in crate::image) struct Fetch<'a> {
    /// Where blobs come from that are not here; `None` if they all are.
    pub(in crate::image) client: Option<&'a Client>,
    pub(in crate::image) addition: &'a Addition<'a>,
    /// Bottom first.
    pub(in crate::image) layers: &'a [LayerRef],
    pub(in crate::image) unpack: &'a dyn Unpack,
    pub(in crate::image) progress: &'a dyn Progress,
}

/// How far one layer is.
enum Slot {
    Pending,
    Unpacked(Unsettled),
    Committed,
}

/// What the workers share.
struct Shared {
    next: AtomicUsize,
    stop: AtomicBool,
    slots: Mutex<Vec<Slot>>,
    failed: Mutex<Option<Error>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fetch<'_> {
    /// Fetches what is missing, several at once, bottom first; commits bottom up.
    pub(in crate::image) fn run(&self) -> Result<()> {
        let mut slots = Vec::with_capacity(self.layers.len());
        for layer in self.layers {
            let here = self.addition.has_layer(&layer.chain_id)?
                && self.addition.has_blob(&layer.digest)?;
            let waiting = Event::Waiting { total: layer.size };
            self.progress.layer(&layer.digest, if here { Event::Exists } else { waiting });
            slots.push(if here { Slot::Committed } else { Slot::Pending });
        }
        let missing = slots.iter().filter(|slot| matches!(slot, Slot::Pending)).count();
        let shared = Shared {
            next: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            slots: Mutex::new(slots),
            failed: Mutex::new(None),
        };
        thread::scope(|scope| {
            for _ in 0..missing.min(WORKERS) {
                let worker = thread::Builder::new().name("layer".into());
                // Without a thread, those that there are do its share; without any, see below.
                if worker.spawn_scoped(scope, || self.work(&shared)).is_err() {
                    break;
                }
            }
        });
        self.work(&shared);
        let slots = std::mem::take(&mut *lock(&shared.slots));
        let failed = lock(&shared.failed).take();
        let Some(err) = failed else { return Ok(()) };
        for slot in slots {
            if let Slot::Unpacked(unsettled) = slot {
                // The first error is the one to tell; a later command cleans up.
                unsettled.discard(self.unpack).ok();
            }
        }
        Err(err)
    }

    fn work(&self, shared: &Shared) {
        loop {
            let index = shared.next.fetch_add(1, Ordering::Relaxed);
            let Some(layer) = self.layers.get(index) else { return };
            if shared.stop.load(Ordering::Relaxed) {
                return;
            }
            if matches!(lock(&shared.slots)[index], Slot::Committed) {
                continue;
            }
            let done = self.fetch_layer(layer, shared).and_then(|slot| {
                if matches!(slot, Slot::Committed) {
                    self.progress.layer(&layer.digest, Event::Exists);
                }
                let mut slots = lock(&shared.slots);
                slots[index] = slot;
                self.commit_ready(&mut slots)
            });
            if let Err(err) = done {
                shared.stop.store(true, Ordering::Relaxed);
                lock(&shared.failed).get_or_insert(err);
                return;
            }
        }
    }

    /// Commits every unpacked layer whose lower ones all are.
    fn commit_ready(&self, slots: &mut [Slot]) -> Result<()> {
        for (index, slot) in slots.iter_mut().enumerate() {
            match std::mem::replace(slot, Slot::Pending) {
                Slot::Pending => return Ok(()),
                Slot::Unpacked(unsettled) => {
                    let layer = &self.layers[index];
                    ingest::commit(self.addition, unsettled, &self.layers[..index], self.unpack)?;
                    self.progress.layer(&layer.digest, Event::Done);
                }
                Slot::Committed => {}
            }
            *slot = Slot::Committed;
        }
        Ok(())
    }

    fn fetch_layer(&self, layer: &LayerRef, shared: &Shared) -> Result<Slot> {
        let Some(mut partial) = self.addition.fetch_blob(&layer.digest)? else {
            return self.unpack_blob(layer);
        };
        let mut resumed = partial.size()?;
        if resumed > layer.size {
            partial.restart()?;
            resumed = 0;
        }
        let mut unpacked = self.download(layer, &mut partial, resumed, shared);
        if resumed > 0 && is_broken(&unpacked) {
            // What an earlier command left may be what is wrong; once more, all of it.
            partial.restart()?;
            unpacked = self.download(layer, &mut partial, 0, shared);
        }
        if is_broken(&unpacked) {
            partial.restart()?;
        }
        let unpacked = unpacked?;
        self.addition.commit_fetched(partial, &layer.digest)?;
        self.progress.layer(&layer.digest, Event::Settling);
        Ok(unpacked)
    }

    /// Unpacks the bytes that are here, then those that come, which are kept as they pass. Of a
    /// layer that is here, only the blob is wanted.
    fn download(
        &self,
        layer: &LayerRef,
        partial: &mut Partial,
        from: u64,
        shared: &Shared,
    ) -> Result<Slot> {
        let here = partial.reader()?.take(from);
        let client = self.client.ok_or_else(|| {
            Error::not_found(format!("blob {} is not here any more", layer.digest))
        })?;
        let rest = client.resume_blob(&layer.digest, layer.size, from).until(&shared.stop);
        let rest = Kept { source: rest, copy: partial.writer() };
        let event = |done| Event::Downloading { done, total: layer.size };
        let mut source = Told {
            source: here.chain(rest),
            done: 0,
            tell: |done| {
                self.progress.layer(&layer.digest, event(done));
            },
        };
        if self.addition.has_layer(&layer.chain_id)? {
            addition::check_blob(&mut source, &layer.digest, layer.size)?;
            return Ok(Slot::Committed);
        }
        ingest::unpack_layer(self.addition, &mut source, layer, self.unpack).map(Slot::Unpacked)
    }

    /// Unpacks a blob that is here already.
    fn unpack_blob(&self, layer: &LayerRef) -> Result<Slot> {
        if self.addition.has_layer(&layer.chain_id)? {
            return Ok(Slot::Committed);
        }
        let blob = self.addition.store().open_blob(&layer.digest)?;
        let event = |done| Event::Unpacking { done, total: layer.size };
        let mut source = Told {
            source: blob,
            done: 0,
            tell: |done| {
                self.progress.layer(&layer.digest, event(done));
            },
        };
        let mut unsettled = ingest::unpack_layer(self.addition, &mut source, layer, self.unpack);
        if self.client.is_some() {
            unsettled = unsettled.doing("unpack the blob that is here");
            self.progress.layer(&layer.digest, Event::Settling);
        }
        unsettled.map(Slot::Unpacked)
    }
}

/// Whether the bytes themselves are at fault, rather than their way here.
fn is_broken<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|err| err.kind() == Kind::Invalid)
}

/// Tells how much has been read.
struct Told<R, F> {
    source: R,
    done: u64,
    tell: F,
}

impl<R: std::io::Read, F: FnMut(u64)> std::io::Read for Told<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.done += count as u64;
        (self.tell)(self.done);
        Ok(count)
    }
}
