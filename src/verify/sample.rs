//! Which parts of a log a sample compares: windows spread over it, each at a place that a seed chooses.

use std::ops::Range;

/// Source offsets of one window.
pub const WINDOW_OFFSETS: i64 = 1_000;

/// How much is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Above 0, at most 100.
    pub percent: f64,
    /// What chooses the windows.
    pub seed: u64,
}

/// Reads `1%` or `0.5 %`.
///
/// # Errors
/// What is wrong, for the operator.
pub fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.trim().strip_suffix('%').ok_or_else(|| format!("{text:?} has no %: for instance 1%"))?;
    let percent: f64 =
        number.trim().parse().map_err(|_| format!("{text:?} is not a number with %: for instance 1%"))?;
    if percent > 0.0 && percent <= 100.0 {
        Ok(percent)
    } else {
        Err(format!("{text:?} is not above 0% and at most 100%"))
    }
}

impl Sample {
    /// The windows of a partition's offsets: at least one if there are any offsets, in order, none overlapping another. The same seed, partition and offsets
    /// give the same windows.
    pub fn windows(&self, topic: &str, partition: i32, offsets: Range<i64>) -> Vec<Range<i64>> {
        let length = offsets.end - offsets.start;
        if length <= 0 {
            return Vec::new();
        }
        // In 0..=length, so it fits.
        let wanted = (length as f64 * self.percent / 100.0 / WINDOW_OFFSETS as f64).ceil() as i64;
        let count = wanted.clamp(1, (length / WINDOW_OFFSETS).max(1));
        let mut state =
            topic.bytes().fold(self.seed ^ partition.unsigned_abs() as u64, |state, byte| mix(state ^ u64::from(byte)));
        let stratum = |at: i64| offsets.start + (i128::from(length) * i128::from(at) / i128::from(count)) as i64;
        (0..count)
            .map(|at| {
                let (from, to) = (stratum(at), stratum(at + 1));
                let room = (to - from - WINDOW_OFFSETS).max(0);
                state = mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
                let start = from + ((u128::from(state) * (room as u128 + 1)) >> 64) as i64;
                start..(start + WINDOW_OFFSETS).min(to)
            })
            .collect()
    }
}

/// The finalizer of SplitMix64.
fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_are_in_order_inside_and_as_many_as_asked_for(
            from in 0_i64..1 << 40,
            length in 1_i64..10_000_000,
            percent in 0.01_f64..100.0,
            seed: u64,
        ) {
            let windows = Sample { percent, seed }.windows("orders", 3, from..from + length);
            let mut behind = from;
            for window in &windows {
                prop_assert!(window.start >= behind && window.start < window.end);
                behind = window.end;
            }
            prop_assert!(behind <= from + length);
            let sampled: i64 = windows.iter().map(|window| window.end - window.start).sum();
            let asked = length as f64 * percent / 100.0;
            prop_assert!(sampled as f64 >= asked - 2.0 * WINDOW_OFFSETS as f64, "{} of {}", sampled, asked);
            prop_assert!(sampled as f64 <= asked + 2.0 * WINDOW_OFFSETS as f64, "{} of {}", sampled, asked);
        }
    }

    #[test]
    fn a_seed_chooses_the_same_windows_again_and_another_one_others() {
        let windows = |seed| Sample { percent: 1.0, seed }.windows("orders", 0, 0..1_000_000);
        assert_eq!(windows(7), windows(7));
        assert_ne!(windows(7), windows(8));
    }

    #[test]
    fn a_share_is_a_number_with_a_percent_sign() {
        assert_eq!(parse_percent("1%"), Ok(1.0));
        assert_eq!(parse_percent("0.5 %"), Ok(0.5));
        for wrong in ["1", "0%", "101%", "x%", "NaN%", "-1%"] {
            assert!(parse_percent(wrong).is_err(), "{wrong}");
        }
    }
}
