//! A partition's log: what may be appended, what is read, what the leader knows of producers and of epochs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    AddPartitionsToTxnRequest, BrokerId, DeleteRecordsRequest, DescribeProducersRequest, DescribeProducersResponse,
    EndTxnRequest, FetchRequest, FetchResponse, FindCoordinatorRequest, InitProducerIdRequest, ListOffsetsRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, ProduceResponse, ProducerId, TransactionalId,
};
use kafka_protocol::protocol::StrBytes;

use super::batches::{Identity, batch, describe, seal};
use super::dice::Dice;
use super::pair::{Pair, topic_name};

/// A partition.
type Of<'a> = (&'a str, i32);

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn producing((topic, partition): Of<'_>, records: Bytes, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

fn blank_produced(answer: &mut ProduceResponse) {
    answer.throttle_time_ms = 0;
    for partition in answer.responses.iter_mut().flat_map(|topic| &mut topic.partition_responses) {
        partition.error_message = None;
        partition.record_errors.clear();
        if partition.error_code != 0 {
            // Told with some errors and not with others; nobody acts on it.
            partition.log_start_offset = -1;
        }
    }
}

/// Appends a batch in both, and says with which error.
async fn produce(pair: &mut Pair, of: Of<'_>, records: Bytes, acks: i16) -> Result<(i16, i64)> {
    let answer = pair.same_at_leader(of, &producing(of, records, acks), 9, blank_produced).await?;
    let appended = answer.responses.first().and_then(|topic| topic.partition_responses.first());
    appended.map(|appended| (appended.error_code, appended.base_offset)).context("an answer without a partition")
}

fn listing((topic, partition): Of<'_>, timestamp: i64, isolation_level: i8, epoch: i32) -> ListOffsetsRequest {
    let asked = ListOffsetsPartition::default()
        .with_partition_index(partition)
        .with_timestamp(timestamp)
        .with_current_leader_epoch(epoch);
    let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked]);
    ListOffsetsRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_isolation_level(isolation_level)
        .with_topics(vec![topic])
}

/// Waits until the real cluster's high watermark (or last stable offset) is `end`.
async fn level(pair: &mut Pair, of: Of<'_>, isolation_level: i8, end: i64) -> Result<()> {
    let (leader, _) = pair.kafka.leader(of.0, of.1).await?;
    let request = listing(of, -1, isolation_level, -1);
    let there = |answer: &kafka_protocol::messages::ListOffsetsResponse| answer.topics[0].partitions[0].offset == end;
    pair.kafka.until(leader, &request, 7, there).await?;
    Ok(())
}

async fn list(pair: &mut Pair, of: Of<'_>, timestamp: i64, isolation_level: i8) -> Result<()> {
    let request = listing(of, timestamp, isolation_level, -1);
    pair.same_at_leader(of, &request, 7, |answer| answer.throttle_time_ms = 0).await?;
    Ok(())
}

fn fetching((topic, partition): Of<'_>, offset: i64, isolation_level: i8, epoch: i32) -> FetchRequest {
    let asked = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(epoch)
        .with_fetch_offset(offset)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![asked]);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(0)
        .with_min_bytes(0)
        .with_max_bytes(50 << 20)
        .with_isolation_level(isolation_level)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

/// Records are compared as what they say: a batch's leader epoch and a marker's time are each cluster's own.
fn blank_fetched(answer: &mut FetchResponse) {
    answer.throttle_time_ms = 0;
    for partition in answer.responses.iter_mut().flat_map(|topic| &mut topic.partitions) {
        let told = describe(partition.records.as_deref().unwrap_or_default()).join("\n");
        partition.records = Some(Bytes::from(told));
        // Null and empty say the same.
        let aborted = partition.aborted_transactions.get_or_insert_default();
        aborted.sort_by_key(|aborted| (aborted.first_offset, aborted.producer_id.0));
    }
}

async fn fetch(pair: &mut Pair, of: Of<'_>, offset: i64, isolation_level: i8) -> Result<()> {
    pair.same_at_leader(of, &fetching(of, offset, isolation_level, -1), 12, blank_fetched).await?;
    Ok(())
}

fn describing((topic, partition): Of<'_>) -> DescribeProducersRequest {
    let topic = TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(vec![partition]);
    DescribeProducersRequest::default().with_topics(vec![topic])
}

