//! A limit on the bytes per second that go somewhere.

use std::num::NonZeroU32;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

/// What may pass at once after a pause: this part of a second's bytes.
const BURST_PART: u32 = 10;

/// Lets so many bytes a second pass; those who have more wait. Shared by all that the limit is for.
#[derive(Debug)]
pub struct Throttle {
    limiter: DefaultDirectRateLimiter,
    burst: NonZeroU32,
}

impl Throttle {
    /// A limit in bytes per second; what is beyond 4 GiB a second counts as that, and 0 as 1.
    pub fn new(bytes_per_second: usize) -> Self {
        let rate = NonZeroU32::new(u32::try_from(bytes_per_second).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(rate.get() / BURST_PART).unwrap_or(NonZeroU32::MIN);
        Self { limiter: RateLimiter::direct(Quota::per_second(rate).allow_burst(burst)), burst }
    }

    /// Waits until `bytes` may pass. Those that passed before a caller gives up count as passed.
    pub async fn pass(&self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let part =
                u32::try_from(left).ok().and_then(NonZeroU32::new).map_or(self.burst, |left| left.min(self.burst));
            match self.limiter.check_n(part) {
                Ok(Ok(())) => left -= usize::try_from(part.get()).unwrap_or(left).min(left),
                Ok(Err(not_yet)) => tokio::time::sleep(not_yet.wait_time_from(DefaultClock::default().now())).await,
                // Never: no part is larger than the burst.
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test]
    async fn no_more_passes_than_the_limit_and_a_burst_however_many_share_it() {
        let throttle = Throttle::new(1_000_000);
        let begun = Instant::now();
        tokio::join!(throttle.pass(150_000), throttle.pass(200_000), throttle.pass(50_000));
        // 400,000 bytes at a million a second, of which 100,000 are the burst.
        let took = begun.elapsed();
        assert!(took >= Duration::from_millis(300), "{took:?}");
    }

    #[tokio::test]
    async fn any_limit_lets_something_pass() {
        for (limit, bytes) in [(0, 1), (1, 2), (9, 3), (usize::MAX, 1 << 20)] {
            Throttle::new(limit).pass(bytes).await;
        }
    }
}
