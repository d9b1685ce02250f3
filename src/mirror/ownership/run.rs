//! Drives a [`Member`]: asks the coordinator, and tells the region by its [`Ownership`].
//!
//! Two connections of its own to the coordinator: one for joins and assignments, which wait for the other members, and one for heartbeats, which must not wait behind
//! them or behind commits.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    DescribeGroupsRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    SyncGroupRequest,
};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::member::{Member, Next, Times};
use super::messages::{Claims, Subscription, decode_assignment, encode_assignment};
use super::sharing::share_out;
use super::{Other, Ownership, lock};
use crate::client::ClientError;
use crate::client::apis::Call;
use crate::client::cluster::Cluster;
use crate::client::connection::Connection;
use crate::client::error_code;
use crate::client::rights::{Operation, Right};
use crate::config;
use crate::mirror::metrics::RegionMetrics;
use crate::mirror::progress::{Partition, Progress};
use crate::mirror::topic_list::{MirroredTopic, mirrored_topics};

/// Consumers' groups: so Kafka's tools show who has which partition, with its lag.
const PROTOCOL_TYPE: &str = "consumer";
/// The local cluster is asked for its topics before a join, if that takes no longer.
const TOPICS_WITHIN: Duration = Duration::from_secs(1);
/// Heartbeats in a row that may be lost while an answer is waited for, and that may find it given though it has not come: then it does not come any more.
const SILENT_MAX: u32 = 3;
/// How long leaving the group may take.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);
/// The first pause before a rebalance is asked for because nobody has some stream, doubled with each further one up to [`UNOWNED_PAUSE_MAX`].
const UNOWNED_PAUSE: Duration = Duration::from_millis(500);
const UNOWNED_PAUSE_MAX: Duration = Duration::from_secs(60);

/// What a membership works with.
#[derive(Debug)]
pub struct Parts {
    /// The region's configuration.
    pub region: config::Region,
    /// `[proxy] name`.
    pub origin: String,
    /// `[mirror] session_timeout`.
    pub session: Duration,
    /// The local cluster.
    pub local: Arc<Cluster>,
    /// Where the coordinator is known.
    pub progress: Arc<Progress>,
    /// Which topics are mirrored to the region.
    pub topics: watch::Receiver<Arc<Vec<MirroredTopic>>>,
    /// The region's metrics.
    pub metrics: RegionMetrics,
    /// What the region sees.
    pub ownership: Arc<Ownership>,
}

/// Takes part until told to leave ([`Ownership::leave`]).
pub async fn run(parts: Parts) {
    let ownership = parts.ownership.clone();
    let mut membership = Membership::new(parts);
    tokio::select! {
        biased;
        () = ownership.leave.notified() => {}
        () = membership.take_part() => {}
    }
    membership.quit().await;
    ownership.gone.notify_one();
}

struct Membership {
    parts: Parts,
    member: Member,
    group: GroupId,
    protocol: StrBytes,
    joins: Line,
    beats: Line,
    /// What the others had not left yet when they joined.
    others_claim: Vec<Claims>,
    /// Whether the others of this generation are known.
    others_known: bool,
    /// Streams were claimed in the last join that it was not given.
    owes: bool,
    /// Whether it is to be looked for streams that nobody has.
    look_for_unowned: bool,
    /// When a rebalance was asked for because nobody had some stream, and how long the next pause is.
    unowned: Option<Instant>,
    unowned_pause: Duration,
    /// What a person must mend, as it was told last.
    told: Option<String>,
}

/// What the coordinator says of an answer that a member waits for.
enum Awaited {
    NotGiven,
    Given,
    /// It is no member any more, or must join anew.
    InVain,
}

/// A group as its coordinator describes it.
struct Described {
    is_stable: bool,
    /// It waits for members to join.
    is_joining: bool,
    members: Vec<DescribedMember>,
}

struct DescribedMember {
    id: String,
    instance: Option<String>,
    host: String,
    said: Bytes,
    assigned: Bytes,
}

