//! A group: its members, generations and sessions, without I/O. What waits in Kafka waits here until somebody looks again.
//!
//! The classic protocol of Kafka's group coordinator, with members under an instance name (KIP-345) and under ids that must be asked for (KIP-394). What a
//! coordinator keeps in the offsets topic survives its move to another broker: members, generation and assignments of the last stable generation.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

const UNKNOWN_MEMBER_ID: i16 = 25;
const ILLEGAL_GENERATION: i16 = 22;
const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
const INVALID_SESSION_TIMEOUT: i16 = 26;
const REBALANCE_IN_PROGRESS: i16 = 27;
const MEMBER_ID_REQUIRED: i16 = 79;
const FENCED_INSTANCE_ID: i16 = 82;

/// `group.min.session.timeout.ms`.
const SESSION_MIN_MS: i64 = 6_000;

/// What a group is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It has no members, and keeps offsets.
    #[default]
    Empty,
    /// Members are joining a new generation.
    PreparingRebalance,
    /// The leader shares out.
    CompletingRebalance,
    /// Everybody has an assignment.
    Stable,
}

impl Phase {
    /// As DescribeGroups tells it.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Empty => "Empty",
            Phase::PreparingRebalance => "PreparingRebalance",
            Phase::CompletingRebalance => "CompletingRebalance",
            Phase::Stable => "Stable",
        }
    }
}

/// A member.
#[derive(Clone, Debug)]
pub struct Member {
    /// The name under which it joined, if it has one.
    pub instance: Option<String>,
    /// Its assignors, with what it says to each.
    pub protocols: Vec<(String, Bytes)>,
    /// Its assignment.
    pub assignment: Bytes,
    session_ms: i64,
    rebalance_ms: i64,
    expires: i64,
    joining: bool,
    syncing: bool,
    joined: Option<Joined>,
    synced: Option<Result<Bytes, i16>>,
}

/// The answer to a JoinGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Joined {
    /// Kafka's error code.
    pub error_code: i16,
    /// The generation.
    pub generation: i32,
    /// The assignor.
    pub protocol: Option<String>,
    /// The leader's id.
    pub leader: String,
    /// The member's id.
    pub member_id: String,
    /// For the leader: all members with their names and what they say.
    pub members: Vec<(String, Option<String>, Bytes)>,
}

impl Joined {
    fn refused(error_code: i16, member_id: &str) -> Self {
        Self { error_code, generation: -1, member_id: member_id.to_owned(), ..Self::default() }
    }
}

/// What a member says when it joins.
#[derive(Clone, Debug)]
pub struct Join {
    /// Its id; empty if it has none.
    pub member_id: String,
    /// The name under which it joins.
    pub instance: Option<String>,
    /// How long it may be silent, milliseconds.
    pub session_ms: i64,
    /// How long a rebalance waits for it, milliseconds.
    pub rebalance_ms: i64,
    /// Its assignors, with what it says to each.
    pub protocols: Vec<(String, Bytes)>,
}

/// What the offsets topic holds of a group.
#[derive(Clone, Debug, Default)]
struct Kept {
    generation: i32,
    protocol: Option<String>,
    leader: String,
    members: BTreeMap<String, Member>,
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Group {
    phase: Phase,
    generation: i32,
    protocol: Option<String>,
    leader: String,
    members: BTreeMap<String, Member>,
    /// Ids that were handed out and not used yet.
    pending: BTreeSet<String>,
    /// When the members that have not joined by then are given up, or, in an initial rebalance, when it ends.
    join_ends: i64,
    initial: bool,
    kept: Kept,
    /// The broker that coordinates it, as far as it knows.
    loaded_by: i32,
    ids: u64,
}

impl Group {
    /// The broker `node_id` coordinates it: if another one did before, what that one had not kept is gone.
    pub fn load(&mut self, node_id: i32, now: i64) {
        if self.loaded_by == node_id {
            return;
        }
        let known = self.loaded_by != 0;
        self.loaded_by = node_id;
        if !known {
            return;
        }
        let Kept { generation, protocol, leader, members } = self.kept.clone();
        (self.generation, self.protocol, self.leader, self.members) = (generation, protocol, leader, members);
        self.pending.clear();
        for member in self.members.values_mut() {
            member.expires = now + member.session_ms;
        }
        self.phase = if self.members.is_empty() { Phase::Empty } else { Phase::Stable };
    }

