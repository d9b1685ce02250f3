//! What operators do to a cluster: rights, quotas, users, tokens, features, brokers.

use anyhow::Result;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};

use crate::side::Side;

const FIRST: i32 = 1;
const SECOND: i32 = 2;
const RESOURCE_TOPIC: i8 = 2;
const PATTERN_LITERAL: i8 = 3;
const OPERATION_READ: i8 = 3;
const PERMISSION_ALLOW: i8 = 3;

pub async fn play(side: &mut Side<'_>) -> Result<()> {
    for version in 0..=3 {
        acls(side, version).await?;
        quotas(side, version).await?;
        users(side, version).await?;
        tokens(side, version).await?;
        cluster(side, version).await?;
        telemetry(side, version).await?;
        sasl(side, version).await?;
    }
    Ok(())
}

async fn acls(side: &mut Side<'_>, version: i16) -> Result<()> {
    let (topic, user) = (side.name("secret"), format!("User:{}", side.name("alice")));
    let wanted = |name: &str| {
        json!({ "ResourceType": RESOURCE_TOPIC, "ResourceName": name, "ResourcePatternType": PATTERN_LITERAL, "Principal": user,
            "Host": "192.0.2.7", "Operation": OPERATION_READ, "PermissionType": PERMISSION_ALLOW })
    };
    let filter = json!({ "ResourceTypeFilter": RESOURCE_TOPIC, "ResourceNameFilter": topic, "PatternTypeFilter": PATTERN_LITERAL,
        "PrincipalFilter": null, "HostFilter": null, "Operation": 1, "PermissionType": 1 });
    side.ask(FIRST, "CreateAcls", version, json!({ "Creations": [wanted(&topic), wanted("")] })).await?;
    let there = |answer: &Value| answer["Resources"].as_array().is_some_and(|found| !found.is_empty());
    side.ask_until(SECOND, "DescribeAcls", version, filter.clone(), there).await?;
    side.look_until(FIRST, "DescribeAcls", filter.clone(), there).await?;
    for _ in 0..2 {
        side.ask(SECOND, "DeleteAcls", version, json!({ "Filters": [filter] })).await?;
        side.look_until(FIRST, "DescribeAcls", filter.clone(), |answer| !there(answer)).await?;
    }
    Ok(())
}

async fn quotas(side: &mut Side<'_>, version: i16) -> Result<()> {
    let client = side.name("a-client");
    let entity = json!([{ "EntityType": "client-id", "EntityName": client }]);
    let filter =
        json!({ "Components": [{ "EntityType": "client-id", "MatchType": 0, "Match": client }], "Strict": true });
    let there = |answer: &Value| answer["Entries"].as_array().is_some_and(|found| !found.is_empty());
    for (key, remove) in [("producer_byte_rate", false), ("no_such_rate", false), ("producer_byte_rate", true)] {
        let ops = json!([{ "Key": key, "Value": 1_000_000.0, "Remove": remove }]);
        let fields = json!({ "Entries": [{ "Entity": entity, "Ops": ops }], "ValidateOnly": false });
        side.ask(SECOND, "AlterClientQuotas", version, fields).await?;
        side.look_until(FIRST, "DescribeClientQuotas", filter.clone(), |answer| there(answer) != remove).await?;
        side.ask_until(FIRST, "DescribeClientQuotas", version, filter.clone(), |answer| there(answer) != remove)
            .await?;
    }
    Ok(())
}

async fn users(side: &mut Side<'_>, version: i16) -> Result<()> {
    const SCRAM_SHA_256: i8 = 1;
    let user = side.name("bob");
    let bytes = |byte: u8| HEXLOWER.encode(&[byte; 32]);
    let upsert = |name: &str| {
        json!({ "Upsertions": [{ "Name": name, "Mechanism": SCRAM_SHA_256, "Iterations": 4096,
            "Salt": bytes(1), "SaltedPassword": bytes(2) }] })
    };
    // Somebody stays: where the last user of a mechanism goes while another comes, a broker may forget the other (seen in ScramDelta.apply).
    side.attempt(SECOND, "AlterUserScramCredentials", version, &upsert("somebody")).await?;
    let described = json!({ "Users": [{ "Name": user }, { "Name": "nobody" }] });
    let there = |answer: &Value| answer["Results"].to_string().contains("\"Iterations\"");
    let taken = |answer: &Value| answer["Results"][0]["ErrorCode"] == 0;
    side.ask_until(SECOND, "AlterUserScramCredentials", version, upsert(&user), taken).await?;
    side.ask_until(FIRST, "DescribeUserScramCredentials", version, described.clone(), there).await?;
    for _ in 0..2 {
        let delete = json!({ "Deletions": [{ "Name": user, "Mechanism": SCRAM_SHA_256 }] });
        side.ask(FIRST, "AlterUserScramCredentials", version, delete).await?;
        side.look_until(SECOND, "DescribeUserScramCredentials", described.clone(), |answer| !there(answer)).await?;
    }
    Ok(())
}

