//! Progress that a test commits in a stream's place.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use diffluent_testbed::{Call, Cluster};
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::{FindCoordinatorRequest, GroupId, OffsetCommitRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::PATIENCE;

/// What a stream of partition 0 would have committed after so many records.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The topic in the local cluster.
    pub topic: String,
    /// Its id.
    pub topic_id: Uuid,
    /// Records of the local log that are mirrored.
    pub source_records: usize,
    /// Records of this incarnation: none where a stream has begun there and sent nothing yet.
    pub sequence: usize,
    /// The id of the region's topic.
    pub region_topic_id: Uuid,
    /// Records in the region's log.
    pub region_records: usize,
}

/// Commits it, as nobody's member.
pub async fn commit(local: &Cluster, region: &str, progress: &[Progress]) -> Result<()> {
    let group = GroupId(StrBytes::from_string(format!("diffluent.{region}")));
    let mut call = Call::connect(&local.bootstrap()).await?;
    let since = Instant::now();
    loop {
        let found = call.call(&FindCoordinatorRequest::default().with_key(group.0.clone()), 3).await?;
        let topics = progress.iter().map(|progress| {
            let Progress { topic, topic_id, source_records, sequence, region_topic_id, region_records } = progress;
            let metadata = format!(
                "diffluent/1 epoch=0 sequence={sequence} region_offset={region_records} region_leader_epoch=0 topic_id={topic_id} region_topic_id={region_topic_id}"
            );
            let partition = OffsetCommitRequestPartition::default()
                .with_partition_index(0)
                .with_committed_offset(*source_records as i64)
                .with_committed_leader_epoch(0)
                .with_committed_metadata(Some(StrBytes::from_string(metadata)));
            let name = TopicName(StrBytes::from_string(topic.clone()));
            OffsetCommitRequestTopic::default().with_name(name).with_partitions(vec![partition])
        });
        let request = OffsetCommitRequest::default()
            .with_group_id(group.clone())
            .with_generation_id_or_member_epoch(-1)
            .with_topics(topics.collect());
        if found.error_code == 0 {
            let answer = call.call(&request, 8).await?;
            if answer.topics.iter().flat_map(|topic| &topic.partitions).all(|partition| partition.error_code == 0) {
                return Ok(());
            }
        }
        ensure!(since.elapsed() < PATIENCE, "the progress can't be committed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
