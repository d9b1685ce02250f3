//! What changed state, when and why: the last thousand events, in memory, for the operator who comes later.
//!
//! An event is noted beside the log line that says the same. The journal is lost with the process; the log is what lasts.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Events that are kept. When there are more, the oldest goes.
pub const EVENTS_MAX: usize = 1000;
/// Events of one kind and region in a row that are told one by one; the others are counted. Ten thousand streams that stall at once must not
/// push out what happened before.
const ALIKE_MAX: usize = 50;
/// Bytes of a message, at most: reasons may carry what a broker said.
pub const MESSAGE_BYTES_MAX: usize = 2000;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// This process started.
    Started,
    /// It was told to stop.
    Stopping,
    /// The local cluster answers.
    LocalReached,
    /// The local cluster does not answer.
    LocalUnreachable,
    /// A broker of a region can't be reached.
    RegionUnreachable,
    /// All brokers of a region can be reached again.
    RegionReachable,
    /// A stream is stalled.
    StreamStalled,
    /// A stalled stream goes on, and has caught up.
    StreamWentOn,
    /// A topic is gone from the local cluster, and its stream with it.
    StreamEnded,
    /// Streams of a region are this proxy's from now on.
    StreamsGained,
    /// Streams of a region are not this proxy's any more.
    StreamsTaken,
    /// Retention took records before they were mirrored.
    RecordsLost,
    /// The region has records that the local log has lost.
    RecordsDiverged,
    /// An operator stepped over records.
    RecordsSkipped,
    /// Something happened to a stream that a person should know, such as records that may be in the region twice.
    StreamIncident,
    /// Something is mirrored in both directions that can't become equal on both sides, or may go round.
    Diverges,
    /// Files of a certificate have changed, and what they hold is in use.
    CertificateLoaded,
    /// Files of a certificate have changed, and can't be used.
    CertificateRefused,
    /// An operator asked for something, with what came of it.
    Command,
    /// Another configuration is in effect, or the same was read again.
    ConfigurationApplied,
    /// A configuration was not taken.
    ConfigurationRefused,
    /// The history of configurations can't be kept in its topic.
    HistoryInMemory,
}

impl Kind {
    /// All of them, as openapi.json and docs/operations.md list them.
    pub const ALL: &'static [Kind] = &[
        Kind::Started,
        Kind::Stopping,
        Kind::LocalReached,
        Kind::LocalUnreachable,
        Kind::RegionUnreachable,
        Kind::RegionReachable,
        Kind::StreamStalled,
        Kind::StreamWentOn,
        Kind::StreamEnded,
        Kind::StreamsGained,
        Kind::StreamsTaken,
        Kind::RecordsLost,
        Kind::RecordsDiverged,
        Kind::RecordsSkipped,
        Kind::StreamIncident,
        Kind::Diverges,
        Kind::CertificateLoaded,
        Kind::CertificateRefused,
        Kind::Command,
        Kind::ConfigurationApplied,
        Kind::ConfigurationRefused,
        Kind::HistoryInMemory,
    ];
}

/// What a command is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    /// A region.
    pub region: Option<&'a str>,
    /// A topic on its way there.
    pub topic: Option<&'a str>,
    /// A partition of it.
    pub partition: Option<i32>,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Its number; the first one of a process is 1.
    pub number: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What kind of thing.
    pub kind: Kind,
    /// The region that it is about.
    pub region: Option<String>,
    /// The topic, by its name in the local cluster.
    pub topic: Option<String>,
    /// The partition.
    pub partition: Option<i32>,
    /// Who asked for it: the peer's address on the admin port.
    pub by: Option<String>,
    /// What happened and why, in words.
    pub message: String,
}

impl Event {
    fn new(kind: Kind, message: &str) -> Self {
        Self {
            number: 0,
            at_ms: now_ms(),
            kind,
            region: None,
            topic: None,
            partition: None,
            by: None,
            message: shortened(message),
        }
    }
}