async fn producers(pair: &mut Pair, of: Of<'_>, by_marker: &[i64]) -> Result<()> {
    let by_marker = by_marker.to_vec();
    let blank = move |answer: &mut DescribeProducersResponse| {
        answer.throttle_time_ms = 0;
        for partition in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            partition.error_message = None;
            partition.active_producers.sort_by_key(|producer| producer.producer_id.0);
            for producer in &mut partition.active_producers {
                // What a transaction's end bears is the coordinator's.
                producer.coordinator_epoch = 0;
                if by_marker.contains(&producer.producer_id.0) {
                    producer.last_timestamp = 0;
                }
            }
        }
    };
    pair.same_at_leader(of, &describing(of), 0, blank).await?;
    Ok(())
}

fn epochs_end((topic, partition): Of<'_>, epoch: i32, current: i32) -> OffsetForLeaderEpochRequest {
    let asked = OffsetForLeaderPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(current)
        .with_leader_epoch(epoch);
    let topic = OffsetForLeaderTopic::default().with_topic(topic_name(topic)).with_partitions(vec![asked]);
    OffsetForLeaderEpochRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic])
}

/// Batches that no client may send, and ways to ask for what is not there.
pub async fn batches_that_a_broker_refuses(pair: &mut Pair) -> Result<()> {
    pair.topic("refusing", 1, 2).await?;
    let of = ("refusing", 0);
    let plain = batch(Identity::NONE, 2, now());
    let changed = |at: usize, bytes: &[u8]| {
        let mut changed = plain.to_vec();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        changed
    };
    let mut torn = plain.to_vec();
    torn[70] ^= 1;
    let mut two = plain.to_vec();
    two.extend_from_slice(&plain);
    let cases: Vec<(&str, Bytes)> = vec![
        ("a good one", plain.clone()),
        ("a broken checksum", Bytes::from(torn)),
        ("two batches", Bytes::from(two)),
        ("half a batch", plain.slice(..plain.len() - 3)),
        ("holes", seal(changed(23, &4_i32.to_be_bytes()))),
        ("a control batch", seal(changed(21, &0x20_i16.to_be_bytes()))),
        ("a producer without a sequence", seal(changed(43, &9_i64.to_be_bytes()))),
        ("one too large", batch(Identity::NONE, 40_000, now())),
    ];
    for (what, records) in cases {
        produce(pair, of, records, -1).await.context(what)?;
    }
    // With neither topic nor partition, and of a broker that does not lead.
    produce_to_anybody(pair, ("refusing", 7), plain.clone()).await?;
    produce_to_anybody(pair, ("unknown", 0), plain.clone()).await?;
    let (one, _) = pair.kafka.leader(of.0, of.1).await?;
    let (other, _) = pair.modelled.leader(of.0, of.1).await?;
    let elsewhere = (3 - one, 3 - other);
    let request = producing(of, plain, -1);
    pair.same_at(elsewhere, &request, &request, 9, blank_produced).await?;
    // A follower answers too, and hears of the high watermark a little later.
    let request = fetching(of, 0, 0, -1);
    let level = |answer: &FetchResponse| answer.responses[0].partitions[0].high_watermark == 2;
    pair.kafka.until(elsewhere.0, &request, 12, level).await?;
    pair.same_at(elsewhere, &request, &request, 12, blank_fetched).await?;
    let request = describing(of);
    pair.same_at(elsewhere, &request, &request, 0, |answer| {
        answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions).for_each(|one| one.error_message = None);
    })
    .await?;
    for offset in [-1, 0, 1, 2, 3, 4, 100] {
        fetch(pair, of, offset, 1).await.with_context(|| format!("from {offset}"))?;
    }
    Ok(())
}

async fn produce_to_anybody(pair: &mut Pair, of: Of<'_>, records: Bytes) -> Result<()> {
    pair.same(1, &producing(of, records, -1), 9, blank_produced).await?;
    Ok(())
}

/// A real transactional producer beside the orders that the model takes.
struct Transactional {
    id: String,
    coordinator: i32,
    producer_id: i64,
    epoch: i16,
    sequence: i32,
}

