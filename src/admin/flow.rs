//! Rates from counters that were read now and then.

use std::time::{Duration, Instant};

use crate::lag::{Rates, State};

/// What is older than about this counts no more.
const MEMORY: Duration = Duration::from_secs(10);
/// Nobody waits longer than this, a year: it is as good as never.
const CAUGHT_UP_MAX_SECONDS: f64 = 365.0 * 86_400.0;

/// What is counted of a topic.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    /// Sum of the local log's ends.
    pub ends: i64,
    /// Sum of the first offsets that are missing in the region.
    pub positions: i64,
    /// Records acknowledged.
    pub records: u64,
    /// Bytes acknowledged.
    pub bytes: u64,
}

/// When readings were taken, and so how much the newest one counts.
#[derive(Clone, Copy, Debug, Default)]
struct Clock {
    last: Option<Instant>,
    /// When it began to be known.
    since: Option<Instant>,
}

impl Clock {
    /// A reading was taken now: a function that takes what has grown since the one before into an average per second. `None`: there is no one before.
    fn tick(&mut self, now: Instant) -> Option<impl Fn(&mut f64, f64) + use<>> {
        let at = self.last.replace(now)?;
        let passed = now.saturating_duration_since(at).as_secs_f64();
        if passed <= 0.0 {
            return None;
        }
        // While little is known, all of it counts alike.
        let known = now.saturating_duration_since(*self.since.get_or_insert(at)).as_secs_f64();
        let weight = (1.0 - (-passed / MEMORY.as_secs_f64()).exp()).max(passed / known);
        // What shrinks was begun anew: a topic created again, a partition that is gone, a region that came back.
        Some(move |rate: &mut f64, grown: f64| *rate += weight * (grown.max(0.0) / passed - *rate))
    }
}

/// Averages per second of the bytes that go to and from a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ByteFlow {
    clock: Clock,
    before: (u64, u64),
    in_per_second: f64,
    out_per_second: f64,
}

impl ByteFlow {
    /// Takes a new reading.
    pub fn take(&mut self, in_bytes: u64, out_bytes: u64, now: Instant) {
        let before = std::mem::replace(&mut self.before, (in_bytes, out_bytes));
        if let Some(blend) = self.clock.tick(now) {
            blend(&mut self.in_per_second, in_bytes.saturating_sub(before.0) as f64);
            blend(&mut self.out_per_second, out_bytes.saturating_sub(before.1) as f64);
        }
    }

    /// Bytes to the cluster and from it, per second.
    pub fn rates(&self) -> (f64, f64) {
        (tidy(self.in_per_second), tidy(self.out_per_second))
    }
}

/// An average per second of how something grows.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    clock: Clock,
    before: Totals,
    produced: f64,
    moved: f64,
    records: f64,
    bytes: f64,
}

impl Flow {
    /// Takes a new reading.
    pub fn take(&mut self, totals: Totals, now: Instant) {
        let before = std::mem::replace(&mut self.before, totals);
        let Some(blend) = self.clock.tick(now) else { return };
        // Ends that were not known yet are 0: what they jump by was not produced just now.
        if before.ends == 0 {
            self.clock.since = None;
            return;
        }
        blend(&mut self.produced, (totals.ends - before.ends) as f64);
        blend(&mut self.moved, (totals.positions - before.positions) as f64);
        blend(&mut self.records, totals.records.saturating_sub(before.records) as f64);
        blend(&mut self.bytes, totals.bytes.saturating_sub(before.bytes) as f64);
    }

    /// The rates, and when a lag of `lag_records` is gone. What stands still until somebody does something is never.
    pub fn rates(&self, state: State, lag_records: u64) -> Rates {
        let gained = self.moved - self.produced;
        let caught_up_in_seconds = match (state, lag_records) {
            (State::Stalled | State::Unreachable | State::Paused, _) => None,
            (_, 0) | (State::Mirroring, _) => Some(0.0),
            _ if gained > 0.0 => Some(lag_records as f64 / gained).filter(|wait| *wait < CAUGHT_UP_MAX_SECONDS),
            _ => None,
        };
        Rates {
            produced_records_per_second: tidy(self.produced),
            mirrored_records_per_second: tidy(self.records),
            mirrored_bytes_per_second: tidy(self.bytes),
            caught_up_in_seconds: caught_up_in_seconds.map(tidy),
        }
    }

    /// What flows in all: a region's is the sum of its topics'.
    pub fn sum<'a>(flows: impl Iterator<Item = &'a Flow>) -> Flow {
        flows.fold(Flow::default(), |sum, flow| Flow {
            produced: sum.produced + flow.produced,
            moved: sum.moved + flow.moved,
            records: sum.records + flow.records,
            bytes: sum.bytes + flow.bytes,
            ..sum
        })
    }
}

/// A number that a person reads: to the hundredth.
fn tidy(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(ends: i64, positions: i64) -> Totals {
        Totals {
            ends,
            positions,
            records: u64::try_from(positions).unwrap(),
            bytes: 10 * u64::try_from(positions).unwrap(),
        }
    }

    #[test]
    fn a_steady_flow_shows_its_rate_and_when_the_lag_is_gone() {
        let start = Instant::now();
        let mut flow = Flow::default();
        // 100 a second are produced, 300 mirrored, 10,000 are behind at first.
        for second in 0_i64..=60 {
            flow.take(read(10_000 + 100 * second, 300 * second), start + Duration::from_secs(second.unsigned_abs()));
        }
        let rates = flow.rates(State::CatchingUp, 2_000);
        assert!((rates.produced_records_per_second - 100.0).abs() < 1.0, "{rates:?}");
        assert!((rates.mirrored_records_per_second - 300.0).abs() < 2.0, "{rates:?}");
        assert!((rates.mirrored_bytes_per_second - 3_000.0).abs() < 20.0, "{rates:?}");
        assert!((rates.caught_up_in_seconds.unwrap() - 10.0).abs() < 0.2, "{rates:?}");
        assert_eq!(flow.rates(State::CatchingUp, 0).caught_up_in_seconds, Some(0.0));
        assert_eq!(flow.rates(State::Mirroring, 3).caught_up_in_seconds, Some(0.0));
    }

    #[test]
    fn a_lag_that_does_not_shrink_has_no_end_and_a_first_reading_no_rate() {
        let start = Instant::now();
        let mut flow = Flow::default();
        flow.take(read(0, 0), start);
        flow.take(read(1_000_000, 0), start + Duration::from_secs(1));
        assert_eq!(flow.rates(State::Unreachable, 1_000_000), Rates::default());
        flow.take(read(1_000_500, 0), start + Duration::from_secs(6));
        let rates = flow.rates(State::Unreachable, 1_000_500);
        assert!(rates.produced_records_per_second > 10.0 && rates.caught_up_in_seconds.is_none(), "{rates:?}");
        // A topic that was deleted and created again counts from nothing.
        flow.take(read(5, 5), start + Duration::from_secs(7));
        assert!(flow.rates(State::Mirroring, 0).produced_records_per_second >= 0.0);
    }
}
