//! The model of Kafka beside Kafka itself: the same requests, the same answers.
//!
//! What the simulation proves is worth as much as the model is true. Each case asks both clusters the same and compares the answers, field by field; a few fields are
//! blanked, because each cluster chooses them (addresses, ids, its own clock) or because only people read them (messages).

mod batches;
mod dice;
mod groups;
mod logs;
mod pair;
mod topics;

use anyhow::{Context, Result};
use pair::Pair;

#[tokio::test(flavor = "multi_thread")]
async fn the_model_answers_as_kafka_does() -> Result<()> {
    let mut pair = Pair::start().await?;
    topics::made_and_grown(&mut pair).await?;
    groups::offsets(&mut pair).await?;
    logs::batches_that_a_broker_refuses(&mut pair).await?;
    logs::transactions(&mut pair).await?;
    logs::retention(&mut pair).await?;
    let seeds = match std::env::var("DIFFLUENT_SEED") {
        Ok(seed) => vec![seed.parse()?],
        Err(_) => (1..=8).collect(),
    };
    for seed in seeds {
        let again = || format!("DIFFLUENT_SEED={seed} cargo test --package diffluent-testbed --test model");
        let before = pair.differences.len();
        logs::any_script(&mut pair, seed).await.with_context(again)?;
        if pair.differences.len() > before {
            pair.differ(again());
        }
    }
    logs::leaders(&mut pair).await?;
    logs::forgotten_producers(&mut pair).await?;
    let differences = pair.differences.len();
    anyhow::ensure!(differences == 0, "{differences} answers differ");
    Ok(())
}