    /// Its phase.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Its generation.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// The assignor that was chosen.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Its members by id.
    pub fn members(&self) -> &BTreeMap<String, Member> {
        &self.members
    }

    /// What a member says to the chosen assignor.
    pub fn said(&self, member: &Member) -> Bytes {
        let chosen = member.protocols.iter().find(|(name, _)| Some(name) == self.protocol.as_ref());
        chosen.map(|(_, said)| said.clone()).unwrap_or_default()
    }

    /// Time has passed: sessions end, joins end. `delay` is `group.initial.rebalance.delay.ms`.
    pub fn advance(&mut self, now: i64, delay: i64) {
        let silent = |member: &Member| member.expires <= now && !member.joining && !member.syncing;
        let gone: Vec<String> =
            self.members.iter().filter(|(_, member)| silent(member)).map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.remove(&id, now, delay);
        }
        if self.phase == Phase::PreparingRebalance {
            if !self.initial && now >= self.join_ends {
                let late: Vec<String> =
                    self.members.iter().filter(|(_, member)| !member.joining).map(|(id, _)| id.clone()).collect();
                late.iter().for_each(|id| {
                    self.members.remove(id);
                });
            }
            let all = self.members.values().all(|member| member.joining);
            if all && (!self.initial || now >= self.join_ends) {
                self.complete_join(now);
            }
        }
    }

    fn complete_join(&mut self, now: i64) {
        self.generation += 1;
        if self.members.is_empty() {
            (self.phase, self.protocol) = (Phase::Empty, None);
            self.leader.clear();
            return self.keep();
        }
        self.phase = Phase::CompletingRebalance;
        let first = self.members.first_key_value().map(|(id, _)| id.clone()).unwrap_or_default();
        if !self.members.contains_key(&self.leader) {
            self.leader = first;
        }
        let common =
            |name: &String| self.members.values().all(|member| member.protocols.iter().any(|(n, _)| n == name));
        self.protocol =
            self.members[&self.leader].protocols.iter().map(|(name, _)| name).find(|name| common(name)).cloned();
        let all: Vec<(String, Option<String>, Bytes)> =
            self.members.iter().map(|(id, member)| (id.clone(), member.instance.clone(), self.said(member))).collect();
        let (generation, protocol, leader) = (self.generation, self.protocol.clone(), self.leader.clone());
        for (id, member) in &mut self.members {
            member.joining = false;
            member.expires = now + member.session_ms;
            member.joined = Some(Joined {
                error_code: 0,
                generation,
                protocol: protocol.clone(),
                leader: leader.clone(),
                member_id: id.clone(),
                members: if *id == leader { all.clone() } else { Vec::new() },
            });
        }
    }

    fn keep(&mut self) {
        let mut members = self.members.clone();
        for member in members.values_mut() {
            (member.joining, member.syncing, member.joined, member.synced) = (false, false, None, None);
        }
        self.kept =
            Kept { generation: self.generation, protocol: self.protocol.clone(), leader: self.leader.clone(), members };
    }

    fn prepare(&mut self, now: i64, delay: i64) {
        self.initial = self.phase == Phase::Empty && delay > 0;
        if self.phase == Phase::CompletingRebalance {
            for member in self.members.values_mut().filter(|member| member.syncing) {
                member.synced = Some(Err(REBALANCE_IN_PROGRESS));
                member.syncing = false;
            }
        }
        self.phase = Phase::PreparingRebalance;
        let longest = self.members.values().map(|member| member.rebalance_ms).max().unwrap_or(0);
        self.join_ends = now + if self.initial { delay } else { longest };
    }