impl Membership {
    fn new(parts: Parts) -> Self {
        let group = parts.progress.group().clone();
        let right = Right::group(Operation::Read, group.0.as_str());
        let denial = parts.local.explain(error_code::GROUP_AUTHORIZATION_FAILED, right);
        let member = Member::new(Times::of(parts.session), parts.ownership.instance.clone(), denial, Instant::now());
        Self {
            member,
            group,
            told: None,
            // Proxies of another name would mirror to other topics: the coordinator keeps them apart.
            protocol: StrBytes::from_string(format!("diffluent-1-{}", parts.origin)),
            joins: Line::default(),
            beats: Line::default(),
            others_claim: Vec::new(),
            others_known: false,
            owes: false,
            look_for_unowned: false,
            unowned: None,
            unowned_pause: UNOWNED_PAUSE,
            parts,
        }
    }

    async fn take_part(&mut self) {
        loop {
            let now = Instant::now();
            self.lapse(now);
            let lease = self.member.lease();
            match self.member.next(now) {
                Next::Describe => drop(in_lease(lease, self.ask_who_is_there()).await),
                Next::FirstPositions(until) => {
                    // At the deadline the group is joined all the same.
                    let _ = timeout_at(until, self.parts.ownership.first_positions.notified()).await;
                    self.member.first_positions_done(Instant::now());
                }
                Next::Join => self.join().await,
                Next::Sync => unreachable!("syncing follows joining at once"),
                Next::Beat => drop(in_lease(lease, self.beat()).await),
                Next::Rest(until) => self.rest(until).await,
            }
            self.publish();
        }
    }

    /// Tells the region. What it needs to act on the news is there before the news.
    fn publish(&mut self) {
        self.tell_trouble();
        let ownership = &self.parts.ownership;
        if self.member.holds_nothing() {
            lock(&ownership.leaving).clear();
        }
        *lock(&ownership.lease) = self.member.lease();
        ownership.publish(self.member.standing());
    }

    /// Says once what a person must mend, and once that it is mended.
    fn tell_trouble(&mut self) {
        let standing = self.member.standing();
        let trouble = standing.trouble.filter(|trouble| trouble.needs_a_person).map(|trouble| trouble.reason);
        let (region, group) = (&self.parts.region.name, self.group.0.as_str());
        match &trouble {
            Some(reason) if self.told != trouble => tracing::warn!(%region, group, %reason,
                "this proxy can't take part in the group: its streams to the region wait; trying again"),
            None if self.told.is_some() => tracing::info!(%region, group, "this proxy takes part in the group again"),
            _ => return,
        }
        self.told = trouble;
    }

    fn lapse(&mut self, now: Instant) {
        if self.member.lapse(now) {
            self.parts.metrics.members.set(0);
            tracing::warn!(region = %self.parts.region.name, group = %self.group.0.as_str(),
                "nothing was heard from the group's coordinator for a session: the streams wait; other proxies take them over, if there are any");
            self.publish();
        }
    }

    async fn ask_who_is_there(&mut self) {
        let sent = Instant::now();
        let described = self.describe().await;
        let now = Instant::now();
        match described {
            Ok(group) => {
                let nobody_else = group.members.iter().all(|member| self.is_me(member));
                self.member.described(sent, now, nobody_else, group.members.is_empty());
            }
            Err(error) => self.failed(now, &error),
        }
    }

    async fn describe(&mut self) -> Result<Described, ClientError> {
        let Parts { local, progress, .. } = &self.parts;
        describe(local, progress, &self.group).await
    }

    fn failed(&mut self, now: Instant, error: &ClientError) {
        tracing::debug!(region = %self.parts.region.name, %error, "the group's coordinator could not be asked");
        self.parts.progress.forget_coordinator();
        (self.joins, self.beats) = (Line::default(), Line::default());
        match error {
            ClientError::Denied(denial) => self.member.barred(now, denial.to_string()),
            error => self.member.failed(now, &error.to_string()),
        }
    }

