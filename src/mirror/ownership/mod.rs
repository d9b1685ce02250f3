//! Which streams of a region this proxy mirrors, where several proxies of one local cluster share them.
//!
//! They are members of the group `diffluent.<region>` of the local cluster, in which the positions are committed too, by Kafka's classic group protocol. There
//! is no election code of ours: the coordinator makes one of the members the leader, and that one shares the streams out.
//!
//! [`messages`] are the bytes that members exchange, [`sharing`] decides who gets what, [`member`] is a member's state machine without I/O, and [`run`] drives it.
//! This file is what the region sees: its [`Standing`], and the handle [`Ownership`], by which it says what it has left.
//!
//! # Why two can't harm each other
//!
//! - A stream that moves is taken from its owner first, which drains it, commits its position and leaves it. Only the next generation gives it to another member.
//! - Commits carry member and generation, and a broker refuses those of an old one. What a stream may not do without a commit, a proxy that is no longer a
//!   member can't do: begin for the first time, and begin a new incarnation.
//! - Everything else that two might write at the same time is the same batches with the same sequences, of which the region's brokers keep one copy.
//! - A member that hears nothing from the coordinator stops its streams ([`Ownership::holds`]) before the coordinator gives them to another: its lease runs from when it
//!   sent the last heartbeat that was answered, the coordinator's patience from when it received it.
//!
//! # A start waits for nobody
//!
//! Brokers let the first join of a group wait for others (`group.initial.rebalance.delay.ms`, 3 s). A proxy that finds no members mirrors everything meanwhile. What it lacks is
//! a member's commit, and a stream that never ran may not send before its first position is committed for good. So it commits first positions as no member ([`Pass::Alone`]),
//! which the coordinator accepts while the group has no members, and joins. Its join closes that door, and so does anybody's: from then on nobody can change a first position
//! but a member of a generation. Two proxies that start at the same moment may both have committed; so both wait until the door is closed, read, and begin with what is there.
//!
//! Whether it is closed is asked in the only way that shows what a coordinator knows at this moment, by a commit: the same first position once more, until it is refused. What
//! is read of a group (DescribeGroups) is what was written to the offsets topic, and of a join nothing is written before its generation has begun.
//!
//! # References
//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup: the protocol guide; incremental cooperative rebalancing (KIP-429); static membership (KIP-345).

pub mod member;
pub mod messages;
pub mod run;
pub mod sharing;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::progress::Partition;

/// As what positions are committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Not at all, now.
    Nobody,
    /// As no member: the coordinator accepts that while the group has none. Only first positions are committed so, see "A start waits for nobody" above.
    Alone,
    /// Not before the next generation has its assignments.
    Waiting,
    /// As a member of a generation.
    Member {
        /// The generation.
        generation: i32,
        /// The id that the coordinator gave.
        member_id: Arc<str>,
        /// The group instance id, if it joined under one.
        instance: Option<Arc<str>>,
    },
}

/// What of a region's streams this proxy mirrors.
#[derive(Clone, Debug)]
pub enum Share {
    /// Not known at the moment: none.
    Unknown,
    /// All: nobody else is there.
    Everything,
    /// These.
    Streams(Arc<BTreeSet<Partition>>),
}

impl Share {
    /// Whether a stream is part of it.
    pub fn includes(&self, stream: &Partition) -> bool {
        match self {
            Share::Unknown => false,
            Share::Everything => true,
            Share::Streams(streams) => streams.contains(stream),
        }
    }

    /// Whether both are the same thing, without looking at each stream.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Share::Unknown, Share::Unknown) | (Share::Everything, Share::Everything) => true,
            (Share::Streams(one), Share::Streams(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// Another proxy of the fleet, with what it mirrors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Other {
    /// Its `[proxy] instance`, or the id that the coordinator gave it.
    pub instance: Arc<str>,
    /// The address from which it talks to the local cluster.
    pub host: Arc<str>,
    /// Its streams.
    pub streams: BTreeSet<Partition>,
}

/// Why this proxy takes no part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What is wrong and what can be done.
    pub reason: String,
    /// Whether a person must mend it.
    pub needs_a_person: bool,
}

/// What this proxy is in a region's group now.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What it mirrors.
    pub share: Share,
    /// As what it commits.
    pub pass: Pass,
    /// Goes up whenever somebody else may have had its streams meanwhile: all of them are begun anew.
    pub term: u64,
    /// The other members; empty while they are not known.
    pub others: Arc<Vec<Other>>,
    /// Why it takes no part, if so.
    pub trouble: Option<Trouble>,
}

impl Default for Standing {
    fn default() -> Self {
        Self { share: Share::Unknown, pass: Pass::Nobody, term: 0, others: Arc::default(), trouble: None }
    }
}

impl Standing {
    fn is_same(&self, other: &Self) -> bool {
        self.share.is_same(&other.share)
            && (&self.pass, self.term, &self.trouble) == (&other.pass, other.term, &other.trouble)
            && Arc::ptr_eq(&self.others, &other.others)
    }

    /// Which of the other members mirrors a stream.
    pub fn owner(&self, stream: &Partition) -> Option<&Other> {
        self.others.iter().find(|other| other.streams.contains(stream))
    }
}

/// What a region and its membership tell each other.
#[derive(Debug)]
pub struct Ownership {
    /// This proxy's `[proxy] instance`.
    pub instance: Arc<str>,
    standing: watch::Sender<Standing>,
    lease: Mutex<Option<Instant>>,
    leaving: Mutex<BTreeSet<Partition>>,
    left: Notify,
    first_positions: Notify,
    leave: Notify,
    gone: Notify,
}

impl Ownership {
    /// Of a proxy that has not asked for its share yet.
    pub fn new(instance: Arc<str>) -> Arc<Self> {
        Arc::new(Self {
            instance,
            standing: watch::Sender::default(),
            lease: Mutex::default(),
            leaving: Mutex::default(),
            left: Notify::new(),
            first_positions: Notify::new(),
            leave: Notify::new(),
            gone: Notify::new(),
        })
    }

    /// What this proxy is in the group, from now on.
    pub fn watch(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whether what this proxy was given is still its own, by its own clock. Asked before anything is sent: a process that was stopped for a while finds out here.
    pub fn holds(&self, now: Instant) -> bool {
        lock(&self.lease).is_some_and(|until| now < until)
    }

    /// Whether a stream that was taken from this proxy is still its own to drain and commit.
    pub fn is_leaving(&self, stream: &Partition) -> bool {
        lock(&self.leaving).contains(stream)
    }

    /// The streams that were taken from this proxy and that it has not left yet.
    pub fn leaving(&self) -> Vec<Partition> {
        lock(&self.leaving).iter().cloned().collect()
    }

    /// The region has left a stream that was taken from it: another member may have it.
    pub fn has_left(&self, stream: &Partition) {
        let mut leaving = lock(&self.leaving);
        if leaving.remove(stream) && leaving.is_empty() {
            self.left.notify_one();
        }
    }

    /// The first positions of streams that never ran are committed, as far as they can be: the group may be joined.
    pub fn first_positions_done(&self) {
        self.first_positions.notify_one();
    }

    /// Leaves the group, so that others take over at once.
    pub async fn leave(&self, deadline: Duration) {
        self.leave.notify_one();
        // Whoever does not hear of it finds out when the session times out.
        let _ = timeout(deadline, self.gone.notified()).await;
    }

    fn publish(&self, standing: Standing) {
        self.standing.send_if_modified(|known| {
            let changed = !known.is_same(&standing);
            if changed {
                *known = standing;
            }
            changed
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
