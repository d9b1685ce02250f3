//! A name for each broker, by which clients say in TLS whom they mean, all on one port.

use std::sync::Arc;

/// The names of brokers: what stands before and behind their ids, and the port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerNames {
    before: String,
    after: String,
    port: u16,
}

impl ServerNames {
    /// Broker 7 is called `{before}7{after}`, on `port`.
    pub fn new(before: &str, after: &str, port: u16) -> Self {
        Self { before: before.to_owned(), after: after.to_owned(), port }
    }

    /// Where clients are told to find a broker.
    pub(super) fn of(&self, node_id: i32) -> (Arc<str>, u16) {
        (Arc::from(format!("{}{node_id}{}", self.before, self.after)), self.port)
    }

    /// The broker that a name stands for; `None`: the name is no broker's.
    pub(super) fn node_id(&self, name: &str) -> Option<i32> {
        let (before, rest) = name.split_at_checked(self.before.len())?;
        let (id, after) = rest.split_at_checked(rest.len().checked_sub(self.after.len())?)?;
        // Only as we write it ourselves: no sign, no zeros in front.
        let canonical = id == "0" || (id.starts_with(|c: char| c != '0') && id.chars().all(|c| c.is_ascii_digit()));
        let matches = before.eq_ignore_ascii_case(&self.before) && after.eq_ignore_ascii_case(&self.after) && canonical;
        if matches { id.parse().ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_found_by_the_name_that_it_is_told_by_and_by_no_other() {
        let names = ServerNames::new("broker-", ".kafka.example.com", 9092);
        for id in [0, 1, 10, 1003, i32::MAX] {
            let (name, port) = names.of(id);
            assert_eq!((names.node_id(&name), port), (Some(id), 9092));
        }
        assert_eq!(names.node_id("BROKER-7.Kafka.Example.COM"), Some(7));
        for other in [
            "kafka.example.com",
            "broker-.kafka.example.com",
            "broker-+7.kafka.example.com",
            "broker-07.kafka.example.com",
            "broker--1.kafka.example.com",
            "broker-7.kafka.example.org",
            "broker-7",
            "broker-2147483648.kafka.example.com",
            "b\u{f6}broker-7.kafka.example.com",
            "",
        ] {
            assert_eq!(names.node_id(other), None, "{other}");
        }
        // What overlaps is not counted twice.
        assert_eq!(ServerNames::new("a.", ".a", 1).node_id("a.a"), None);
    }
}