    fn remove(&mut self, id: &str, now: i64, delay: i64) {
        self.members.remove(id);
        match self.phase {
            Phase::Stable | Phase::CompletingRebalance => self.prepare(now, delay),
            Phase::Empty | Phase::PreparingRebalance => {}
        }
        self.advance_join(now);
    }

    fn advance_join(&mut self, now: i64) {
        let all = self.members.values().all(|member| member.joining);
        if self.phase == Phase::PreparingRebalance && all && (!self.initial || now >= self.join_ends) {
            self.complete_join(now);
        }
    }

    fn new_id(&mut self, name: &str) -> String {
        self.ids += 1;
        format!("{name}-{:08}", self.ids)
    }

    /// A member joins. The answer, or the id under which it is asked for: [`Group::joined`].
    pub fn join(&mut self, mut join: Join, now: i64, delay: i64) -> Result<String, Joined> {
        self.advance(now, delay);
        if join.session_ms < SESSION_MIN_MS {
            return Err(Joined::refused(INVALID_SESSION_TIMEOUT, &join.member_id));
        }
        let common =
            |other: &Member| other.protocols.iter().any(|(name, _)| join.protocols.iter().any(|(n, _)| n == name));
        let same = |other: &Member| join.instance.is_some() && other.instance == join.instance;
        if self.members.values().any(|other| !same(other) && !common(other)) {
            return Err(Joined::refused(INCONSISTENT_GROUP_PROTOCOL, &join.member_id));
        }
        if join.member_id.is_empty() {
            let Some(instance) = join.instance.clone() else {
                let id = self.new_id("diffluent");
                self.pending.insert(id.clone());
                return Err(Joined::refused(MEMBER_ID_REQUIRED, &id));
            };
            join.member_id = self.new_id(&instance);
            if let Some(old) = self.with_instance(&instance) {
                return self.replace(&old, join, now, delay);
            }
            self.add(join, now, delay)
        } else if self.pending.remove(&join.member_id) {
            self.add(join, now, delay)
        } else {
            self.check(&join.member_id, join.instance.as_deref())
                .map_err(|code| Joined::refused(code, &join.member_id))?;
            self.again(join, now, delay)
        }
    }

    fn with_instance(&self, instance: &str) -> Option<String> {
        let named = |member: &Member| member.instance.as_deref() == Some(instance);
        self.members.iter().find(|(_, member)| named(member)).map(|(id, _)| id.clone())
    }

    fn add(&mut self, join: Join, now: i64, delay: i64) -> Result<String, Joined> {
        let id = join.member_id.clone();
        if self.phase != Phase::PreparingRebalance {
            self.prepare(now, delay);
        }
        let member = Member {
            instance: join.instance,
            protocols: join.protocols,
            assignment: Bytes::new(),
            session_ms: join.session_ms,
            rebalance_ms: join.rebalance_ms,
            expires: now + join.session_ms,
            joining: true,
            syncing: false,
            joined: None,
            synced: None,
        };
        self.members.insert(id.clone(), member);
        if !self.initial {
            self.join_ends = self.join_ends.max(now + join.rebalance_ms);
        }
        self.advance_join(now);
        Ok(id)
    }

    /// A known member joins again. One that says the same as before disturbs nobody, unless it is the leader of a stable generation.
    fn again(&mut self, join: Join, now: i64, delay: i64) -> Result<String, Joined> {
        let id = join.member_id.clone();
        let same = self.members.get(&id).is_some_and(|member| member.protocols == join.protocols);
        let leads = self.leader == id;
        if same && (self.phase == Phase::CompletingRebalance || self.phase == Phase::Stable && !leads) {
            return Err(self.current(&id));
        }
        if self.phase != Phase::PreparingRebalance {
            self.prepare(now, delay);
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.protocols = join.protocols;
            (member.session_ms, member.rebalance_ms) = (join.session_ms, join.rebalance_ms);
            member.expires = now + join.session_ms;
            (member.joining, member.joined, member.synced) = (true, None, None);
        }
        self.advance_join(now);
        Ok(id)
    }