impl Transactional {
    async fn new(pair: &mut Pair, id: &str) -> Result<Self> {
        let key = StrBytes::from_string(id.to_owned());
        let request = FindCoordinatorRequest::default().with_key(key.clone()).with_key_type(1);
        let found = pair.kafka.until(1, &request, 3, |answer| answer.error_code == 0).await?;
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(key)))
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let made = pair.kafka.until(found.node_id.0, &request, 4, |answer| answer.error_code == 0).await?;
        Ok(Self {
            id: id.to_owned(),
            coordinator: found.node_id.0,
            producer_id: made.producer_id.0,
            epoch: made.producer_epoch,
            sequence: 0,
        })
    }

    fn transactional_id(&self) -> TransactionalId {
        TransactionalId(StrBytes::from_string(self.id.clone()))
    }

    async fn write(&mut self, pair: &mut Pair, of: Of<'_>, count: i32) -> Result<i64> {
        let topic = AddPartitionsToTxnTopic::default().with_name(topic_name(of.0)).with_partitions(vec![of.1]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id())
            .with_v3_and_below_producer_id(ProducerId(self.producer_id))
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![topic]);
        // CONCURRENT_TRANSACTIONS (51) as long as the last one is being ended.
        pair.kafka
            .until(self.coordinator, &request, 3, |answer| {
                answer
                    .results_by_topic_v3_and_below
                    .iter()
                    .flat_map(|topic| &topic.results_by_partition)
                    .all(|partition| partition.partition_error_code == 0)
            })
            .await?;
        let identity = Identity {
            producer_id: self.producer_id,
            producer_epoch: self.epoch,
            base_sequence: self.sequence,
            transactional: true,
        };
        let request =
            producing(of, batch(identity, count, now()), -1).with_transactional_id(Some(self.transactional_id()));
        let answer = pair.same_at_leader(of, &request, 9, blank_produced).await?;
        self.sequence += count;
        let appended = &answer.responses[0].partition_responses[0];
        if appended.error_code != 0 {
            bail!("a transaction's batch is refused with {}", appended.error_code);
        }
        Ok(appended.base_offset)
    }

    /// Ends the transaction; `end` is where the log of `of` ends with its marker.
    async fn end(&mut self, pair: &mut Pair, of: Of<'_>, commit: bool) -> Result<()> {
        let request = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(self.producer_id))
            .with_producer_epoch(self.epoch)
            .with_committed(commit);
        pair.kafka.until(self.coordinator, &request, 3, |answer| answer.error_code == 0).await?;
        let model = pair.model.model().clone();
        let end = model.change(|state, now| {
            let partition = state.partition_mut(of.0, of.1)?;
            partition.end_transaction(self.producer_id, self.epoch, commit, now);
            Some(partition.end())
        });
        level(pair, of, 0, end.context("no such partition")?).await
    }
}

/// Committed, aborted and open transactions, between batches of others.
pub async fn transactions(pair: &mut Pair) -> Result<()> {
    pair.topic("ledger", 1, 2).await?;
    let of = ("ledger", 0);
    let mut first = Transactional::new(pair, "first").await?;
    let mut second = Transactional::new(pair, "second").await?;
    let ids = [first.producer_id, second.producer_id];
    let look = async |pair: &mut Pair| {
        for isolation_level in [0, 1] {
            for offset in 0..24 {
                fetch(pair, of, offset, isolation_level).await?;
            }
            list(pair, of, -1, isolation_level).await?;
        }
        producers(pair, of, &ids).await
    };
    produce(pair, of, batch(Identity::NONE, 2, now()), -1).await?;
    first.write(pair, of, 3).await?;
    look(pair).await.context("one is open")?;
    second.write(pair, of, 2).await?;
    produce(pair, of, batch(Identity::NONE, 1, now()), -1).await?;
    first.end(pair, of, true).await?;
    look(pair).await.context("the older one is committed")?;
    first.write(pair, of, 1).await?;
    second.end(pair, of, false).await?;
    look(pair).await.context("the younger one is aborted")?;
    first.end(pair, of, false).await?;
    second.write(pair, of, 2).await?;
    second.write(pair, of, 2).await?;
    second.end(pair, of, true).await?;
    look(pair).await.context("all are ended")
}

/// The log's start moves.
pub async fn retention(pair: &mut Pair) -> Result<()> {
    pair.topic("short", 1, 2).await?;
    let of = ("short", 0);
    let reserved = |sequence| Identity {
        producer_id: 1 << 62 | 7,
        producer_epoch: 3,
        base_sequence: sequence,
        transactional: false,
    };
    for sequence in [0, 4, 8, 12] {
        produce(pair, of, batch(reserved(sequence), 4, now()), -1).await?;
    }
    for before in [4, 10, 16] {
        let partition = DeleteRecordsPartition::default().with_partition_index(of.1).with_offset(before);
        let topic = DeleteRecordsTopic::default().with_name(topic_name(of.0)).with_partitions(vec![partition]);
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
        let (leader, _) = pair.kafka.leader(of.0, of.1).await?;
        let answer = pair.kafka.call(leader, &request, 2).await?;
        if answer.topics[0].partitions[0].low_watermark != before {
            bail!("{answer:?}");
        }
        pair.model.model().change(|state, _| {
            if let Some(partition) = state.partition_mut(of.0, of.1) {
                partition.delete_before(before);
            }
        });
        for offset in [0, before - 1, before, before + 1, 16, 17] {
            fetch(pair, of, offset, 1).await.with_context(|| format!("from {offset}, behind {before}"))?;
        }
        for timestamp in [-1, -2] {
            list(pair, of, timestamp, 1).await?;
        }
        producers(pair, of, &[]).await?;
    }
    // What is gone is remembered: a repeat is answered with its old offset, a gap is refused.
    for sequence in [12, 20, 16] {
        produce(pair, of, batch(reserved(sequence), 4, now()), -1).await?;
    }
    Ok(())
}

