//! The main job: what stock producers write through the proxy is in both regions, record by record.

mod common;

use anyhow::Result;
use common::{DIFFLUENT, World, assert_topic_equal, wait_mirrored};
use diffluent_testbed::{Acks, Cluster, Codec, KAFKA_OLD, Proxy, ProxyConfig, RegionConfig, Workload};

#[tokio::test(flavor = "multi_thread")]
async fn every_codec_and_every_acks_arrives_in_both_regions_record_by_record() -> Result<()> {
    let world = World::start().await?;
    let mut topics = Vec::new();
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        for acks in [Acks::None, Acks::Leader, Acks::All] {
            let topic = format!("orders-{}-{}", codec.as_str(), acks.as_str());
            world.eu.create_topic(&topic, 3, 1, &[]).await?;
        }
    }
    for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
        for acks in [Acks::None, Acks::Leader, Acks::All] {
            let topic = format!("orders-{}-{}", codec.as_str(), acks.as_str());
            let workload =
                Workload { codec, acks, records: 2_000, headers: 2, ..Workload::new(&world.proxy.bootstrap(), &topic) };
            let outcome = workload.run().await?;
            assert_eq!(outcome.failed, 0, "{:?}", outcome.errors);
            topics.push(topic);
        }
    }
    world.assert_regions_equal(&topics.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    world.proxy.finish().await
}

/// Kafka 3.9 on both sides, and the version that is current on the other.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_broker_mirrors_to_a_current_one_and_the_other_way_round() -> Result<()> {
    let (old, new) = tokio::try_join!(
        Cluster::builder().name("old").version(KAFKA_OLD).start(),
        Cluster::builder().name("new").start(),
    )?;
    for (local, region) in [(&old, &new), (&new, &old)] {
        let topic = format!("orders-of-{}", local.name());
        local.create_topic(&topic, 2, 1, &[]).await?;
        let config = ProxyConfig::new(local.name(), &local.bootstrap()).region_with(RegionConfig {
            topics: vec![topic.clone()],
            ..RegionConfig::new(region.name(), &region.bootstrap())
        });
        let proxy = Proxy::start(DIFFLUENT, config).await?;
        let outcome =
            Workload { records: 5_000, idempotent: true, ..Workload::new(&proxy.bootstrap(), &topic) }.run().await?;
        assert_eq!(outcome.failed, 0, "{:?}", outcome.errors);
        wait_mirrored(local, &proxy, &[region.name()], &[&topic]).await?;
        assert_topic_equal(local, region, &topic).await?;
        proxy.finish().await?;
    }
    Ok(())
}
