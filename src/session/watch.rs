//! Connections that nobody uses are found by one look at all of them, once a second: a session only notes when it last moved a byte.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::debug;

use super::clients::{self, ClientView, Pace};
use super::in_flight::InFlight;
use super::limits::{Limit, Limits};
use super::metrics::SessionMetrics;
use crate::journal::now_ms;

/// How often it is looked: how exact times are.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// When a session last moved a byte, in seconds of the [`Watch`]'s clock.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// The watch's clock. It is read for each chunk, so it is one that is set once a second.
    now: Arc<AtomicU32>,
    opened: u32,
    last: AtomicU32,
    received: AtomicBool,
    /// An answer is being written to the client.
    writing: AtomicBool,
}

impl Activity {
    /// Bytes of the client have come.
    pub fn received(&self) {
        self.received.store(true, Ordering::Relaxed);
        self.moved();
    }

    /// Bytes go to the client, from now on until `writing` is false.
    pub fn writing(&self, writing: bool) {
        self.writing.store(writing, Ordering::Relaxed);
        self.moved();
    }

    fn moved(&self) {
        self.last.store(self.now.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// What of a session is looked at.
#[derive(Debug)]
struct Watched {
    peer: SocketAddr,
    since_ms: u64,
    in_flight: Arc<InFlight>,
    pace: Pace,
    session: AbortHandle,
}

/// All sessions of all ports.
#[derive(Debug)]
pub(super) struct Watch {
    limits: Arc<ArcSwap<Limits>>,
    now: Arc<AtomicU32>,
    next: AtomicU64,
    sessions: Mutex<HashMap<u64, Watched>>,
}

impl Watch {
    /// The limits are looked at once a second: they may be changed at any time.
    pub fn new(limits: Arc<ArcSwap<Limits>>) -> Self {
        Self { limits, now: Arc::default(), next: AtomicU64::new(0), sessions: Mutex::default() }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<u64, Watched>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The activity of a session that begins now, and the number under which to [`Watch::add`] and [`Watch::remove`] it.
    pub fn begin(&self) -> (u64, Activity) {
        let now = self.now.load(Ordering::Relaxed);
        let activity = Activity { now: Arc::clone(&self.now), opened: now, last: now.into(), ..Activity::default() };
        (self.next.fetch_add(1, Ordering::Relaxed), activity)
    }

    /// Watches a session. One that has ended in the meantime is found by the next look.
    pub fn add(&self, number: u64, peer: SocketAddr, in_flight: Arc<InFlight>, session: AbortHandle) {
        let watched = Watched { peer, since_ms: now_ms(), in_flight, pace: Pace::default(), session };
        self.sessions().insert(number, watched);
    }

    /// Who the clients are, those that produce most first.
    pub fn clients(&self) -> Vec<ClientView> {
        clients::clients(self.sessions().values().map(|watched| clients::Session {
            peer: watched.peer,
            since_ms: watched.since_ms,
            facts: &watched.in_flight.client,
            pace: &watched.pace,
        }))
    }

    /// The session has ended.
    pub fn remove(&self, number: u64) {
        self.sessions().remove(&number);
    }

    /// Looks for ever.
    pub async fn run(&self, metrics: &SessionMetrics) {
        let begun = Instant::now();
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.now.store(u32::try_from(begun.elapsed().as_secs()).unwrap_or(u32::MAX), Ordering::Relaxed);
            self.look(metrics);
        }
    }

    /// Ends the sessions that are over a limit of time, and takes the pace of the others.
    fn look(&self, metrics: &SessionMetrics) {
        let now = self.now.load(Ordering::Relaxed);
        let limits = self.limits.load();
        self.sessions().retain(|_, watched| {
            if watched.session.is_finished() {
                return false;
            }
            watched.pace.look(&watched.in_flight.client);
            let Some(limit) = over(&limits, &watched.in_flight, now) else { return true };
            metrics.limit_hit(limit);
            watched.in_flight.set_over(limit);
            debug!(peer = %watched.peer, limit = limit.as_str(), "client connection closed: nothing has come for too long");
            watched.session.abort();
            false
        });
    }
}

/// The limit of time that a session is over at `now`, if it is.
fn over(limits: &Limits, in_flight: &InFlight, now: u32) -> Option<Limit> {
    let activity = &in_flight.activity;
    let since = |then: u32| Duration::from_secs(now.saturating_sub(then).into());
    if !activity.received.load(Ordering::Relaxed) {
        return (since(activity.opened) > limits.first_byte_within).then_some(Limit::FirstByte);
    }
    // An answer may take as long as the broker takes; a client that does not read it may not.
    let waits_for_broker = || !activity.writing.load(Ordering::Relaxed) && !in_flight.is_empty();
    (since(activity.last.load(Ordering::Relaxed)) > limits.idle && !waits_for_broker()).then_some(Limit::Idle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::in_flight::Expected;

    #[test]
    fn what_is_silent_for_too_long_is_over_its_limit_but_not_while_the_broker_takes_its_time() {
        let limits =
            Limits { first_byte_within: Duration::from_secs(5), idle: Duration::from_secs(10), ..Limits::default() };
        let watch = Watch::new(Arc::new(ArcSwap::from_pointee(limits.clone())));
        let over = |session: &InFlight, now| over(&limits, session, now);
        let at = |seconds| watch.now.store(seconds, Ordering::Relaxed);
        at(100);
        let session = InFlight::new(1, watch.begin().1);
        assert_eq!(over(&session, 105), None);
        assert_eq!(over(&session, 106), Some(Limit::FirstByte));
        at(106);
        session.activity.received();
        assert_eq!(over(&session, 116), None);
        assert_eq!(over(&session, 117), Some(Limit::Idle));
        session.push(Expected::Token);
        assert_eq!(over(&session, 1_000), None);
        at(1_000);
        session.activity.writing(true);
        assert_eq!(over(&session, 1_011), Some(Limit::Idle));
        session.activity.writing(false);
        session.pop();
        at(2_000);
        session.activity.writing(false);
        assert_eq!(over(&session, 2_010), None);
    }
}
