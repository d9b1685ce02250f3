//! File descriptors: a client connection takes two, its own and its broker's, and a process without descriptors can't even accept one to refuse it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but clients: ports, the mirror's own connections, the admin port, the runtime.
const RESERVED: u64 = 512;

/// Descriptors of a client connection.
const PER_CONNECTION: u64 = 2;

/// Raises the process's limit of file descriptors as far as it may, and says how many client connections fit it.
pub fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum && setrlimit(Resource::Nofile, raised).is_err() {
        // A container may forbid it; what is there is what counts.
        tracing::debug!("the limit of file descriptors can't be raised");
    }
    connections(getrlimit(Resource::Nofile).current)
}

/// The client connections that so many descriptors are enough for; `None`: there is no limit.
fn connections(descriptors: Option<u64>) -> usize {
    let left = descriptors.map_or(u64::MAX, |descriptors| descriptors.saturating_sub(RESERVED));
    usize::try_from(left / PER_CONNECTION).unwrap_or(usize::MAX)
}

/// The descriptors that so many client connections take, with all else.
pub fn needed(connections: usize) -> u64 {
    u64::try_from(connections).unwrap_or(u64::MAX).saturating_mul(PER_CONNECTION).saturating_add(RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_descriptors_are_one_sum() {
        assert_eq!(connections(Some(needed(20_000))), 20_000);
        assert_eq!(connections(Some(100)), 0);
        assert!(connections(None) > 1 << 40);
        assert_eq!(raise(), connections(getrlimit(Resource::Nofile).current));
    }
}
