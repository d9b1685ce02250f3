//! A member of a region's group: a state machine without I/O.
//!
//! | phase | what it waits for | what follows |
//! |---|---|---|
//! | asking | who is a member | nobody else: alone, and everything is its own meanwhile; somebody: joining |
//! | alone | the first positions of streams that never ran, two seconds at most | joining |
//! | joining | the coordinator, and with it all other members | syncing |
//! | syncing | the leader's assignment | settled |
//! | settled | the next heartbeat | a rebalance, or streams that were left: joining |
//!
//! Streams go on through all of it. They stop when the lease ends (nothing was heard from the coordinator for a session), or when the coordinator says that this
//! member is none any more; then whatever it is given later is begun anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Other, Pass, Share, Standing, Trouble};
use crate::client::error_code;
use crate::mirror::progress::Partition;

/// How long the first positions of streams that never ran may take before the group is joined all the same: some round trips to a region at the other end of the world.
pub const FIRST_POSITIONS_WITHIN: Duration = Duration::from_secs(5);
/// Pause after a failure, doubled with each further one up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_millis(100);
/// The longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(3);
/// The pause where only a person helps.
const TROUBLE_RETRY: Duration = Duration::from_secs(5);
/// A heartbeat that failed is tried again after this.
const BEAT_RETRY: Duration = Duration::from_millis(200);
/// So many other processes may take this one's instance name within [`FENCES_WITHIN`] before it gives the name up: one may be a request of its own that came late.
const FENCES_MAX: u32 = 3;
const FENCES_WITHIN: Duration = Duration::from_secs(60);

/// A member's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// The coordinator gives up a member that it has not heard of for so long.
    pub session: Duration,
    /// Between two heartbeats.
    pub beat: Duration,
    /// How long the coordinator waits for members to join a new generation.
    pub rebalance: Duration,
}