/// A random script: producers with and without an identity who repeat, leave gaps, begin new epochs and go on with old ones.
pub async fn any_script(pair: &mut Pair, seed: u64) -> Result<()> {
    let mut dice = Dice::new(seed);
    let name = format!("script-{seed}");
    pair.topic(&name, 1, 2).await?;
    let of = (name.as_str(), 0);
    let begin = now();
    /// What a producer does next, as far as it knows.
    #[derive(Clone, Copy)]
    struct Writer {
        producer_id: i64,
        epoch: i16,
        next: i32,
        last: Option<(i32, i32)>,
    }
    let writer = |producer_id, next| Writer { producer_id, epoch: 0, next, last: None };
    // The last one's sequence wraps within the script.
    let mut writers = [writer(-1, -1), writer(1 << 62 | 11, 0), writer(77, 5), writer(1 << 62 | 12, i32::MAX - 6)];
    let mut end = 0;
    for step in 0..60 {
        let at = dice.below(4) as usize;
        let writer = writers[at];
        let count = 1 + dice.below(3) as i32;
        let timestamp = begin + step * 10;
        let mut identity = Identity {
            producer_id: writer.producer_id,
            producer_epoch: if writer.producer_id < 0 { -1 } else { writer.epoch },
            base_sequence: writer.next,
            transactional: false,
        };
        let mut records = count;
        if writer.producer_id >= 0 {
            match dice.below(10) {
                0 => identity.base_sequence = (writer.next.wrapping_add(1 + dice.below(9) as i32)) & i32::MAX,
                1 => identity.base_sequence = (writer.next.wrapping_sub(1 + dice.below(30) as i32)) & i32::MAX,
                2 | 3 => {
                    if let Some((sequence, count)) = writer.last {
                        (identity.base_sequence, records) = (sequence, count);
                    }
                }
                4 => {
                    identity.producer_epoch += 1;
                    identity.base_sequence = dice.pick(&[0, 0, writer.next, 1]);
                }
                5 if identity.producer_epoch > 0 => identity.producer_epoch -= 1,
                _ => {}
            }
        }
        let acks = dice.pick(&[-1, -1, 1]);
        let context = || format!("step {step}: {identity:?}, {records} records, acks={acks}");
        let (error, base_offset) =
            produce(pair, of, batch(identity, records, timestamp), acks).await.with_context(context)?;
        if error == 0 {
            let next = identity.base_sequence.wrapping_add(records) & i32::MAX;
            let new = base_offset == end;
            end = end.max(base_offset + i64::from(records));
            if writer.producer_id >= 0 && new {
                writers[at] = Writer {
                    epoch: identity.producer_epoch,
                    next,
                    last: Some((identity.base_sequence, records)),
                    ..writer
                };
            }
        }
        level(pair, of, 0, end).await?;
        match dice.below(5) {
            0 => fetch(pair, of, dice.below(end as u64 + 2) as i64, dice.below(2) as i8).await,
            1 => list(pair, of, dice.pick(&[-1, -2]), dice.below(2) as i8).await,
            // Of a batch the model knows the first and the latest timestamp only.
            2 => list(pair, of, begin + 10 * dice.below(70) as i64, 0).await,
            3 => producers(pair, of, &[]).await,
            _ => {
                let request = epochs_end(of, dice.below(3) as i32, -1);
                pair.same_at_leader(of, &request, 4, |answer| answer.throttle_time_ms = 0).await.map(|_| ())
            }
        }
        .with_context(context)?;
    }
    for offset in 0..end {
        fetch(pair, of, offset, 1).await?;
    }
    Ok(())
}