    /// Joins, and asks for the assignment.
    async fn join(&mut self) {
        let refreshed = timeout(TOPICS_WITHIN, self.parts.local.refresh()).await;
        if !matches!(refreshed, Ok(Ok(_))) {
            tracing::debug!(region = %self.parts.region.name, "joining the group with the topics that were known before");
        }
        let topics = self.mirrored();
        let (owned, generation) = self.member.owned();
        let mut claimed: BTreeSet<Partition> = lock(&self.parts.ownership.leaving).clone();
        claimed.extend(owned.iter().cloned());
        let said = Subscription::new(topics.keys().cloned(), claimed.iter().collect(), generation);
        let times = self.member.times();
        let request = JoinGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_session_timeout_ms(millis(times.session))
            .with_rebalance_timeout_ms(millis(times.rebalance))
            .with_member_id(text(self.member.id()))
            .with_group_instance_id(self.member.instance().map(text))
            .with_protocol_type(StrBytes::from_static_str(PROTOCOL_TYPE))
            .with_protocols(vec![
                JoinGroupRequestProtocol::default().with_name(self.protocol.clone()).with_metadata(said.encode()),
            ]);
        let sent = Instant::now();
        let Some(answer) = self.patiently(&request).await else { return };
        let now = Instant::now();
        let generation = self.member.generation();
        self.member.joined(sent, now, answer.error_code, &answer.member_id, answer.generation_id);
        self.mind_the_coordinator(answer.error_code);
        self.note_refusal("join", answer.error_code, generation);
        self.publish();
        if answer.error_code == 0 {
            self.sync(answer, claimed, topics).await;
        }
    }

