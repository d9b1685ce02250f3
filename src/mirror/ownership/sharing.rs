//! Who gets which streams. The member that the coordinator has made the leader decides for all.
//!
//! Everybody gets as many as the others, give or take one. A stream stays where it is if that allows it; one that must move is first taken from the
//! member that has it and given to nobody: it comes into the next generation unclaimed, once that member has drained and left it.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use super::messages::Subscription;
use crate::mirror::progress::Partition;

/// Shares the partitions of `topics` (with their number) out among members. Every member is in the answer.
pub fn share_out(
    members: &BTreeMap<String, Subscription>,
    topics: &BTreeMap<Arc<str>, i32>,
) -> BTreeMap<String, BTreeSet<Partition>> {
    let mut shares: Vec<Share<'_>> =
        members.iter().map(|(id, said)| Share { id, said, streams: BTreeMap::new(), count: 0, quota: 0 }).collect();
    let mut unowned: Vec<(&Arc<str>, i32)> = Vec::new();
    let mut total = 0;
    for (topic, partitions) in topics {
        for partition in 0..*partitions {
            let mut takers = shares.iter().filter(|share| share.said.takes(topic)).peekable();
            total += usize::from(takers.peek().is_some());
            match claimant(&shares, topic, partition) {
                Claim::Nobody => unowned.push((topic, partition)),
                Claim::Member(at) => shares[at].take(topic, partition),
                // Two have it, or one that can't mirror it any more: they leave it first.
                Claim::Contested => {}
            }
        }
    }
    set_quotas(&mut shares, total);
    shares.iter_mut().for_each(Share::give_up_surplus);
    for (topic, partition) in unowned {
        let room = |share: &Share<'_>| share.count < share.quota;
        let takers = || shares.iter().enumerate().filter(|(_, share)| share.said.takes(topic));
        let has = |share: &Share<'_>| share.streams.get(topic).map_or(0, BTreeSet::len);
        // A topic's partitions are spread, as far as there is room.
        let best = takers().min_by_key(|(at, share)| (!room(share), has(share), share.count, *at)).map(|(at, _)| at);
        if let Some(at) = best {
            shares[at].take(topic, partition);
        }
    }
    let streams = |share: Share<'_>| {
        let of_topic = |(topic, partitions): (&Arc<str>, BTreeSet<i32>)| {
            let topic = topic.clone();
            partitions.into_iter().map(move |partition| (topic.clone(), partition))
        };
        (share.id.clone(), share.streams.into_iter().flat_map(of_topic).collect())
    };
    shares.into_iter().map(streams).collect()
}

struct Share<'a> {
    id: &'a String,
    said: &'a Subscription,
    streams: BTreeMap<&'a Arc<str>, BTreeSet<i32>>,
    count: usize,
    quota: usize,
}

enum Claim {
    Nobody,
    Member(usize),
    Contested,
}

impl<'a> Share<'a> {
    fn take(&mut self, topic: &'a Arc<str>, partition: i32) {
        self.streams.entry(topic).or_default().insert(partition);
        self.count += 1;
    }

