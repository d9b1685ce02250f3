//! Clusters start, answer, lose brokers and get them back.

use anyhow::Result;
use diffluent_testbed::{Call, Cluster, DelaySpec, KAFKA_OLD};
use kafka_protocol::messages::MetadataRequest;

#[tokio::test(flavor = "multi_thread")]
async fn a_single_broker_starts_answers_and_keeps_its_topics_over_kill_9() -> Result<()> {
    let cluster = Cluster::builder().name("single").start().await?;
    println!("started in {:?}", cluster.start_took());
    cluster.create_topic("orders", 3, 1, &[("retention.ms", "60000")]).await?;
    assert_eq!(cluster.admin().partitions("orders").await?, 3);
    assert_eq!(cluster.admin().end_offsets("orders").await?, vec![0, 0, 0]);
    cluster.kill(1)?;
    assert!(Call::connect(&cluster.broker_addr(1)?).await.is_err());
    let begin = std::time::Instant::now();
    cluster.restart(1).await?;
    println!("restarted in {:?}", begin.elapsed());
    assert_eq!(cluster.admin().partitions("orders").await?, 3);
    let begin = std::time::Instant::now();
    cluster.stop_all().await?;
    println!("stopped in {:?}", begin.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_brokers_move_a_leader_and_survive_the_loss_of_one() -> Result<()> {
    let cluster = Cluster::builder().name("three").brokers(3).start().await?;
    println!("started in {:?}, resident {} MiB", cluster.start_took(), cluster.rss_bytes() >> 20);
    cluster.create_topic("orders", 1, 3, &[]).await?;
    for to in [1, 2, 3, 1] {
        cluster.move_leader("orders", 0, to).await?;
        assert_eq!(cluster.admin().leader("orders", 0).await?, to);
    }
    cluster.kill(1)?;
    let begin = std::time::Instant::now();
    while !matches!(cluster.admin().leader("orders", 0).await, Ok(2 | 3)) {
        assert!(begin.elapsed().as_secs() < 60, "no new leader");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    println!("a new leader after {:?}", begin.elapsed());
    cluster.restart(1).await?;
    cluster.move_leader("orders", 0, 1).await?;
    cluster.delete_topic("orders").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_broker_starts_and_a_delayed_listener_advertises_only_its_relay() -> Result<()> {
    let cluster = Cluster::builder().name("old").version(KAFKA_OLD).listener_via(DelaySpec::rtt_ms(60)).start().await?;
    println!("{} started in {:?}", cluster.kafka().version(), cluster.start_took());
    let delayed = cluster.delayed_bootstrap();
    let mut call = Call::connect(&delayed).await?;
    let request = MetadataRequest::default().with_topics(Some(Vec::new()));
    call.call(&request, 9).await?;
    let begin = std::time::Instant::now();
    let metadata = call.call(&request, 9).await?;
    let took = begin.elapsed();
    assert!(took.as_millis() >= 60, "{took:?} for a round trip of 60 ms");
    let advertised: Vec<String> =
        metadata.brokers.iter().map(|broker| format!("{}:{}", broker.host, broker.port)).collect();
    assert_eq!(advertised, [delayed.as_str()]);
    assert_ne!(delayed, cluster.bootstrap());
    Ok(())
}
