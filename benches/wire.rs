//! The hot functions: what every produced byte, every mirrored batch and every Metadata answer passes through.
//!
//! `cargo bench --bench wire` takes under two minutes; `cargo bench --bench wire -- --measurement-time 10` is for a closer look.

mod inputs;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use diffluent::mirror::batch::fetched;
use diffluent::wire::batch::{BatchHeader, HEADER_LEN, rewritten_header};
use diffluent::wire::produce::RequestWalk;
use diffluent::wire::rewrite;
use diffluent::wire::splice::splice;
use inputs::{Count, IDENTITY, METADATA_VERSION, PRODUCE_VERSION, Sidecar, batch, log, metadata, produce_request};
use kafka_protocol::messages::ApiKey;
use tokio::time::Instant;

fn walk_produce(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("walk a Produce request");
    for (name, partitions, batch_bytes) in [("1 x 64 KiB", 1, 64 << 10), ("100 x 1 KiB", 100, 1 << 10)] {
        let frame = produce_request(partitions, batch_bytes);
        let starts_at = RequestWalk::STARTS_AT;
        let mut check = Count::default();
        RequestWalk::new(PRODUCE_VERSION).walk(&frame, starts_at..frame.len(), &mut check).expect("a request");
        assert_eq!((check.records, check.ranges), (partitions as usize * batch_bytes, check.records), "{name}");
        group.throughput(Throughput::Bytes(frame.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut count = Count::default();
                let mut walk = RequestWalk::new(PRODUCE_VERSION);
                walk.walk(black_box(&frame), starts_at..frame.len(), &mut count).expect("a request");
                (count.records, walk.is_done())
            });
        });
    }
    group.finish();
}

fn rewrite_header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rewrite a batch header");
    for bytes in [16 << 10, 64 << 10] {
        let batch = batch(40, bytes);
        let header = BatchHeader::decode(batch.first_chunk().expect("a header")).expect("a header");
        let records = batch.slice(HEADER_LEN..);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{} KiB", bytes >> 10)), |bencher| {
            bencher.iter(|| rewritten_header(black_box(&header), IDENTITY, std::iter::once(black_box(&records[..]))));
        });
    }
    group.finish();
}

fn rewrite_metadata(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("rewrite Metadata");
    let message = metadata(1000);
    let sidecar = Sidecar(Arc::from("127.0.0.1"));
    let api_key = ApiKey::Metadata as i16;
    let found = rewrite::find(api_key, METADATA_VERSION, &message).expect("an answer");
    assert_eq!(found.spots.len(), 3);
    group.throughput(Throughput::Bytes(message.len() as u64));
    group.bench_function("3 brokers, 1000 partitions", |bencher| {
        bencher.iter(|| {
            let head = rewrite::find(api_key, METADATA_VERSION, black_box(&message)).expect("an answer");
            splice(&message, &head, message.len(), &sidecar).expect("an answer")
        });
    });
    group.finish();
}

fn read_fetch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read a Fetch answer into batches");
    for (name, batches, bytes) in [("64 x 16 KiB", 64, 16 << 10), ("1000 x 1 KiB", 1000, 1 << 10)] {
        let log = log(batches, bytes);
        let now = Instant::now();
        assert_eq!(fetched(log.clone(), 0, now).count(), batches as usize, "{name}");
        group.throughput(Throughput::Elements(batches as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for batch in fetched(black_box(log.clone()), 0, now) {
                    black_box(batch.expect("a batch"));
                }
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = wire;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    targets = walk_produce, rewrite_header, rewrite_metadata, read_fetch
}
criterion_main!(wire);
