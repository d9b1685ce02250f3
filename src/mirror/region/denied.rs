//! What a cluster does not let diffluent do for a stream: shown as the reason of a stall until it works again.
//!
//! The stream itself goes on trying, as after any failure: once the right is granted, nothing has to be started again.

use super::*;

/// What a right is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// Reading the local log.
    Read,
    /// Writing to the region.
    Write,
    /// Committing the position.
    Commit,
}

/// Something that was not allowed.
#[derive(Debug)]
pub(super) struct Denied {
    /// Which right is missing, and what to do.
    reason: String,
    at: Instant,
}

/// Longer than a stream waits until it tries again. What was not tried for longer, nobody needs.
const SHOWN_FOR: Duration = Duration::from_secs(15);

impl Region {
    pub(super) fn deny(&mut self, stream: usize, need: Need, reason: String, now: Instant) {
        self.denied.insert((stream, need), Denied { reason, at: now });
        self.touch(stream);
    }

    /// It has worked.
    pub(super) fn allowed(&mut self, stream: usize, need: Need) {
        if !self.denied.is_empty() && self.denied.remove(&(stream, need)).is_some() {
            self.touch(stream);
        }
    }

    /// Forgets what was not tried again.
    pub(super) fn forget_denied(&mut self, now: Instant) {
        let mut forgotten = Vec::new();
        self.denied.retain(|(stream, _), denied| {
            let shown = now.saturating_duration_since(denied.at) < SHOWN_FOR;
            if !shown {
                forgotten.push(*stream);
            }
            shown
        });
        for stream in forgotten {
            self.touch(stream);
        }
    }

    /// The right that a stream lacks.
    pub(super) fn denied(&self, stream: usize) -> Option<&str> {
        let of_stream = (stream, Need::Read)..=(stream, Need::Commit);
        self.denied.range(of_stream).next().map(|(_, denied)| denied.reason.as_str())
    }

    /// The topics that this region asks for by name and that the local cluster hides, with the right that is missing.
    pub(super) fn hidden(&self) -> Vec<(Arc<str>, String)> {
        let metadata = self.parts.local.metadata();
        let hidden = self.parts.settings.named_topics.iter().filter(|topic| metadata.hidden.contains(*topic));
        let hidden = hidden.filter(|topic| !metadata.topics.contains_key(*topic));
        hidden.map(|topic| (topic.clone(), hidden_reason(&self.parts.local, topic, Operation::Read))).collect()
    }
}