/// Leaders move: who answers, with which epochs, and where an epoch's log ended.
pub async fn leaders(pair: &mut Pair) -> Result<()> {
    pair.topic("moving", 1, 2).await?;
    let of = ("moving", 0);
    // By which epoch each knows the same term of office.
    let mut epochs = vec![(pair.kafka.leader(of.0, of.1).await?.1, pair.modelled.leader(of.0, of.1).await?.1)];
    for _ in 0..3 {
        produce(pair, of, batch(Identity::NONE, 3, now()), -1).await?;
        let (one, _) = pair.kafka.leader(of.0, of.1).await?;
        let (other, _) = pair.modelled.leader(of.0, of.1).await?;
        pair.cluster.move_leader(of.0, of.1, 3 - one).await?;
        pair.model.model().change(|state, now| {
            if let Some(partition) = state.partition_mut(of.0, of.1) {
                partition.move_leader(3 - other, now);
            }
        });
        let (kafka, modelled) = (pair.kafka.leader(of.0, of.1).await?, pair.modelled.leader(of.0, of.1).await?);
        // The new leader tells the high watermark once its follower has fetched.
        level_at(pair, of, kafka.0).await?;
        epochs.push((kafka.1, modelled.1));
        let (now_one, now_other) = (kafka.0, modelled.0);
        let last = epochs[epochs.len() - 1];
        for (asked_one, asked_other) in epochs.clone() {
            let mut truth = pair.kafka.call(now_one, &epochs_end(of, asked_one, last.0), 4).await?;
            let mut told = pair.modelled.call(now_other, &epochs_end(of, asked_other, last.1), 4).await?;
            for (answer, asked) in [(&mut truth, asked_one), (&mut told, asked_other)] {
                answer.throttle_time_ms = 0;
                for end in answer.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
                    // An epoch without a record is unknown: what counts is whether it is the one that was asked for.
                    end.leader_epoch -= asked;
                }
            }
            if format!("{truth:?}") != format!("{told:?}") {
                pair.differ(format!(
                    "the end of epoch {asked_one} of {epochs:?}: Kafka says {truth:?}\nand the model {told:?}"
                ));
            }
        }
        // Too old, too new: for every API that takes the leader's epoch.
        for ahead in [-1, 1] {
            let (one, other) = (last.0 + ahead, last.1 + ahead);
            let at = (now_one, now_other);
            pair.same_at(at, &fetching(of, 0, 1, one), &fetching(of, 0, 1, other), 12, blank_fetched).await?;
            pair.same_at(at, &listing(of, -1, 1, one), &listing(of, -1, 1, other), 7, |answer| {
                answer.throttle_time_ms = 0
            })
            .await?;
            pair.same_at(at, &epochs_end(of, 0, one), &epochs_end(of, 0, other), 4, |answer| {
                answer.throttle_time_ms = 0
            })
            .await?;
        }
        // The one that led before does no longer.
        let at = (3 - now_one, 3 - now_other);
        let request = producing(of, batch(Identity::NONE, 1, now()), -1);
        pair.same_at(at, &request, &request, 9, blank_produced).await?;
    }
    Ok(())
}

async fn level_at(pair: &mut Pair, of: Of<'_>, leader: i32) -> Result<()> {
    let end = pair.model.model().look().partition(of.0, of.1).map_or(0, |partition| partition.end());
    let request = listing(of, -1, 0, -1);
    pair.kafka
        .until(leader, &request, 7, |answer| {
            let told = &answer.topics[0].partitions[0];
            told.error_code == 0 && told.offset == end
        })
        .await?;
    Ok(())
}

/// Old records: their producers are forgotten, and what has no state has no check.
pub async fn forgotten_producers(pair: &mut Pair) -> Result<()> {
    pair.topic("old", 1, 2).await?;
    let of = ("old", 0);
    let three_days_ago = now() - 3 * 24 * 3_600 * 1_000;
    let reserved = |sequence| Identity {
        producer_id: 1 << 62 | 9,
        producer_epoch: 0,
        base_sequence: sequence,
        transactional: false,
    };
    produce(pair, of, batch(reserved(0), 2, three_days_ago), -1).await?;
    let (leader, _) = pair.kafka.leader(of.0, of.1).await?;
    let nobody = |answer: &DescribeProducersResponse| answer.topics[0].partitions[0].active_producers.is_empty();
    tokio::time::timeout(Duration::from_secs(60), pair.kafka.until(leader, &describing(of), 0, nobody)).await??;
    pair.model.model().change(|state, now| {
        state.each_partition(|partition| partition.expire_producers(now - 24 * 3_600 * 1_000));
    });
    producers(pair, of, &[]).await?;
    // Any first sequence; then in order; a repeat of what was forgotten is a gap again.
    for sequence in [500, 502, 0, 502] {
        produce(pair, of, batch(reserved(sequence), 2, now()), -1).await?;
    }
    fetch(pair, of, 0, 1).await
}