    /// The present generation, as the answer to a join.
    fn current(&self, id: &str) -> Joined {
        let all = self.members.iter().map(|(id, member)| (id.clone(), member.instance.clone(), self.said(member)));
        Joined {
            error_code: 0,
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            member_id: id.to_owned(),
            members: if self.leader == id { all.collect() } else { Vec::new() },
        }
    }

    /// Another process joins under a name that is taken: it becomes that member, and the old id is fenced.
    fn replace(&mut self, old: &str, join: Join, now: i64, delay: i64) -> Result<String, Joined> {
        let id = join.member_id.clone();
        let Some(mut member) = self.members.remove(old) else { return self.add(join, now, delay) };
        let leader = self.leader.clone();
        if self.leader == old {
            self.leader.clone_from(&id);
        }
        member.protocols = join.protocols.clone();
        (member.session_ms, member.rebalance_ms) = (join.session_ms, join.rebalance_ms);
        member.expires = now + join.session_ms;
        (member.joined, member.synced, member.syncing) = (None, None, false);
        self.members.insert(id.clone(), member);
        if self.phase == Phase::Stable {
            // Nobody else is disturbed. The former leader's id is told, so that the new process does not share out.
            self.keep();
            return Err(Joined { leader, members: Vec::new(), ..self.current(&id) });
        }
        if self.phase != Phase::PreparingRebalance {
            self.prepare(now, delay);
        }
        self.again(join, now, delay)
    }

    /// The answer to a join, once it is there. A member that is gone meanwhile is unknown.
    pub fn joined(&mut self, id: &str, now: i64, delay: i64) -> Option<Joined> {
        self.advance(now, delay);
        match self.members.get_mut(id) {
            None => Some(Joined::refused(UNKNOWN_MEMBER_ID, id)),
            Some(member) => member.joined.take(),
        }
    }

    fn check(&self, id: &str, instance: Option<&str>) -> Result<(), i16> {
        if let Some(instance) = instance {
            return match self.with_instance(instance) {
                Some(known) if known == id => Ok(()),
                Some(_) => Err(FENCED_INSTANCE_ID),
                None => Err(UNKNOWN_MEMBER_ID),
            };
        }
        if self.members.contains_key(id) { Ok(()) } else { Err(UNKNOWN_MEMBER_ID) }
    }

    /// A member asks for its assignment; the leader brings everybody's. `Ok` if the answer is there later: [`Group::synced`].
    pub fn sync(
        &mut self,
        (id, instance): (&str, Option<&str>),
        generation: i32,
        assignments: Vec<(String, Bytes)>,
        now: i64,
        delay: i64,
    ) -> Result<(), i16> {
        self.advance(now, delay);
        self.check(id, instance)?;
        if generation != self.generation {
            return Err(ILLEGAL_GENERATION);
        }
        let leads = self.leader == id;
        let phase = self.phase;
        let Some(member) = self.members.get_mut(id) else { return Err(UNKNOWN_MEMBER_ID) };
        member.expires = now + member.session_ms;
        match phase {
            Phase::Empty => Err(UNKNOWN_MEMBER_ID),
            Phase::PreparingRebalance => Err(REBALANCE_IN_PROGRESS),
            Phase::Stable => {
                member.synced = Some(Ok(member.assignment.clone()));
                Ok(())
            }
            Phase::CompletingRebalance => {
                member.syncing = true;
                if leads {
                    self.share_out(assignments, now);
                }
                Ok(())
            }
        }
    }

    fn share_out(&mut self, assignments: Vec<(String, Bytes)>, now: i64) {
        self.phase = Phase::Stable;
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
        for member in self.members.values_mut() {
            member.expires = now + member.session_ms;
            if std::mem::take(&mut member.syncing) {
                member.synced = Some(Ok(member.assignment.clone()));
            }
        }
        self.keep();
    }

    /// The answer to a request for an assignment, once it is there.
    pub fn synced(&mut self, id: &str, now: i64, delay: i64) -> Option<Result<Bytes, i16>> {
        self.advance(now, delay);
        match self.members.get_mut(id) {
            None => Some(Err(UNKNOWN_MEMBER_ID)),
            Some(member) => member.synced.take(),
        }
    }