impl Times {
    /// Those that go with a session timeout.
    pub fn of(session: Duration) -> Self {
        Self { session, beat: (session / 6).min(Duration::from_secs(1)), rebalance: session * 2 }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask who is a member: [`Member::described`].
    Describe,
    /// Wait for the first positions, until then: [`Member::first_positions_done`].
    FirstPositions(Instant),
    /// Join: [`Member::joined`].
    Join,
    /// Ask for the assignment: [`Member::synced`].
    Sync,
    /// Send a heartbeat: [`Member::beaten`].
    Beat,
    /// Nothing until then.
    Rest(Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Asking { at: Instant },
    Alone { until: Instant },
    Joining { at: Instant },
    Syncing,
    Settled { beat_at: Instant },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hold {
    Nothing,
    Everything,
    Assigned,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Member {
    times: Times,
    instance: Arc<str>,
    /// What is said when the coordinator does not let it into the group.
    denial: String,
    /// Joins under its instance name. Not once another process has taken the name.
    named: bool,
    fences: u32,
    fenced_at: Option<Instant>,
    id: Arc<str>,
    generation: i32,
    /// The generation in which commits are accepted: the one whose assignment is known, until the next one has begun.
    commits_in: Option<i32>,
    /// The last generation in which the assigned streams were its own.
    owned_in: i32,
    phase: Phase,
    hold: Hold,
    assigned: Arc<BTreeSet<Partition>>,
    others: Arc<Vec<Other>>,
    lease: Option<Instant>,
    /// When the last heartbeat was sent that found no rebalance.
    calm_at: Instant,
    term: u64,
    failures: u32,
    failing_since: Option<Instant>,
    trouble: Option<Trouble>,
}

impl Member {
    /// One that has not asked yet. `denial` is said when the coordinator does not let it into the group.
    pub fn new(times: Times, instance: Arc<str>, denial: String, now: Instant) -> Self {
        Self {
            times,
            instance,
            denial,
            named: true,
            fences: 0,
            fenced_at: None,
            id: Arc::from(""),
            generation: -1,
            commits_in: None,
            owned_in: -1,
            phase: Phase::Asking { at: now },
            hold: Hold::Nothing,
            assigned: Arc::default(),
            others: Arc::default(),
            lease: None,
            calm_at: now,
            term: 0,
            failures: 0,
            failing_since: None,
            trouble: None,
        }
    }

    /// What to do next.
    pub fn next(&self, now: Instant) -> Next {
        let due = |at: Instant, then: Next| if at <= now { then } else { Next::Rest(at) };
        match self.phase {
            Phase::Asking { at } => due(at, Next::Describe),
            Phase::Alone { until } => Next::FirstPositions(until),
            Phase::Joining { at } => due(at, Next::Join),
            Phase::Syncing => Next::Sync,
            Phase::Settled { beat_at } => due(beat_at, Next::Beat),
        }
    }

    /// The id that the coordinator gave; empty before that.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// The group instance id to join under.
    pub fn instance(&self) -> Option<&Arc<str>> {
        self.named.then_some(&self.instance)
    }

    /// The generation; -1 before the first.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// A member's times.
    pub fn times(&self) -> Times {
        self.times
    }

    /// Until when what it holds is its own; `None` while it holds nothing, whatever is heard meanwhile.
    pub fn lease(&self) -> Option<Instant> {
        self.lease.filter(|_| !self.holds_nothing())
    }

    /// What it may claim when it joins, and the generation in which it was its own.
    pub fn owned(&self) -> (Arc<BTreeSet<Partition>>, i32) {
        match self.hold {
            Hold::Assigned => (self.assigned.clone(), self.owned_in),
            Hold::Nothing | Hold::Everything => (Arc::default(), -1),
        }
    }

    /// Whether it holds nothing: then it has nothing to drain either.
    pub fn holds_nothing(&self) -> bool {
        self.hold == Hold::Nothing
    }

    /// What the region is told.
    pub fn standing(&self) -> Standing {
        let share = match self.hold {
            Hold::Nothing => Share::Unknown,
            Hold::Everything => Share::Everything,
            Hold::Assigned => Share::Streams(self.assigned.clone()),
        };
        let pass = match (self.hold, self.commits_in) {
            (Hold::Nothing, _) => Pass::Nobody,
            (Hold::Everything, _) => Pass::Alone,
            (Hold::Assigned, Some(generation)) => {
                Pass::Member { generation, member_id: self.id.clone(), instance: self.instance().cloned() }
            }
            _ => Pass::Waiting,
        };
        Standing { share, pass, term: self.term, others: self.others.clone(), trouble: self.trouble.clone() }
    }

    /// Who is a member, asked at `sent`: nobody but (a former process of) this one, or nobody at all.
    pub fn described(&mut self, sent: Instant, now: Instant, nobody_else: bool, is_empty: bool) {
        if nobody_else && self.named {
            self.hold = Hold::Everything;
            self.extend(sent + self.times.session);
            self.phase = if is_empty {
                Phase::Alone { until: now + FIRST_POSITIONS_WITHIN.min(self.times.session / 2) }
            } else {
                Phase::Joining { at: now }
            };
        } else {
            if self.hold != Hold::Nothing {
                self.let_go();
            }
            self.phase = Phase::Joining { at: now };
        }
    }

    /// All first positions are committed that can be.
    pub fn first_positions_done(&mut self, now: Instant) {
        if let Phase::Alone { .. } = self.phase {
            self.phase = Phase::Joining { at: now };
        }
    }

    /// The answer to a request to join that was sent at `sent`.
    pub fn joined(&mut self, sent: Instant, now: Instant, code: i16, id: &str, generation: i32) {
        match code {
            0 => {
                self.id = Arc::from(id);
                self.generation = generation;
                self.commits_in = None;
                self.heard(sent);
                self.phase = Phase::Syncing;
            }
            error_code::MEMBER_ID_REQUIRED => {
                self.id = Arc::from(id);
                self.phase = Phase::Joining { at: now };
            }
            code => self.refused(code, now),
        }
    }

    /// The answer to a request for the assignment that was sent at `sent`; `has_others` says whether the generation has other members. Gives the streams that were taken away: they are to be drained and left.
    pub fn synced(
        &mut self,
        sent: Instant,
        now: Instant,
        code: i16,
        assigned: BTreeSet<Partition>,
        has_others: bool,
    ) -> BTreeSet<Partition> {
        if code != 0 {
            self.refused(code, now);
            return BTreeSet::new();
        }
        let (owned, _) = self.owned();
        let taken = owned.difference(&assigned).cloned().collect();
        if self.hold != Hold::Assigned || *self.assigned != assigned {
            self.assigned = Arc::new(assigned);
        }
        // Another one may have been the only member of a generation before this one joined.
        self.term += u64::from(self.hold == Hold::Everything && has_others);
        self.hold = Hold::Assigned;
        self.commits_in = Some(self.generation);
        self.owned_in = self.generation;
        self.heard(sent);
        self.failures = 0;
        self.failing_since = None;
        self.trouble = None;
        self.phase = Phase::Settled { beat_at: now + self.times.beat };
        taken
    }

    /// The answer to a request for the assignment did not come, or would be in vain.
    pub fn unsynced(&mut self, now: Instant) {
        if let Phase::Syncing = self.phase {
            self.phase = self.again(now);
        }
    }

    /// Who the others are.
    pub fn knows_others(&mut self, others: Vec<Other>) {
        if *self.others != others {
            self.others = Arc::new(others);
        }
    }

    /// The answer to a heartbeat that was sent at `sent`. `false` while joining or syncing means: that is in vain, begin again.
    pub fn beaten(&mut self, sent: Instant, now: Instant, code: i16) -> bool {
        let settled = matches!(self.phase, Phase::Settled { .. });
        match code {
            0 => {
                self.heard(sent);
                self.failing_since = None;
                if self.hold == Hold::Nothing && self.commits_in == Some(self.generation) {
                    // The coordinator was away, and not this member: nobody else got its streams.
                    self.hold = Hold::Assigned;
                    self.trouble = None;
                }
                if settled {
                    self.phase = Phase::Settled { beat_at: sent + self.times.beat };
                }
            }
            error_code::REBALANCE_IN_PROGRESS => {
                // A member that does not join in time is given up, however often it says that it lives.
                self.extend((sent + self.times.session).min(self.calm_at + self.times.rebalance));
                if settled {
                    self.phase = Phase::Joining { at: now };
                }
            }
            // The answer to the join is on its way.
            error_code::ILLEGAL_GENERATION if !settled => {}
            code => {
                self.refused(code, now);
                return false;
            }
        }
        true
    }

    /// The coordinator could not be asked.
    pub fn failed(&mut self, now: Instant, why: &str) {
        let since = *self.failing_since.get_or_insert(now);
        if now.duration_since(since) >= self.times.session {
            self.trouble = Some(Trouble {
                reason: format!("the coordinator of the group in the local cluster can't be asked: {why}"),
                needs_a_person: false,
            });
        }
        self.phase = match self.phase {
            Phase::Settled { .. } => Phase::Settled { beat_at: now + BEAT_RETRY },
            _ => self.again(now),
        };
    }

    /// A person must mend something before it can be a member again: `reason`.
    pub fn barred(&mut self, now: Instant, reason: String) {
        self.lost();
        self.trouble = Some(Trouble { reason, needs_a_person: true });
        self.phase = Phase::Asking { at: now + TROUBLE_RETRY };
    }

    /// Joins anew: streams were left, or there are some that nobody has.
    pub fn rejoin(&mut self, now: Instant) {
        if let Phase::Settled { .. } = self.phase {
            self.phase = Phase::Joining { at: now };
        }
    }

    /// Time has passed: a lease that has ended is given up. `true` if so.
    pub fn lapse(&mut self, now: Instant) -> bool {
        let ends = self.hold != Hold::Nothing && self.lease.is_none_or(|until| until <= now);
        if ends {
            self.let_go();
        }
        ends
    }

    /// The coordinator has said something that shows that this member is one, to a request that was sent at `sent`.
    fn heard(&mut self, sent: Instant) {
        self.calm_at = self.calm_at.max(sent);
        self.extend(sent + self.times.session);
    }

    fn extend(&mut self, until: Instant) {
        self.lease = Some(self.lease.map_or(until, |lease| lease.max(until)));
    }

    /// Somebody else may have what it held.
    fn let_go(&mut self) {
        self.hold = Hold::Nothing;
        self.lease = None;
        self.term += 1;
    }

    /// It is no member any more.
    fn lost(&mut self) {
        self.let_go();
        self.id = Arc::from("");
        self.generation = -1;
        self.commits_in = None;
        self.owned_in = -1;
        self.assigned = Arc::default();
        self.others = Arc::default();
    }

    fn refused(&mut self, code: i16, now: Instant) {
        match code {
            error_code::COORDINATOR_LOAD_IN_PROGRESS
            | error_code::COORDINATOR_NOT_AVAILABLE
            | error_code::NOT_COORDINATOR => self.failed(now, &error_code::describe(code)),
            error_code::REBALANCE_IN_PROGRESS | error_code::ILLEGAL_GENERATION => {
                self.phase = Phase::Joining { at: now };
            }
            error_code::UNKNOWN_MEMBER_ID => {
                if self.generation >= 0 {
                    self.lost();
                }
                self.id = Arc::from("");
                self.phase = Phase::Joining { at: now };
            }
            error_code::FENCED_INSTANCE_ID => {
                self.lost();
                let recent = self.fenced_at.is_some_and(|at| now.duration_since(at) < FENCES_WITHIN);
                self.fences = if recent { self.fences + 1 } else { 1 };
                self.fenced_at = Some(now);
                self.named &= self.fences < FENCES_MAX;
                self.phase = Phase::Joining { at: now };
            }
            error_code::GROUP_AUTHORIZATION_FAILED => self.barred(now, self.denial.clone()),
            code => self.barred(now, trouble(code)),
        }
    }

    /// Tries again a while later.
    fn again(&mut self, now: Instant) -> Phase {
        let at = now + (RETRY * (1 << self.failures.min(6))).min(RETRY_MAX);
        self.failures += 1;
        // Who has never been a member looks again whether anybody is.
        if self.generation < 0 { Phase::Asking { at } } else { Phase::Joining { at } }
    }
}

/// What is wrong, and what can be done.
fn trouble(code: i16) -> String {
    let what = error_code::describe(code);
    match code {
        error_code::INCONSISTENT_GROUP_PROTOCOL => format!(
            "the group has members that are no diffluent with this [proxy] name ({what}); stop them, or give the region another name"
        ),
        error_code::INVALID_SESSION_TIMEOUT => format!(
            "the local brokers don't allow this session timeout ({what}); set session_timeout in [mirror] to what lies between their \
             group.min.session.timeout.ms and group.max.session.timeout.ms"
        ),
        -1 | 10 | 18 => format!(
            "the coordinator can't keep the group's members and their streams ({what}): they must fit into one record; raise \
             max.message.bytes of the topic __consumer_offsets, or mirror fewer topics"
        ),
        _ => format!("the coordinator refuses the group: {what}; look at the local brokers' logs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(15);

    fn streams(numbers: &[i32]) -> BTreeSet<Partition> {
        numbers.iter().map(|number| (Arc::from("orders"), *number)).collect()
    }

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    fn new(now: Instant) -> Member {
        Member::new(Times::of(SESSION), Arc::from("a-9092"), "no right; grant it".to_owned(), now)
    }

    /// A member that was given streams 0 and 1 in generation 3.
    fn settled(now: Instant) -> Member {
        let mut member = new(now);
        member.described(now, now, false, false);
        assert_eq!(member.next(now), Next::Join);
        member.joined(now, now, 0, "a-9092-1", 3);
        assert_eq!(member.next(now), Next::Sync);
        assert!(member.synced(now, now, 0, streams(&[0, 1]), true).is_empty());
        member
    }

    fn pass(member: &Member) -> Option<i32> {
        match member.standing().pass {
            Pass::Member { generation, .. } => Some(generation),
            _ => None,
        }
    }

    #[test]
    fn where_nobody_else_is_everything_is_mirrored_at_once_and_goes_on_through_the_join() {
        let now = Instant::now();
        let mut member = new(now);
        assert_eq!(member.next(now), Next::Describe);
        member.described(now, now, true, true);
        assert!(matches!(member.standing().share, Share::Everything));
        assert_eq!(member.standing().pass, Pass::Alone);
        assert_eq!(member.next(now), Next::FirstPositions(now + FIRST_POSITIONS_WITHIN));
        member.first_positions_done(now);
        assert_eq!((member.next(now), member.standing().pass), (Next::Join, Pass::Alone));
        assert!(member.owned().0.is_empty(), "what it took without being a member it does not claim");
        let term = member.standing().term;
        member.joined(now, now + seconds(3), 0, "a-9092-1", 1);
        assert!(matches!(member.standing().share, Share::Everything));
        assert!(member.synced(now, now + seconds(3), 0, streams(&[0, 1]), false).is_empty());
        assert_eq!((pass(&member), member.standing().term), (Some(1), term));
    }

    #[test]
    fn who_holds_nothing_waits_for_no_lease_to_end() {
        let now = Instant::now();
        let mut member = settled(now);
        assert!(member.lapse(now + SESSION));
        assert!(member.beaten(now + SESSION, now + SESSION, error_code::REBALANCE_IN_PROGRESS));
        assert_eq!(member.lease(), None, "it would be waited for again and again once it is over");
        member.joined(now + SESSION, now + SESSION, 0, "a-9092-1", 4);
        member.synced(now + SESSION, now + SESSION, 0, streams(&[0]), true);
        assert_eq!(member.lease(), Some(now + SESSION * 2));
    }

    #[test]
    fn where_somebody_is_nothing_is_mirrored_before_the_assignment_is_there() {
        let now = Instant::now();
        let mut member = new(now);
        member.described(now, now, false, false);
        assert!(matches!(member.standing().share, Share::Unknown));
        assert_eq!((member.next(now), member.standing().pass), (Next::Join, Pass::Nobody));
    }

    #[test]
    fn who_starts_at_the_same_moment_as_another_begins_its_streams_anew_with_the_first_generation() {
        let now = Instant::now();
        let mut member = new(now);
        member.described(now, now, true, true);
        member.first_positions_done(now);
        let term = member.standing().term;
        member.joined(now, now + seconds(3), 0, "a-9092-1", 1);
        member.synced(now, now + seconds(3), 0, streams(&[0]), true);
        assert!(member.standing().term > term);
    }

    #[test]
    fn a_rebalance_disturbs_no_stream_that_stays_and_names_those_that_go() {
        let now = Instant::now();
        let mut member = settled(now);
        let term = member.standing().term;
        assert!(member.beaten(now + seconds(1), now + seconds(1), 27));
        assert_eq!(member.next(now + seconds(1)), Next::Join);
        assert_eq!(pass(&member), Some(3), "until the next generation has begun, the old one counts");
        assert_eq!(member.owned(), (Arc::new(streams(&[0, 1])), 3));
        member.joined(now + seconds(1), now + seconds(2), 0, "a-9092-1", 4);
        assert_eq!(member.standing().pass, Pass::Waiting);
        assert!(member.standing().share.includes(&(Arc::from("orders"), 1)));
        let taken = member.synced(now + seconds(2), now + seconds(2), 0, streams(&[0]), true);
        assert_eq!(taken, streams(&[1]));
        assert_eq!((pass(&member), member.standing().term), (Some(4), term));
    }

    #[test]
    fn the_lease_runs_from_when_the_last_answered_heartbeat_was_sent() {
        let now = Instant::now();
        let mut member = settled(now);
        assert!(member.beaten(now + seconds(5), now + seconds(9), 0), "four seconds on its way");
        assert_eq!(member.lease(), Some(now + seconds(5) + SESSION));
        assert!(!member.lapse(now + seconds(19)));
        assert!(member.lapse(now + seconds(20)));
        assert!(matches!(member.standing().share, Share::Unknown));
        assert_eq!((member.standing().pass, member.lease()), (Pass::Nobody, None));
        assert!(member.owned().0.is_empty(), "it claims nothing that others may have");
    }

    #[test]
    fn a_member_whose_assignment_does_not_come_joins_anew() {
        let now = Instant::now();
        let mut member = settled(now);
        member.rejoin(now);
        member.joined(now, now, 0, "id", 4);
        assert_eq!(member.next(now), Next::Sync);
        member.unsynced(now);
        assert_eq!(member.next(now + RETRY), Next::Join);
        member.failed(now, "gone");
        let next = member.next(now);
        member.unsynced(now);
        assert_eq!(member.next(now), next, "it has been said already why not");
    }

    #[test]
    fn a_member_whose_coordinator_was_away_gets_its_streams_back_and_begins_them_anew() {
        let now = Instant::now();
        let mut member = settled(now);
        let term = member.standing().term;
        member.failed(now + seconds(14), "gone");
        assert!(member.lapse(now + seconds(16)));
        assert!(member.beaten(now + seconds(17), now + seconds(17), 0));
        assert!(member.standing().share.includes(&(Arc::from("orders"), 1)));
        assert_eq!((pass(&member), member.standing().term), (Some(3), term + 1));
    }

    #[test]
    fn heartbeats_during_a_rebalance_keep_the_lease_no_longer_than_the_coordinator_waits_for_a_member() {
        let now = Instant::now();
        let mut member = settled(now);
        for second in 1..60 {
            assert!(member.beaten(now + seconds(second), now + seconds(second), 27));
        }
        assert_eq!(member.lease(), Some(now + SESSION * 2));
    }

    #[test]
    fn a_member_that_was_given_up_loses_everything_and_joins_as_a_new_one() {
        let now = Instant::now();
        let mut member = settled(now);
        assert!(!member.beaten(now, now, 25));
        assert!(matches!(member.standing().share, Share::Unknown));
        assert_eq!((member.next(now), &**member.id(), member.generation()), (Next::Join, "", -1));
        assert!(member.owned().0.is_empty());
    }

    #[test]
    fn a_member_that_has_missed_the_answer_to_its_join_joins_again_with_what_it_has() {
        let now = Instant::now();
        let mut member = settled(now);
        member.rejoin(now);
        member.failed(now, "the connection broke");
        let later = now + seconds(4);
        assert_eq!(member.next(later), Next::Join);
        assert_eq!(member.owned(), (Arc::new(streams(&[0, 1])), 3));
        assert!(member.beaten(later, later, 22), "while it joins this is no news");
        assert_eq!(pass(&member), Some(3));
    }

    #[test]
    fn a_name_that_others_take_again_and_again_is_given_up() {
        let now = Instant::now();
        let mut member = settled(now);
        for _ in 0..2 {
            assert!(!member.beaten(now, now, 82));
            assert!(member.instance().is_some(), "it may have been a late request of its own");
            member.joined(now, now, 0, "a-9092-2", 5);
            member.synced(now, now, 0, streams(&[0]), true);
        }
        assert!(!member.beaten(now, now, 82));
        assert_eq!((member.instance(), member.next(now)), (None, Next::Join));
        member.joined(now, now, 79, "diffluent-7", -1);
        assert_eq!((member.next(now), &**member.id()), (Next::Join, "diffluent-7"));
    }

    #[test]
    fn what_only_a_person_can_mend_is_said_and_tried_again() {
        let now = Instant::now();
        let mut member = new(now);
        member.described(now, now, true, true);
        member.first_positions_done(now);
        member.joined(now, now, 23, "", -1);
        let standing = member.standing();
        assert!(matches!(standing.share, Share::Unknown));
        let trouble = standing.trouble.expect("a trouble");
        assert!(trouble.needs_a_person && trouble.reason.contains("; stop them"), "{trouble:?}");
        assert_eq!(member.next(now), Next::Rest(now + TROUBLE_RETRY));
        assert_eq!(member.next(now + TROUBLE_RETRY), Next::Describe);
    }

    #[test]
    fn a_member_that_lacks_the_right_says_which_until_it_is_let_in() {
        let now = Instant::now();
        let mut member = settled(now);
        assert!(!member.beaten(now, now, 30));
        let trouble = member.standing().trouble.expect("a trouble");
        assert_eq!((trouble.reason.as_str(), trouble.needs_a_person), ("no right; grant it", true));
        let later = now + TROUBLE_RETRY;
        assert_eq!(member.next(later), Next::Describe);
        member.described(later, later, true, true);
        assert!(matches!(member.standing().share, Share::Everything));
        member.joined(later, later, 0, "a-9092-2", 4);
        member.synced(later, later, 0, streams(&[0]), false);
        assert_eq!(member.standing().trouble, None);
    }

    #[test]
    fn a_coordinator_that_stays_away_is_told_after_a_session() {
        let now = Instant::now();
        let mut member = settled(now);
        member.failed(now + seconds(1), "cut");
        assert_eq!(member.standing().trouble, None);
        member.failed(now + seconds(17), "cut");
        assert!(member.standing().trouble.is_some_and(|trouble| !trouble.needs_a_person));
        assert!(member.beaten(now + seconds(18), now + seconds(18), 0));
    }
}