/// Now, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// At most [`MESSAGE_BYTES_MAX`] bytes of `message`, cut between two characters.
fn shortened(message: &str) -> String {
    if message.len() <= MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let end = (0..=MESSAGE_BYTES_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
    format!("{}…", &message[..end])
}

#[derive(Debug, Default)]
struct Events {
    events: VecDeque<Event>,
    /// How many of the newest are of one kind and region, told or counted.
    alike: usize,
}

/// The last [`EVENTS_MAX`] events. Writing never waits for more than the lock of a deque.
#[derive(Debug, Default)]
pub struct Journal {
    events: Mutex<Events>,
}

impl Journal {
    /// Something that concerns the whole proxy.
    pub fn note(&self, kind: Kind, message: &str) {
        self.push(Event::new(kind, message));
    }

    /// Something that concerns a region.
    pub fn region(&self, kind: Kind, region: &str, message: &str) {
        self.push(Event { region: Some(region.to_owned()), ..Event::new(kind, message) });
    }

    /// Something that concerns one stream to a region.
    pub fn stream(&self, kind: Kind, region: &str, topic: &str, partition: i32, message: &str) {
        self.push(Event {
            region: Some(region.to_owned()),
            topic: Some(topic.to_owned()),
            partition: Some(partition),
            ..Event::new(kind, message)
        });
    }

    /// What an operator (`by`) asked for, with what came of it. The names are those that were asked for: perhaps there is nothing of that name.
    pub fn command(&self, by: &str, at: Place<'_>, message: &str) {
        self.push(Event {
            region: at.region.map(shortened),
            topic: at.topic.map(shortened),
            partition: at.partition,
            by: Some(shortened(by)),
            ..Event::new(Kind::Command, message)
        });
    }

    /// What came of a configuration that `by` wanted to be taken.
    pub fn configuration(&self, kind: Kind, by: &str, message: &str) {
        self.push(Event { by: Some(shortened(by)), ..Event::new(kind, message) });
    }

    /// Events with a number above `after`, the newest first, at most `limit`.
    pub fn recent(&self, after: u64, limit: usize) -> Vec<Event> {
        self.lock().events.iter().rev().take_while(|event| event.number > after).take(limit).cloned().collect()
    }

    /// The number of the newest event; 0 before the first.
    pub fn last_number(&self) -> u64 {
        self.lock().events.back().map_or(0, |event| event.number)
    }

    fn push(&self, mut event: Event) {
        let mut guard = self.lock();
        let Events { events, alike } = &mut *guard;
        let same = |last: &Event| last.kind == event.kind && last.region == event.region && event.kind != Kind::Command;
        *alike = if events.back().is_some_and(same) { *alike + 1 } else { 1 };
        event.number = events.back().map_or(1, |last| last.number + 1);
        if let Some(more) = alike.checked_sub(ALIKE_MAX).filter(|more| *more > 0) {
            let message = format!("and {more} more like these; the log has them all");
            event = Event { topic: None, partition: None, message, ..event };
            if more > 1 {
                events.pop_back();
            }
        }
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        // A deque of events is whole after a panic too.
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_in_the_list_of_all() {
        // A new kind does not compile here before it is in the list, too.
        let place = |kind: Kind| match kind {
            Kind::Started => 0,
            Kind::Stopping => 1,
            Kind::LocalReached => 2,
            Kind::LocalUnreachable => 3,
            Kind::RegionUnreachable => 4,
            Kind::RegionReachable => 5,
            Kind::StreamStalled => 6,
            Kind::StreamWentOn => 7,
            Kind::StreamEnded => 8,
            Kind::StreamsGained => 9,
            Kind::StreamsTaken => 10,
            Kind::RecordsLost => 11,
            Kind::RecordsDiverged => 12,
            Kind::RecordsSkipped => 13,
            Kind::StreamIncident => 14,
            Kind::Diverges => 15,
            Kind::CertificateLoaded => 16,
            Kind::CertificateRefused => 17,
            Kind::Command => 18,
            Kind::ConfigurationApplied => 19,
            Kind::ConfigurationRefused => 20,
            Kind::HistoryInMemory => 21,
        };
        let places: Vec<usize> = Kind::ALL.iter().map(|kind| place(*kind)).collect();
        assert_eq!(places, (0..Kind::ALL.len()).collect::<Vec<usize>>());
    }

    #[test]
    fn the_last_thousand_events_are_kept_and_numbers_go_on() {
        let journal = Journal::default();
        assert_eq!(journal.last_number(), 0);
        for number in 1..=1500 {
            let kind = if number % 2 == 0 { Kind::RegionUnreachable } else { Kind::RegionReachable };
            journal.region(kind, "us", &format!("event {number}"));
        }
        let all = journal.recent(0, usize::MAX);
        assert_eq!((all.len(), all[0].number, all[999].number), (1000, 1500, 501));
        assert_eq!(all[0].message, "event 1500");
        let new = journal.recent(1497, 2);
        assert_eq!(new.iter().map(|event| event.number).collect::<Vec<_>>(), [1500, 1499]);
    }

    #[test]
    fn ten_thousand_of_a_kind_are_counted_and_push_nothing_out() {
        let journal = Journal::default();
        journal.note(Kind::Started, "started");
        for partition in 0..10_000 {
            journal.stream(Kind::StreamStalled, "us", "orders", partition, "refused");
        }
        journal.region(Kind::RegionUnreachable, "us", "gone");
        let all = journal.recent(0, usize::MAX);
        assert_eq!(all.len(), 1 + ALIKE_MAX + 1 + 1);
        assert_eq!(
            (all[1].message.as_str(), all[1].partition),
            ("and 9950 more like these; the log has them all", None)
        );
        assert_eq!((all[1].number, all[0].number), (10_001, 10_002), "who asks for what is new is told");
        assert_eq!(all.last().unwrap().kind, Kind::Started);
    }

    #[test]
    fn a_long_message_is_cut_between_two_characters() {
        let journal = Journal::default();
        journal.stream(Kind::StreamStalled, "us", "orders", 3, &"é".repeat(MESSAGE_BYTES_MAX));
        let event = &journal.recent(0, 1)[0];
        assert!(event.message.len() <= MESSAGE_BYTES_MAX + "…".len() && event.message.ends_with("é…"));
        assert_eq!((event.topic.as_deref(), event.partition), (Some("orders"), Some(3)));
    }
}