    /// A heartbeat; Kafka's error code.
    pub fn heartbeat(&mut self, (id, instance): (&str, Option<&str>), generation: i32, now: i64, delay: i64) -> i16 {
        self.advance(now, delay);
        if let Err(code) = self.check(id, instance) {
            return code;
        }
        if generation != self.generation {
            return ILLEGAL_GENERATION;
        }
        let phase = self.phase;
        if let Some(member) = self.members.get_mut(id) {
            member.expires = now + member.session_ms;
        }
        if phase == Phase::PreparingRebalance { REBALANCE_IN_PROGRESS } else { 0 }
    }

    /// A member leaves; Kafka's error code.
    pub fn leave(&mut self, id: &str, instance: Option<&str>, now: i64, delay: i64) -> i16 {
        self.advance(now, delay);
        let id = match (id, instance) {
            ("", Some(instance)) => self.with_instance(instance).unwrap_or_default(),
            (id, instance) => match self.check(id, instance) {
                Ok(()) => id.to_owned(),
                Err(code) => return if self.pending.remove(id) { 0 } else { code },
            },
        };
        if id.is_empty() {
            return UNKNOWN_MEMBER_ID;
        }
        self.remove(&id, now, delay);
        0
    }

    /// Whether a commit is accepted; Kafka's error code if not.
    pub fn may_commit(
        &mut self,
        (id, instance): (&str, Option<&str>),
        generation: i32,
        now: i64,
        delay: i64,
    ) -> Result<(), i16> {
        self.advance(now, delay);
        if generation < 0 && self.phase == Phase::Empty {
            return Ok(());
        }
        if generation < 0 && id.is_empty() && instance.is_none() {
            return Err(UNKNOWN_MEMBER_ID);
        }
        self.check(id, instance)?;
        if generation != self.generation {
            return Err(ILLEGAL_GENERATION);
        }
        if self.phase == Phase::CompletingRebalance {
            return Err(REBALANCE_IN_PROGRESS);
        }
        if let Some(member) = self.members.get_mut(id) {
            member.expires = now + member.session_ms;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: i64 = 3_000;

    fn join(id: &str, instance: Option<&str>) -> Join {
        Join {
            member_id: id.to_owned(),
            instance: instance.map(str::to_owned),
            session_ms: 10_000,
            rebalance_ms: 20_000,
            protocols: vec![("diffluent".to_owned(), Bytes::from_static(b"says"))],
        }
    }

    /// Two members, "a" and "b", of a stable generation.
    fn two() -> (Group, String, String) {
        let mut group = Group::default();
        group.load(1, 0);
        let a = group.join(join("", Some("a")), 0, DELAY).expect("waits");
        let b = group.join(join("", Some("b")), 100, DELAY).expect("waits");
        assert_eq!(group.joined(&a, 2_999, DELAY), None);
        let joined = group.joined(&a, 3_000, DELAY).expect("the delay is over");
        assert_eq!((joined.generation, joined.members.len(), &joined.leader), (1, 2, &a));
        assert_eq!(group.joined(&b, 3_000, DELAY).expect("as well").members.len(), 0);
        assert_eq!(group.may_commit((&a, None), 1, 3_000, DELAY), Err(REBALANCE_IN_PROGRESS));
        assert_eq!(group.sync((&b, Some("b")), 1, Vec::new(), 3_000, DELAY), Ok(()));
        assert_eq!(group.synced(&b, 3_000, DELAY), None, "the leader has not shared out");
        let shares = vec![(a.clone(), Bytes::from_static(b"1")), (b.clone(), Bytes::from_static(b"2"))];
        assert_eq!(group.sync((&a, Some("a")), 1, shares, 3_000, DELAY), Ok(()));
        assert_eq!(group.synced(&b, 3_000, DELAY), Some(Ok(Bytes::from_static(b"2"))));
        assert_eq!(group.synced(&a, 3_000, DELAY), Some(Ok(Bytes::from_static(b"1"))));
        (group, a, b)
    }

    #[test]
    fn a_member_that_is_silent_for_a_session_is_given_up_and_the_others_join_again() {
        let (mut group, a, b) = two();
        for second in 4..=13 {
            let expected = if second < 13 { 0 } else { REBALANCE_IN_PROGRESS };
            assert_eq!(group.heartbeat((&b, Some("b")), 1, second * 1000, DELAY), expected, "{second} s");
        }
        assert_eq!(group.heartbeat((&a, Some("a")), 1, 13_000, DELAY), UNKNOWN_MEMBER_ID);
        assert_eq!(
            group.may_commit((&b, Some("b")), 1, 13_000, DELAY),
            Ok(()),
            "the old generation counts until it is over"
        );
        assert_eq!(group.join(join(&b, Some("b")), 13_000, DELAY), Ok(b.clone()));
        assert_eq!(group.joined(&b, 13_000, DELAY).expect("nobody else is waited for").generation, 2);
        assert_eq!(group.may_commit((&b, Some("b")), 1, 13_000, DELAY), Err(ILLEGAL_GENERATION));
    }

    #[test]
    fn commits_without_a_member_are_accepted_only_while_there_is_none() {
        let mut group = Group::default();
        assert_eq!(group.may_commit(("", None), -1, 0, DELAY), Ok(()));
        let a = group.join(join("", Some("a")), 0, DELAY).expect("waits");
        assert_eq!(group.may_commit(("", None), -1, 0, DELAY), Err(UNKNOWN_MEMBER_ID));
        assert_eq!(group.leave("", Some("a"), 10, DELAY), 0);
        group.advance(4_000, DELAY);
        assert_eq!((group.phase(), group.may_commit(("", None), -1, 4_000, DELAY)), (Phase::Empty, Ok(())));
        assert_eq!(group.joined(&a, 4_000, DELAY).map(|joined| joined.error_code), Some(UNKNOWN_MEMBER_ID));
    }

    #[test]
    fn who_comes_back_under_its_name_has_what_it_had_and_disturbs_nobody() {
        let (mut group, a, b) = two();
        let joined = group.join(join("", Some("a")), 4_000, DELAY).expect_err("at once");
        assert_eq!((joined.error_code, joined.generation, &joined.leader), (0, 1, &a));
        let new = joined.member_id;
        assert_eq!(group.sync((&new, Some("a")), 1, Vec::new(), 4_000, DELAY), Ok(()));
        assert_eq!(group.synced(&new, 4_000, DELAY), Some(Ok(Bytes::from_static(b"1"))));
        assert_eq!(group.heartbeat((&b, Some("b")), 1, 4_000, DELAY), 0);
        assert_eq!(group.heartbeat((&a, Some("a")), 1, 4_000, DELAY), FENCED_INSTANCE_ID);
        assert_eq!(group.may_commit((&a, Some("a")), 1, 4_000, DELAY), Err(FENCED_INSTANCE_ID));
    }

    #[test]
    fn who_has_no_name_gets_an_id_first() {
        let (mut group, ..) = two();
        let asked = group.join(join("", None), 4_000, DELAY).expect_err("an id first");
        assert_eq!(asked.error_code, MEMBER_ID_REQUIRED);
        assert_eq!(group.phase(), Phase::Stable);
        assert_eq!(group.join(join(&asked.member_id, None), 4_000, DELAY), Ok(asked.member_id));
        assert_eq!(group.phase(), Phase::PreparingRebalance);
    }

    #[test]
    fn another_coordinator_knows_the_last_stable_generation() {
        let (mut group, a, b) = two();
        group.join(join(&a, Some("a")), 5_000, DELAY).expect("waits");
        group.load(2, 6_000);
        assert_eq!((group.phase(), group.generation(), group.members().len()), (Phase::Stable, 1, 2));
        assert_eq!(group.heartbeat((&b, Some("b")), 1, 15_000, DELAY), 0);
        let mut young = Group::default();
        young.load(1, 0);
        young.join(join("", Some("a")), 0, DELAY).expect("waits");
        young.load(2, 100);
        assert_eq!(young.phase(), Phase::Empty);
    }
}
