//! A limit on the bytes per second that go somewhere. It can be changed at any time.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::config;
use crate::lag::{Hold, RateLimits};

/// What may pass at once after a pause: this part of a second's bytes. A waiter therefore hears of a new limit after about this part of a second.
const BURST_PART: u32 = 10;

/// Lets so many bytes a second pass; those who have more wait. Shared by all that the limit is for.
#[derive(Debug, Default)]
pub struct Throttle {
    limit: ArcSwapOption<Limit>,
}

#[derive(Debug)]
struct Limit {
    bytes_per_second: u64,
    limiter: DefaultDirectRateLimiter,
    burst: NonZeroU32,
}

impl Limit {
    fn new(bytes_per_second: u64) -> Self {
        let rate = NonZeroU32::new(u32::try_from(bytes_per_second).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(rate.get() / BURST_PART).unwrap_or(NonZeroU32::MIN);
        let limiter = RateLimiter::direct(Quota::per_second(rate).allow_burst(burst));
        Self { bytes_per_second, limiter, burst }
    }
}

impl Throttle {
    /// A limit in bytes per second; `None` for none. What is beyond 4 GiB a second counts as that, and 0 as 1.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let throttle = Self::default();
        throttle.set(bytes_per_second);
        throttle
    }

    /// Another limit, from now on.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        if self.limit() != bytes_per_second {
            self.limit.store(bytes_per_second.map(|limit| Arc::new(Limit::new(limit))));
        }
    }

    /// The limit in bytes per second, if there is one.
    pub fn limit(&self) -> Option<u64> {
        self.limit.load().as_ref().map(|limit| limit.bytes_per_second)
    }

    /// Waits until `bytes` may pass. Those that passed before a caller gives up count as passed.
    pub async fn pass(&self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            // Looked at for each part: the limit may have been changed or lifted meanwhile.
            let Some(limit) = self.limit.load_full() else { return };
            let part =
                u32::try_from(left).ok().and_then(NonZeroU32::new).map_or(limit.burst, |left| left.min(limit.burst));
            match limit.limiter.check_n(part) {
                Ok(Ok(())) => left -= usize::try_from(part.get()).unwrap_or(left).min(left),
                Ok(Err(not_yet)) => tokio::time::sleep(not_yet.wait_time_from(DefaultClock::default().now())).await,
                // Never: no part is larger than the burst.
                Err(_) => return,
            }
        }
    }
}

/// What an operator changes of a region's limits: `None` leaves one as it is, `Some(None)` lifts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Of all that is sent, bytes per second.
    pub rate_limit: Option<Option<u64>>,
    /// Of what is read to catch up, bytes per second.
    pub catch_up_rate_limit: Option<Option<u64>>,
}

/// The limits of a region: as configured, unless an operator has set others.
#[derive(Debug)]
pub struct Throttles {
    /// Limits all that is sent to the region.
    pub sent: Arc<Throttle>,
    /// Limits what is read from the local log for streams that are behind.
    pub catch_up: Arc<Throttle>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The configured limits, as in [`Throttles`].
    configured: [Option<u64>; 2],
    throttled: Option<Hold>,
}

impl Throttles {
    /// As configured.
    pub fn new(region: &config::Region) -> Arc<Self> {
        let throttles = Self { sent: Arc::default(), catch_up: Arc::default(), state: Mutex::default() };
        throttles.configure(region);
        Arc::new(throttles)
    }

    /// The configuration was read again: it holds from now on, whatever an operator has said before.
    pub fn configure(&self, region: &config::Region) {
        self.state().configured =
            [region.rate_limit, region.catch_up_rate_limit].map(|limit| limit.map(|limit| limit.bytes()));
        self.restore();
    }

    /// Other limits than the configured ones, until [`Throttles::restore`].
    pub fn throttle(&self, limits: Throttling, hold: Hold) {
        let mut state = self.state();
        for (throttle, limit) in [(&self.sent, limits.rate_limit), (&self.catch_up, limits.catch_up_rate_limit)] {
            if let Some(limit) = limit {
                throttle.set(limit);
            }
        }
        state.throttled = Some(hold);
    }

    /// The configured limits hold again. Whether others did.
    pub fn restore(&self) -> bool {
        let mut state = self.state();
        let [sent, catch_up] = state.configured;
        self.sent.set(sent);
        self.catch_up.set(catch_up);
        state.throttled.take().is_some()
    }

    /// The limits that hold now.
    pub fn limits(&self) -> RateLimits {
        let state = self.state();
        RateLimits {
            rate_limit: self.sent.limit(),
            catch_up_rate_limit: self.catch_up.limit(),
            throttled: state.throttled.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn no_more_passes_than_the_limit_and_a_burst_however_many_share_it() {
        let throttle = Throttle::new(Some(1_000_000));
        let begun = Instant::now();
        tokio::join!(throttle.pass(150_000), throttle.pass(200_000), throttle.pass(50_000));
        // 400,000 bytes at a million a second, of which 100,000 are the burst.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(300), "{took:?}");
    }

    #[tokio::test]
    async fn any_limit_lets_something_pass() {
        for (limit, bytes) in [(Some(0), 1), (Some(1), 2), (Some(9), 3), (Some(u64::MAX), 1 << 20), (None, 1 << 30)] {
            Throttle::new(limit).pass(bytes).await;
        }
    }

    #[tokio::test]
    async fn who_waits_is_let_go_when_the_limit_is_lifted() {
        let throttle = Throttle::new(Some(1_000));
        let waits = tokio::time::timeout(Duration::from_secs(60), throttle.pass(1 << 30));
        let lifted = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            throttle.set(None);
        };
        let (waited, ()) = tokio::join!(waits, lifted);
        assert!(waited.is_ok(), "a gigabyte at a kilobyte a second, without the limit");
        assert_eq!(throttle.limit(), None);
    }
}