    async fn sync(&mut self, joined: JoinGroupResponse, claimed: BTreeSet<Partition>, topics: BTreeMap<Arc<str>, i32>) {
        let leads = joined.leader == joined.member_id;
        let members = joined.members.len();
        let assignments = if leads { self.assignments(&joined, topics) } else { Vec::new() };
        let request = SyncGroupRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.member.generation())
            .with_member_id(text(self.member.id()))
            .with_group_instance_id(self.member.instance().map(text))
            .with_protocol_type(Some(StrBytes::from_static_str(PROTOCOL_TYPE)))
            .with_protocol_name(Some(self.protocol.clone()))
            .with_assignments(assignments);
        let sent = Instant::now();
        let Some(answer) = self.patiently(&request).await else {
            return self.member.unsynced(Instant::now());
        };
        let now = Instant::now();
        let assigned = decode_assignment(&answer.assignment).unwrap_or_else(|error| {
            tracing::error!(region = %self.parts.region.name, %error, "the group's leader sent something that is no assignment");
            BTreeSet::new()
        });
        let streams = assigned.len();
        self.owes = !claimed.is_subset(&assigned);
        self.others_known = false;
        let generation = self.member.generation();
        let taken = self.member.synced(sent, now, answer.error_code, assigned, !leads || members > 1);
        self.mind_the_coordinator(answer.error_code);
        self.note_refusal("get a share in", answer.error_code, generation);
        if answer.error_code != 0 {
            return;
        }
        lock(&self.parts.ownership.leaving).extend(taken);
        self.parts.metrics.rebalances.inc();
        tracing::info!(region = %self.parts.region.name, group = %self.group.0.as_str(), generation, streams,
            instance = %self.parts.ownership.instance, "this proxy has its share of the region's streams");
        if leads && members == 1 {
            self.others_claim.clear();
            self.member.knows_others(Vec::new());
            (self.others_known, self.look_for_unowned) = (true, true);
            self.parts.metrics.members.set(1);
        }
        self.settle_unowned(now);
    }

    /// As the leader: everybody's share.
    fn assignments(
        &self,
        joined: &JoinGroupResponse,
        mut topics: BTreeMap<Arc<str>, i32>,
    ) -> Vec<SyncGroupRequestAssignment> {
        let mut said = BTreeMap::new();
        for member in &joined.members {
            let subscription = Subscription::decode(&member.metadata).unwrap_or_else(|error| {
                tracing::warn!(region = %self.parts.region.name, member = %member.member_id.as_str(), %error,
                    "a member of the group says nothing that diffluent understands: it gets no streams");
                Subscription { is_complete: true, ..Subscription::default() }
            });
            said.insert(member.member_id.to_string(), subscription);
        }
        let metadata = self.parts.local.metadata();
        for topic in said.values().flat_map(|said| &said.topics) {
            if let Some(known) = metadata.topics.get(topic) {
                topics.insert(topic.clone(), i32::try_from(known.partitions.len()).unwrap_or(i32::MAX));
            }
        }
        share_out(&said, &topics)
            .into_iter()
            .map(|(id, streams)| {
                SyncGroupRequestAssignment::default()
                    .with_member_id(StrBytes::from_string(id))
                    .with_assignment(encode_assignment(&streams))
            })
            .collect()
    }

    /// The mirrored topics with their numbers of partitions, as known now.
    fn mirrored(&self) -> BTreeMap<Arc<str>, i32> {
        mirrored_topics(&self.parts.local.metadata(), &self.parts.region, &self.parts.origin)
            .into_iter()
            .map(|topic| (topic.name, topic.partitions))
            .collect()
    }

    /// Sends a request whose answer waits for other members. Meanwhile heartbeats go on, and the lease may end. `None` if the answer did not come, or would be
    /// in vain.
    async fn patiently<C: Call>(&mut self, request: &C) -> Option<C::Answer> {
        let times = self.member.times();
        // The coordinator waits for members that it has not heard of, and then for the leader.
        let deadline = times.rebalance + times.session;
        let coordinator = match in_lease(self.member.lease(), self.parts.progress.coordinator()).await? {
            Ok(coordinator) => coordinator,
            Err(error) => {
                self.failed(Instant::now(), &error);
                return None;
            }
        };
        let mut line = std::mem::take(&mut self.joins);
        let local = self.parts.local.clone();
        let answer = {
            let answering = line.call(&local, coordinator, request, deadline);
            tokio::pin!(answering);
            self.wait_for(answering).await
        };
        self.joins = line;
        match answer? {
            Ok(answer) => Some(answer),
            Err(error) => {
                self.failed(Instant::now(), &error);
                None
            }
        }
    }

    async fn wait_for<T>(&mut self, mut answering: impl Future<Output = T> + Unpin) -> Option<T> {
        let mut beat_at = Instant::now() + self.member.times().beat;
        let (mut silent, mut given) = (0, 0);
        loop {
            let wake = self.member.lease().map_or(beat_at, |lease| lease.min(beat_at));
            tokio::select! {
                biased;
                answer = &mut answering => return Some(answer),
                () = sleep_until(wake) => {
                    self.lapse(Instant::now());
                    if Instant::now() < beat_at {
                        continue;
                    }
                    let lease = self.member.lease();
                    let Some(waited_for) = in_lease(lease, self.is_waited_for()).await else { continue };
                    match waited_for {
                        Ok(Awaited::NotGiven) => (silent, given) = (0, 0),
                        Ok(Awaited::Given) if given + 1 < SILENT_MAX => (silent, given) = (0, given + 1),
                        Ok(Awaited::Given | Awaited::InVain) => return None,
                        Err(error) => {
                            silent += 1;
                            if silent == SILENT_MAX {
                                self.failed(Instant::now(), &error);
                                return None;
                            }
                        }
                    }
                    beat_at = Instant::now() + self.member.times().beat;
                }
            }
        }
    }

    /// Whether the answer that is waited for can still come.
    async fn is_waited_for(&mut self) -> Result<Awaited, ClientError> {
        if self.member.generation() < 0 {
            let group = self.describe().await?;
            let given = !group.is_joining && group.members.iter().any(|member| self.is_me(member));
            return Ok(if given { Awaited::Given } else { Awaited::NotGiven });
        }
        let (sent, code) = self.heartbeat().await;
        let code = code?;
        let waits = self.member.beaten(sent, Instant::now(), code);
        self.mind_the_coordinator(code);
        self.note_refusal("stay in", code, 0);
        self.publish();
        Ok(match code {
            // The next generation has begun.
            error_code::ILLEGAL_GENERATION if waits => Awaited::Given,
            _ if waits => Awaited::NotGiven,
            _ => Awaited::InVain,
        })
    }

    fn is_me(&self, member: &DescribedMember) -> bool {
        member.instance.as_deref() == Some(&*self.parts.ownership.instance)
    }

    async fn heartbeat(&mut self) -> (Instant, Result<i16, ClientError>) {
        let request = HeartbeatRequest::default()
            .with_group_id(self.group.clone())
            .with_generation_id(self.member.generation())
            .with_member_id(text(self.member.id()))
            .with_group_instance_id(self.member.instance().map(text));
        let sent = Instant::now();
        let deadline = self.member.times().session / 3;
        let Parts { local, progress, .. } = &self.parts;
        let code = match progress.coordinator().await {
            Ok(coordinator) => self.beats.call(local, coordinator, &request, deadline).await,
            Err(error) => Err(error),
        };
        (sent, code.map(|answer| answer.error_code))
    }

    async fn beat(&mut self) {
        let (sent, code) = self.heartbeat().await;
        let now = Instant::now();
        match code {
            Ok(code) => {
                self.member.beaten(sent, now, code);
                self.mind_the_coordinator(code);
                self.note_refusal("stay in", code, 0);
                self.look_around(now).await;
            }
            Err(error) => self.failed(now, &error),
        }
    }

    /// A broker that does not coordinate the group, or not now, is asked no more before it is known who does.
    fn mind_the_coordinator(&mut self, code: i16) {
        if matches!(code, error_code::COORDINATOR_NOT_AVAILABLE | error_code::NOT_COORDINATOR) {
            self.parts.progress.forget_coordinator();
            (self.joins, self.beats) = (Line::default(), Line::default());
        }
    }

    /// Says what an operator should know of a refusal.
    fn note_refusal(&self, what: &str, code: i16, generation: i32) {
        let error = error_code::describe(code);
        let (region, instance) = (&self.parts.region.name, &self.parts.ownership.instance);
        match code {
            0 | error_code::REBALANCE_IN_PROGRESS | error_code::ILLEGAL_GENERATION | error_code::MEMBER_ID_REQUIRED => {
            }
            error_code::UNKNOWN_MEMBER_ID if generation >= 0 => tracing::warn!(%region, error,
                "this proxy was taken for dead: its streams wait, or are mirrored by other proxies; joining again"),
            error_code::FENCED_INSTANCE_ID if self.member.instance().is_none() => {
                tracing::error!(%region, %instance, error,
                "another process uses the same [proxy] instance; this one goes on without a name; give each proxy its own")
            }
            error_code::FENCED_INSTANCE_ID => tracing::warn!(%region, %instance, error,
                "another process, or a late request of this one, has joined under this name; joining again"),
            _ => tracing::debug!(%region, error, "can't {what} the group at the moment"),
        }
    }

    /// After a heartbeat that found the group calm: who are the others, and has every stream an owner?
    async fn look_around(&mut self, now: Instant) {
        if !matches!(self.member.next(now), Next::Rest(_)) {
            return;
        }
        if !self.others_known {
            match self.describe().await {
                Ok(group) if group.is_stable => self.take_others(group),
                Ok(_) => {}
                Err(error) => {
                    tracing::debug!(region = %self.parts.region.name, %error, "the group could not be looked at")
                }
            }
        }
        self.settle_unowned(now);
    }

    fn take_others(&mut self, group: Described) {
        self.parts.metrics.members.set(i64::try_from(group.members.len()).unwrap_or(i64::MAX));
        self.others_claim.clear();
        let mut others = Vec::new();
        for DescribedMember { id, instance, host, said, assigned } in group.members {
            if id == **self.member.id() {
                continue;
            }
            // What a member says that diffluent does not understand was told by the leader.
            self.others_claim.extend(Subscription::decode(&said).ok().map(|said| said.claims));
            others.push(Other {
                instance: Arc::from(instance.unwrap_or(id)),
                host: Arc::from(host),
                streams: decode_assignment(&assigned).unwrap_or_default(),
            });
        }
        self.member.knows_others(others);
        (self.others_known, self.look_for_unowned) = (true, true);
    }

    /// Asks for a rebalance where nobody has a stream: its topic is new, or what it was taken from has left it.
    fn settle_unowned(&mut self, now: Instant) {
        let leaving = lock(&self.parts.ownership.leaving).is_empty();
        if self.owes && leaving {
            self.owes = false;
            return self.member.rejoin(now);
        }
        if !self.others_known || !self.look_for_unowned {
            return;
        }
        self.look_for_unowned = self.has_unowned();
        if !self.look_for_unowned {
            (self.unowned, self.unowned_pause) = (None, UNOWNED_PAUSE);
        } else if self.unowned.is_none_or(|at| now.duration_since(at) >= self.unowned_pause) {
            if self.unowned.is_some() {
                self.unowned_pause = (self.unowned_pause * 2).min(UNOWNED_PAUSE_MAX);
            }
            self.unowned = Some(now);
            self.member.rejoin(now);
        }
    }

    fn has_unowned(&self) -> bool {
        let standing = self.member.standing();
        let leaving = lock(&self.parts.ownership.leaving);
        self.parts.topics.borrow().iter().any(|topic| {
            let claimed: Vec<_> = self.others_claim.iter().filter_map(|claims| claims.of(&topic.name)).collect();
            (0..topic.partitions).any(|partition| {
                let stream = (topic.name.clone(), partition);
                !standing.share.includes(&stream)
                    && standing.owner(&stream).is_none()
                    && !leaving.contains(&stream)
                    && !claimed.iter().any(|claimed| claimed.contains(&partition))
            })
        })
    }

    async fn rest(&mut self, until: Instant) {
        let until = self.member.lease().map_or(until, |lease| lease.min(until));
        tokio::select! {
            biased;
            () = sleep_until(until) => return,
            () = self.parts.ownership.left.notified() => {}
            changed = self.parts.topics.changed() => {
                if changed.is_err() {
                    // The region is about to end.
                    return sleep_until(until).await;
                }
                self.look_for_unowned = true;
            }
        }
        self.settle_unowned(Instant::now());
    }

    /// Leaves the group.
    async fn quit(&mut self) {
        if self.member.id().is_empty() && self.member.generation() < 0 && self.member.instance().is_none() {
            return;
        }
        let identity = MemberIdentity::default()
            .with_member_id(text(self.member.id()))
            .with_group_instance_id(self.member.instance().map(text));
        let request = LeaveGroupRequest::default().with_group_id(self.group.clone()).with_members(vec![identity]);
        let Parts { local, progress, .. } = &self.parts;
        let left = timeout(LEAVE_WITHIN, async {
            let coordinator = progress.coordinator().await?;
            Line::default().call(local, coordinator, &request, LEAVE_WITHIN).await
        });
        let region = &self.parts.region.name;
        match left.await {
            Ok(Ok(_)) => tracing::info!(%region, "left the group: other proxies take the streams over"),
            Ok(Err(error)) => tracing::info!(%region, %error, "could not leave the group: its session times out"),
            Err(_) => tracing::info!(%region, "could not leave the group in time: its session times out"),
        }
    }
}