    /// Lets go of what is above the quota, from the topics of which there is most.
    fn give_up_surplus(&mut self) {
        let mut topics: BinaryHeap<(usize, &'a Arc<str>)> =
            self.streams.iter().map(|(topic, partitions)| (partitions.len(), *topic)).collect();
        while self.count > self.quota {
            let Some((left, topic)) = topics.pop() else { return };
            if let Some(partitions) = self.streams.get_mut(topic) {
                partitions.pop_last();
                self.count -= 1;
            }
            if left > 1 {
                topics.push((left - 1, topic));
            }
        }
    }
}

/// Who has a stream: the claim of the newest generation counts.
fn claimant(shares: &[Share<'_>], topic: &Arc<str>, partition: i32) -> Claim {
    let mut best: Option<(i32, usize, bool)> = None;
    for (at, share) in shares.iter().enumerate() {
        if share.said.claims.of(topic).is_some_and(|claimed| claimed.contains(&partition)) {
            let generation = share.said.generation;
            let contested = best.is_some_and(|(newest, ..)| newest == generation);
            if best.is_none_or(|(newest, ..)| newest <= generation) {
                best = Some((generation, at, contested));
            }
        }
    }
    match best {
        None => Claim::Nobody,
        Some((_, at, false)) if shares[at].said.takes(topic) => Claim::Member(at),
        Some(_) => Claim::Contested,
    }
}

/// Everybody gets the same number of `total` streams; what does not divide goes to those who have most already.
fn set_quotas(shares: &mut [Share<'_>], total: usize) {
    let members = shares.len().max(1);
    let (each, left) = (total / members, total % members);
    let mut by_count: Vec<usize> = (0..shares.len()).collect();
    by_count.sort_by_key(|at| (std::cmp::Reverse(shares[*at].count), *at));
    for (rank, at) in by_count.into_iter().enumerate() {
        shares[at].quota = each + usize::from(rank < left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::ownership::messages::Claims;

    type Assignment = BTreeMap<String, BTreeSet<Partition>>;

    fn topics(topics: &[(&str, i32)]) -> BTreeMap<Arc<str>, i32> {
        topics.iter().map(|(name, partitions)| (Arc::from(*name), *partitions)).collect()
    }

    /// A fleet from generation to generation: what each has is what it was given and what it has not left yet.
    struct Fleet {
        topics: BTreeMap<Arc<str>, i32>,
        has: Assignment,
        generation: i32,
        moved: usize,
    }

    impl Fleet {
        fn new(topics: BTreeMap<Arc<str>, i32>, members: &[&str]) -> Self {
            let mut fleet = Self { topics, has: Assignment::new(), generation: 0, moved: 0 };
            members.iter().for_each(|member| fleet.join(member));
            fleet.settle();
            fleet.moved = 0;
            fleet
        }

        fn join(&mut self, member: &str) {
            self.has.insert(member.to_owned(), BTreeSet::new());
        }

        fn generation(&mut self) -> Assignment {
            let said = self.has.iter().map(|(member, has)| {
                let claims: Claims = has.iter().collect();
                (member.clone(), Subscription::new(self.topics.keys().cloned(), claims, self.generation))
            });
            let said = said.collect();
            self.generation += 1;
            share_out(&said, &self.topics)
        }

        /// Generations until nothing moves. Nobody is given what another one still has.
        fn settle(&mut self) {
            for _ in 0..5 {
                let given = self.generation();
                for (member, streams) in &given {
                    for (other, has) in self.has.iter().filter(|(other, _)| *other != member) {
                        assert!(streams.is_disjoint(has), "{member} is given what {other} still has");
                    }
                    self.moved += streams.difference(&self.has[member]).count();
                }
                if given == self.has {
                    return;
                }
                self.has = given;
            }
            panic!("it does not come to rest");
        }

        fn counts(&self) -> Vec<usize> {
            self.has.values().map(BTreeSet::len).collect()
        }

        fn assert_fair(&self) {
            let total: usize = self.topics.values().map(|count| *count as usize).sum();
            let all: BTreeSet<&Partition> = self.has.values().flatten().collect();
            assert_eq!(all.len(), total, "every stream has an owner");
            let counts = self.counts();
            assert_eq!(counts.iter().sum::<usize>(), total, "and one alone");
            let (min, max) = (counts.iter().min(), counts.iter().max());
            assert!(max.zip(min).is_none_or(|(max, min)| max - min <= 1), "{counts:?}");
        }
    }

    #[test]
    fn everybody_gets_as_many_streams_as_the_others_of_every_topic() {
        let fleet = Fleet::new(topics(&[("orders", 6), ("payments", 6), ("refunds", 1)]), &["a", "b", "c"]);
        fleet.assert_fair();
        for has in fleet.has.values() {
            let orders = has.iter().filter(|(topic, _)| &**topic == "orders").count();
            assert_eq!(orders, 2, "{has:?}");
        }
    }

    #[test]
    fn who_joins_gets_its_share_and_nothing_else_moves() {
        let mut fleet = Fleet::new(topics(&[("orders", 100), ("payments", 20)]), &["a", "b"]);
        fleet.join("c");
        fleet.settle();
        fleet.assert_fair();
        assert_eq!(fleet.moved, 40);
    }

    #[test]
    fn who_goes_leaves_its_streams_to_the_others_and_nothing_else_moves() {
        let mut fleet = Fleet::new(topics(&[("orders", 100), ("payments", 21)]), &["a", "b", "c"]);
        let left = fleet.has.remove("b").expect("a member").len();
        fleet.settle();
        fleet.assert_fair();
        assert_eq!(fleet.moved, left);
    }

    #[test]
    fn a_new_topic_moves_nothing() {
        let mut fleet = Fleet::new(topics(&[("orders", 12)]), &["a", "b", "c"]);
        fleet.topics.insert(Arc::from("payments"), 7);
        fleet.settle();
        fleet.assert_fair();
        assert_eq!(fleet.moved, 7);
    }

    #[test]
    fn a_stream_goes_to_a_member_that_can_mirror_it_alone() {
        let said = |names: &[&str]| Subscription::new(names.iter().map(|name| Arc::from(*name)), Claims::default(), -1);
        let members =
            BTreeMap::from([("a".to_owned(), said(&["orders"])), ("b".to_owned(), said(&["orders", "payments"]))]);
        let shares = share_out(&members, &topics(&[("orders", 2), ("payments", 3), ("unknown", 1)]));
        assert!(shares["a"].iter().all(|(topic, _)| &**topic == "orders"));
        assert_eq!(shares["b"].iter().filter(|(topic, _)| &**topic == "payments").count(), 3);
        assert_eq!(shares.values().map(BTreeSet::len).sum::<usize>(), 5, "nobody takes the third topic");
    }

    #[test]
    fn a_stream_that_two_claim_is_left_by_the_older_claim_or_by_both() {
        let stream: Partition = (Arc::from("orders"), 0);
        let said = |generation| Subscription::new([Arc::from("orders")], [&stream].into_iter().collect(), generation);
        let all = topics(&[("orders", 1)]);
        let newer = share_out(&BTreeMap::from([("a".to_owned(), said(4)), ("b".to_owned(), said(5))]), &all);
        assert!(newer["a"].is_empty() && newer["b"].contains(&stream));
        let same = share_out(&BTreeMap::from([("a".to_owned(), said(5)), ("b".to_owned(), said(5))]), &all);
        assert!(same.values().all(BTreeSet::is_empty), "{same:?}");
    }

    #[test]
    fn members_that_come_and_go_in_any_order_always_end_with_fair_shares() {
        for seed in 0..200_u64 {
            let mut dice = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut below = |limit: u64| {
                dice ^= dice >> 12;
                dice ^= dice << 25;
                dice ^= dice >> 27;
                (dice.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % limit
            };
            let mut fleet = Fleet::new(topics(&[("orders", 17), ("payments", 5)]), &["a"]);
            for step in 0..20 {
                match below(3) {
                    0 => fleet.join(&format!("m{step}")),
                    1 if fleet.has.len() > 1 => {
                        let gone = fleet.has.keys().nth(below(fleet.has.len() as u64) as usize).cloned();
                        fleet.has.remove(&gone.expect("a member"));
                    }
                    _ => {
                        fleet.topics.insert(Arc::from(format!("t{step}")), 1 + below(9) as i32);
                    }
                }
                if below(3) == 0 {
                    // In the middle of it somebody else comes or goes.
                    fleet.has = fleet.generation();
                } else {
                    fleet.settle();
                    fleet.assert_fair();
                }
            }
        }
    }

    #[test]
    fn ten_thousand_streams_are_shared_out_quickly() {
        let all: BTreeMap<Arc<str>, i32> = (0..10_000).map(|topic| (Arc::from(format!("topic-{topic}")), 1)).collect();
        let begun = std::time::Instant::now();
        let mut fleet = Fleet::new(all, &["a", "b", "c", "d"]);
        fleet.join("e");
        fleet.settle();
        fleet.assert_fair();
        println!("{:?} for all generations", begun.elapsed());
    }
}