/// Refused, as on every connection without a principal of its own.
async fn tokens(side: &mut Side<'_>, version: i16) -> Result<()> {
    let renewers = json!([{ "PrincipalType": "User", "PrincipalName": side.name("carol") }]);
    let create =
        json!({ "OwnerPrincipalType": null, "OwnerPrincipalName": null, "Renewers": renewers, "MaxLifetimeMs": 1_000 });
    side.ask(FIRST, "CreateDelegationToken", version, create).await?;
    side.ask(SECOND, "RenewDelegationToken", version, json!({ "Hmac": "0102", "RenewPeriodMs": 1_000 })).await?;
    side.ask(FIRST, "ExpireDelegationToken", version, json!({ "Hmac": "0102", "ExpiryTimePeriodMs": 1_000 })).await?;
    side.ask(SECOND, "DescribeDelegationToken", version, json!({ "Owners": null })).await?;
    Ok(())
}

async fn cluster(side: &mut Side<'_>, version: i16) -> Result<()> {
    for feature in ["no.such.feature", "metadata.version"] {
        let update = json!({ "Feature": feature, "MaxVersionLevel": 1, "AllowDowngrade": false, "UpgradeType": 1 });
        side.ask(
            SECOND,
            "UpdateFeatures",
            version,
            json!({ "FeatureUpdates": [update], "timeoutMs": 30_000, "ValidateOnly": true }),
        )
        .await?;
    }
    side.ask(FIRST, "UnregisterBroker", version, json!({ "BrokerId": 99 })).await?;
    let directory = uuid::Uuid::from_u128(7).to_string();
    let listeners = json!([{ "Name": "CONTROLLER", "Host": "a-controller.internal", "Port": 9_093 }]);
    let voter = json!({ "ClusterId": null, "TimeoutMs": 1_000, "VoterId": 99, "VoterDirectoryId": directory, "Listeners": listeners });
    side.ask(SECOND, "AddRaftVoter", version, voter).await?;
    let voter = json!({ "ClusterId": null, "VoterId": 99, "VoterDirectoryId": directory });
    side.ask(FIRST, "RemoveRaftVoter", version, voter).await?;
    Ok(())
}

/// Offered where a broker has a plugin that takes it (KIP-714).
async fn telemetry(side: &mut Side<'_>, version: i16) -> Result<()> {
    if !side.world.has("GetTelemetrySubscriptions") {
        return Ok(());
    }
    let nobody = uuid::Uuid::nil().to_string();
    let got = side.ask(FIRST, "GetTelemetrySubscriptions", version, json!({ "ClientInstanceId": nobody })).await?;
    if let Some(id) = got["ClientInstanceId"].as_str() {
        side.learn(id, "the client's id");
    }
    for subscription in [got["SubscriptionId"].clone(), json!(77)] {
        let push =
            json!({ "ClientInstanceId": got["ClientInstanceId"], "SubscriptionId": subscription, "Metrics": "" });
        side.ask(FIRST, "PushTelemetry", version, push).await?;
    }
    Ok(())
}

/// On a listener without SASL: a broker says so. What follows on other listeners is a test of its own.
async fn sasl(side: &mut Side<'_>, version: i16) -> Result<()> {
    side.ask(FIRST, "SaslHandshake", version, json!({ "Mechanism": "PLAIN" })).await?;
    side.ask(FIRST, "SaslAuthenticate", version, json!({ "AuthBytes": "00616263" })).await?;
    Ok(())
}