/// Waits no longer than the lease lasts, so that its end is seen in time whatever does not answer. `None` when it has ended.
async fn in_lease<T>(lease: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match lease {
        Some(until) => timeout_at(until, work).await.ok(),
        None => Some(work.await),
    }
}

async fn describe(local: &Cluster, progress: &Progress, group: &GroupId) -> Result<Described, ClientError> {
    let coordinator = progress.coordinator().await?;
    let answer = local.call(coordinator, &DescribeGroupsRequest::default().with_groups(vec![group.clone()])).await?;
    let Some(group) = answer.groups.into_iter().next() else {
        return Ok(Described { is_stable: false, is_joining: false, members: Vec::new() });
    };
    if !matches!(group.error_code, 0 | error_code::GROUP_ID_NOT_FOUND) {
        let name = group.group_id.0.as_str();
        let right = Right::group(Operation::Read, name);
        return Err(local.refused(format!("cannot look at group {name}"), group.error_code, right));
    }
    let members = group.members.into_iter().map(|member| DescribedMember {
        id: member.member_id.to_string(),
        instance: member.group_instance_id.map(|instance| instance.to_string()),
        host: member.client_host.trim_start_matches('/').to_string(),
        said: member.member_metadata,
        assigned: member.member_assignment,
    });
    let state = group.group_state.as_str();
    Ok(Described {
        is_stable: state == "Stable",
        is_joining: state == "PreparingRebalance",
        members: members.collect(),
    })
}

/// A connection to the coordinator, made when it is needed.
#[derive(Default)]
struct Line(Option<(i32, Connection)>);

impl Line {
    async fn call<C: Call>(
        &mut self,
        local: &Cluster,
        node_id: i32,
        request: &C,
        deadline: Duration,
    ) -> Result<C::Answer, ClientError> {
        // Taken out, so that a call that is dropped half way does not leave its answer to the next one.
        let mut connection = match self.0.take() {
            Some((known, connection)) if known == node_id => connection,
            _ => local.connect(node_id).await?,
        };
        let answer = connection.call_within(request, deadline).await?;
        self.0 = Some((node_id, connection));
        Ok(answer)
    }
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

fn text(text: &Arc<str>) -> StrBytes {
    StrBytes::from_string(text.to_string())
}
