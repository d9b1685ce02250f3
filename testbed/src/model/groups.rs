//! Answers to the group protocol's requests. What waits in Kafka's purgatory looks again every few milliseconds here.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;

use super::answer::Answering;
use super::group::{Group, Join, Joined};
use super::state::State;

/// How often a request that waits looks again.
const LOOK: Duration = Duration::from_millis(5);
/// How often a request or an answer that does not get through is looked at.
const HEAR: Duration = Duration::from_millis(50);

/// A member's id, and the name under which it joined.
type Who<'a> = (&'a str, Option<&'a str>);

impl Answering<'_> {
    /// Answers a member, once the coordinator hears it ([`State::unheard`]), and it the coordinator ([`State::unanswered`]).
    pub(super) async fn heard<T>(&self, instance: Option<&StrBytes>, answer: impl Future<Output = T>) -> T {
        while instance.is_some_and(|instance| self.model.look().unheard.contains(instance.as_str())) {
            tokio::time::sleep(HEAR).await;
        }
        let answer = answer.await;
        while instance.is_some_and(|instance| self.model.look().unanswered.contains(instance.as_str())) {
            tokio::time::sleep(HEAR).await;
        }
        answer
    }

    /// Does something with a group, unless this broker does not coordinate it.
    fn with_group<T>(&self, group: &GroupId, what: impl FnOnce(&mut Group, i64, i64) -> T) -> Result<T, i16> {
        let now = self.model.now();
        let mut state = self.model.look();
        if let Some(code) = self.not_coordinator(&state) {
            return Err(code);
        }
        let delay = state.initial_rebalance_delay;
        Ok(what(state.group(group.as_str(), now), now, delay))
    }

    /// Whether a commit is accepted.
    pub(super) fn may_commit(&self, state: &mut State, now: i64, request: &OffsetCommitRequest) -> Result<(), i16> {
        if let Some(code) = self.not_coordinator(state) {
            return Err(code);
        }
        let delay = state.initial_rebalance_delay;
        let who = (request.member_id.as_str(), request.group_instance_id.as_deref());
        state.group(request.group_id.as_str(), now).may_commit(who, request.generation_id_or_member_epoch, now, delay)
    }

    pub(super) async fn join_group(&self, request: &JoinGroupRequest) -> JoinGroupResponse {
        let join = Join {
            member_id: request.member_id.to_string(),
            instance: request.group_instance_id.as_ref().map(|name| name.to_string()),
            session_ms: i64::from(request.session_timeout_ms),
            rebalance_ms: i64::from(request.rebalance_timeout_ms),
            protocols: request.protocols.iter().map(|one| (one.name.to_string(), one.metadata.clone())).collect(),
        };
        let refused = |error_code| Joined { error_code, generation: -1, ..Joined::default() };
        let id = match self.with_group(&request.group_id, |group, now, delay| group.join(join, now, delay)) {
            Err(code) => return joined(refused(code), request),
            Ok(Err(at_once)) => return joined(at_once, request),
            Ok(Ok(id)) => id,
        };
        loop {
            match self.with_group(&request.group_id, |group, now, delay| group.joined(&id, now, delay)) {
                Err(code) => return joined(refused(code), request),
                Ok(Some(answer)) => return joined(answer, request),
                Ok(None) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    pub(super) async fn sync_group(&self, request: &SyncGroupRequest) -> SyncGroupResponse {
        let shares: Vec<(String, Bytes)> =
            request.assignments.iter().map(|one| (one.member_id.to_string(), one.assignment.clone())).collect();
        let who: Who<'_> = (request.member_id.as_str(), request.group_instance_id.as_deref());
        let answer = SyncGroupResponse::default()
            .with_protocol_type(request.protocol_type.clone())
            .with_protocol_name(request.protocol_name.clone());
        let asked = self.with_group(&request.group_id, |group, now, delay| {
            group.sync(who, request.generation_id, shares, now, delay)
        });
        if let Err(code) | Ok(Err(code)) = asked {
            return answer.with_error_code(code);
        }
        loop {
            match self.with_group(&request.group_id, |group, now, delay| group.synced(who.0, now, delay)) {
                Err(code) | Ok(Some(Err(code))) => return answer.with_error_code(code),
                Ok(Some(Ok(assignment))) => return answer.with_assignment(assignment),
                Ok(None) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    pub(super) fn heartbeat(&self, request: &HeartbeatRequest) -> HeartbeatResponse {
        let who = (request.member_id.as_str(), request.group_instance_id.as_deref());
        let code = self
            .with_group(&request.group_id, |group, now, delay| group.heartbeat(who, request.generation_id, now, delay));
        HeartbeatResponse::default().with_error_code(code.unwrap_or_else(|code| code))
    }

    pub(super) fn leave_group(&self, request: &LeaveGroupRequest) -> LeaveGroupResponse {
        let mut members = Vec::new();
        for member in &request.members {
            let (id, name) = (member.member_id.as_str(), member.group_instance_id.as_deref());
            match self.with_group(&request.group_id, |group, now, delay| group.leave(id, name, now, delay)) {
                Err(code) => return LeaveGroupResponse::default().with_error_code(code),
                Ok(code) => members.push(
                    MemberResponse::default()
                        .with_member_id(member.member_id.clone())
                        .with_group_instance_id(member.group_instance_id.clone())
                        .with_error_code(code),
                ),
            }
        }
        LeaveGroupResponse::default().with_members(members)
    }

    pub(super) fn describe_groups(&self, request: &DescribeGroupsRequest) -> DescribeGroupsResponse {
        let groups = request.groups.iter().map(|id| {
            let described = self.with_group(id, |group, now, delay| {
                group.advance(now, delay);
                describe(group)
            });
            described
                .unwrap_or_else(|code| DescribedGroup::default().with_error_code(code))
                .with_group_id(id.clone())
                .with_authorized_operations(i32::MIN)
        });
        DescribeGroupsResponse::default().with_groups(groups.collect())
    }
}

fn describe(group: &Group) -> DescribedGroup {
    let stable = group.phase() == super::group::Phase::Stable;
    let members = group.members().iter().map(|(id, member)| {
        let answer = DescribedGroupMember::default()
            .with_member_id(StrBytes::from_string(id.clone()))
            .with_group_instance_id(member.instance.clone().map(StrBytes::from_string))
            .with_client_id(StrBytes::from_static_str("diffluent"))
            .with_client_host(StrBytes::from_static_str("/127.0.0.1"));
        match stable {
            true => answer.with_member_metadata(group.said(member)).with_member_assignment(member.assignment.clone()),
            false => answer,
        }
    });
    DescribedGroup::default()
        .with_group_state(StrBytes::from_static_str(group.phase().name()))
        .with_protocol_type(StrBytes::from_static_str("consumer"))
        .with_protocol_data(StrBytes::from_string(group.protocol().unwrap_or_default().to_owned()))
        .with_members(members.collect())
}

fn joined(answer: Joined, request: &JoinGroupRequest) -> JoinGroupResponse {
    let members = answer.members.into_iter().map(|(id, instance, said)| {
        JoinGroupResponseMember::default()
            .with_member_id(StrBytes::from_string(id))
            .with_group_instance_id(instance.map(StrBytes::from_string))
            .with_metadata(said)
    });
    JoinGroupResponse::default()
        .with_error_code(answer.error_code)
        .with_generation_id(answer.generation)
        .with_protocol_type(Some(request.protocol_type.clone()))
        .with_protocol_name(Some(StrBytes::from_string(answer.protocol.unwrap_or_default())))
        .with_leader(StrBytes::from_string(answer.leader))
        .with_member_id(StrBytes::from_string(answer.member_id))
        .with_members(members.collect())
}
