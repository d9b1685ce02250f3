//! What goes wrong, and when: a function of the seed alone.

use std::fmt;
use std::time::Duration;

/// Which cluster's broker, by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// The cluster that diffluent stands in front of.
    Local,
    /// The region.
    Region,
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            On::Local => "local",
            On::Region => "region",
        })
    }
}

/// Something that goes wrong, and is mended before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of one of the fleet's proxies, and a start after this time.
    KillProxy(usize, Duration),
    /// SIGSTOP of one of the fleet's proxies for this time.
    PauseProxy(usize, Duration),
    /// An orderly stop of one of the fleet's proxies, and a start after this time.
    StopProxy(usize, Duration),
    /// SIGKILL of a broker, and a start after this time.
    KillBroker(On, i32, Duration),
    /// SIGSTOP of a broker for this time.
    PauseBroker(On, i32, Duration),
    /// Another leader for a partition.
    MoveLeader(On, i32, i32),
    /// The line to the region refuses and closes connections for this time.
    Cut(Duration),
    /// The line swallows what is sent for this time; then its connections are reset.
    HalfOpen(Duration),
    /// The line carries nothing for this time, and everything afterwards.
    Freeze(Duration),
    /// All connections over the line are reset.
    Reset,
    /// The line's round trip takes this long, for this time.
    Slow(Duration, Duration),
}

impl Fault {
    /// The kind, for the summary.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::KillProxy(..) => "diffluent killed",
            Fault::PauseProxy(..) => "diffluent paused",
            Fault::StopProxy(..) => "diffluent stopped in order",
            Fault::KillBroker(On::Local, ..) => "local broker killed",
            Fault::KillBroker(On::Region, ..) => "region's broker killed",
            Fault::PauseBroker(On::Local, ..) => "local broker paused",
            Fault::PauseBroker(On::Region, ..) => "region's broker paused",
            Fault::MoveLeader(On::Local, ..) => "local leader moved",
            Fault::MoveLeader(On::Region, ..) => "region's leader moved",
            Fault::Cut(_) => "line cut",
            Fault::HalfOpen(_) => "line half open",
            Fault::Freeze(_) => "line frozen",
            Fault::Reset => "line reset",
            Fault::Slow(..) => "line slow",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Fault::KillProxy(proxy, time) | Fault::PauseProxy(proxy, time) | Fault::StopProxy(proxy, time) => {
                write!(f, ": proxy {proxy} for {time:?}")
            }
            Fault::KillBroker(_, broker, time) | Fault::PauseBroker(_, broker, time) => {
                write!(f, ": broker {broker} for {time:?}")
            }
            Fault::MoveLeader(_, partition, to) => write!(f, ": partition {partition} to broker {to}"),
            Fault::Cut(time) | Fault::HalfOpen(time) | Fault::Freeze(time) => write!(f, " for {time:?}"),
            Fault::Reset => Ok(()),
            Fault::Slow(rtt, time) => write!(f, ": a round trip takes {rtt:?} for {time:?}"),
        }
    }
}

/// The faults of a seed, one after the other, without end; each with the quiet time before it.
#[derive(Debug)]
pub struct Schedule {
    dice: u64,
    proxies: u64,
    brokers: u64,
    partitions: u64,
}

impl Schedule {
    /// For so many proxies, clusters of so many brokers a side, and topics of so many partitions.
    pub fn new(seed: u64, proxies: u64, brokers: u64, partitions: u64) -> Self {
        Self { dice: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1, proxies, brokers, partitions }
    }

    /// xorshift64*: small, and the same for ever.
    fn below(&mut self, limit: u64) -> u64 {
        self.dice ^= self.dice >> 12;
        self.dice ^= self.dice << 25;
        self.dice ^= self.dice >> 27;
        (self.dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below((to - from) / 100 + 1) * 100)
    }

    fn proxy(&mut self) -> usize {
        usize::try_from(self.below(self.proxies)).unwrap_or(0)
    }

    fn broker(&mut self) -> i32 {
        i32::try_from(1 + self.below(self.brokers)).unwrap_or(1)
    }

    fn side(&mut self) -> On {
        if self.below(2) == 0 { On::Local } else { On::Region }
    }
}

impl Iterator for Schedule {
    type Item = (Duration, Fault);

    fn next(&mut self) -> Option<Self::Item> {
        let quiet = self.millis(500, 4_000);
        let fault = match self.below(12) {
            0 | 1 => Fault::KillProxy(self.proxy(), self.millis(0, 3_000)),
            // Sometimes for longer than the session: others have its streams when it goes on.
            2 => Fault::PauseProxy(self.proxy(), self.millis(500, 12_000)),
            11 => Fault::StopProxy(self.proxy(), self.millis(0, 3_000)),
            3 | 4 => Fault::KillBroker(self.side(), self.broker(), self.millis(0, 4_000)),
            5 => Fault::PauseBroker(self.side(), self.broker(), self.millis(500, 8_000)),
            6 => {
                let partition = i32::try_from(self.below(self.partitions)).unwrap_or(0);
                Fault::MoveLeader(self.side(), partition, self.broker())
            }
            7 => Fault::Cut(self.millis(100, 5_000)),
            8 => Fault::HalfOpen(self.millis(500, 5_000)),
            9 if self.below(2) == 0 => Fault::Reset,
            9 => Fault::Freeze(self.millis(500, 5_000)),
            _ => Fault::Slow(self.millis(100, 500), self.millis(1_000, 5_000)),
        };
        Some((quiet, fault))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_seed_always_gives_the_same_faults_and_another_seed_gives_others() {
        let of = |seed| Schedule::new(seed, 2, 3, 3).take(50).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn every_kind_of_fault_comes_and_only_to_what_there_is() {
        let mut kinds = BTreeSet::new();
        for (_, fault) in Schedule::new(1, 2, 3, 2).take(2_000) {
            kinds.insert(fault.kind());
            match fault {
                Fault::KillBroker(_, broker, _) | Fault::PauseBroker(_, broker, _) => {
                    assert!((1..=3).contains(&broker))
                }
                Fault::MoveLeader(_, partition, to) => assert!((0..2).contains(&partition) && (1..=3).contains(&to)),
                Fault::KillProxy(proxy, _) | Fault::PauseProxy(proxy, _) | Fault::StopProxy(proxy, _) => {
                    assert!(proxy < 2)
                }
                _ => {}
            }
        }
        assert_eq!(kinds.len(), 14, "{kinds:?}");
    }
}
