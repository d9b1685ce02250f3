//! What is wrong with many clients at once is told in one line, every now and then.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line in this time, for each kind.
#[derive(Debug)]
pub(super) struct Complaints {
    every: Duration,
    told: Mutex<HashMap<&'static str, Told>>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    since: u64,
}

impl Complaints {
    pub fn new(every: Duration) -> Self {
        Self { every, told: Mutex::default() }
    }

    /// Notes a complaint of this kind. `Some`: it is to be told now, with how many others there were since the last one that was.
    pub fn note(&self, kind: &'static str) -> Option<u64> {
        self.note_at(kind, Instant::now())
    }

    fn note_at(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(kind) {
            Some(told) if now.duration_since(told.at) < self.every => {
                told.since += 1;
                None
            }
            Some(told) => Some(std::mem::replace(told, Told { at: now, since: 0 }).since),
            None => {
                all.insert(kind, Told { at: now, since: 0 });
                Some(0)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_once_in_a_while_with_how_many_were_not() {
        let complaints = Complaints::new(Duration::from_secs(10));
        let begin = Instant::now();
        let at = |kind, seconds| complaints.note_at(kind, begin + Duration::from_secs(seconds));
        assert_eq!(at("a", 0), Some(0));
        assert_eq!((at("a", 1), at("b", 1), at("a", 9)), (None, Some(0), None));
        assert_eq!(at("a", 10), Some(2));
        assert_eq!(at("a", 30), Some(0));
    }
}
