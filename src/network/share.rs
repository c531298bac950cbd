//! What many use and there is only so much of: nobody takes all.
//!
//! Whoever asks may have so many times what is still free (dynamic thresholds, Choudhury and
//! Hahne 1998). One alone gets nearly everything; beside one who takes whatever there is, the next
//! still finds a part, and nothing has to be set aside for those who are not there.

use std::{cell::Cell, collections::HashMap, hash::Hash, rc::Rc};

/// How many times what is free one may have: eight, so that a ninth stays.
const TIMES: usize = 8;

/// Something of which there are `most`.
#[derive(Debug)]
pub(super) struct Shares<K> {
    most: usize,
    taken: Rc<Cell<usize>>,
    each: HashMap<K, Rc<Cell<usize>>>,
}

/// What one has of it, until this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    count: usize,
    taken: Rc<Cell<usize>>,
    own: Rc<Cell<usize>>,
}

impl<K: Eq + Hash> Shares<K> {
    pub(super) fn of(most: usize) -> Self {
        Self { most, taken: Rc::default(), each: HashMap::new() }
    }

    /// `count` more for `who`, if that leaves something for others.
    pub(super) fn take(&mut self, who: K, count: usize) -> Option<Share> {
        if !self.each.contains_key(&who) {
            // Who has nothing any more is forgotten.
            self.each.retain(|_, own| own.get() > 0);
        }
        let own = self.each.entry(who).or_default();
        let free = self.most.saturating_sub(self.taken.get());
        if count > free || own.get() + count > free.saturating_mul(TIMES) {
            return None;
        }
        own.set(own.get() + count);
        self.taken.set(self.taken.get() + count);
        Some(Share { count, taken: Rc::clone(&self.taken), own: Rc::clone(own) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        for counter in [&self.taken, &self.own] {
            counter.set(counter.get().saturating_sub(self.count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(shares: &mut Shares<&'static str>, who: &'static str) -> Vec<Share> {
        std::iter::from_fn(|| shares.take(who, 2)).collect()
    }

    #[test]
    fn nobody_takes_all() {
        let mut shares = Shares::of(9000);
        let first = fill(&mut shares, "first");
        assert_eq!(first.len(), 4000);
        let second = fill(&mut shares, "second");
        assert!((440..500).contains(&second.len()), "{}", second.len());
        assert!(shares.take("third", 2).is_some());
        drop(first);
        assert!(shares.take("second", 2).is_some());
        drop(second);
        assert_eq!(fill(&mut shares, "third").len(), 4000, "everything came back");
        assert!(shares.take("fourth", 2).is_some());
        assert_eq!(shares.each.len(), 1, "who has nothing is forgotten");
    }

    #[test]
    fn there_is_never_more_than_there_is() {
        let mut shares = Shares::of(3);
        let all: Vec<Share> = (0..10).filter_map(|who| shares.take(who, 2)).collect();
        assert_eq!(all.len(), 1);
    }
}
