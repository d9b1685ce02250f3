//! What operators ask for: each is an event, with who and what came of it.
//!
//! As with Kafka Connect, a pause, a resume and a rewind are accepted (202) and take effect as soon as the region's task has heard of them.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, Refusal, error, wrong};
use super::routes::{Admin, asked};
use super::who::Who;
use crate::config::{ByteSize, RATE_LIMIT_MIN};
use crate::journal::{Place, now_ms};
use crate::lag::{Hold, RateLimits};
use crate::mirror::CommandError;
use crate::mirror::rewind::{Rewind, RewindTo, Rewound};
use crate::mirror::stream::Obstacle;
use crate::mirror::throttle::Throttling;

/// A command that was refused, as the admin port says it.
fn refused(error_is: CommandError) -> Refusal {
    let status = match error_is {
        CommandError::Unknown(_) => StatusCode::NOT_FOUND,
        CommandError::Refused(_) => StatusCode::CONFLICT,
        CommandError::Elsewhere(_) => StatusCode::MISDIRECTED_REQUEST,
        CommandError::Silent => StatusCode::SERVICE_UNAVAILABLE,
    };
    error(status, error_is.to_string()).into()
}

/// Notes a command with what came of it, and gives it back.
fn noted<T>(
    admin: &Admin,
    Who(by): &Who,
    at: Place<'_>,
    done: Result<T, CommandError>,
    (command, words): (&str, impl FnOnce(&T) -> String),
) -> Result<T, Refusal> {
    let message = match &done {
        Ok(done) => format!("{command}: {}", words(done)),
        Err(refused) => format!("{command}: {refused}"),
    };
    tracing::info!(%by, region = at.region, topic = at.topic, partition = at.partition, "an operator asked for a {message}");
    admin.state.journal.command(by, at, &message);
    done.map_err(refused)
}

/// What of a region is held back, or goes on.
#[derive(Debug, Serialize)]
struct Held {
    region: String,
    topic: Option<String>,
    paused: Option<Hold>,
}

fn pause(admin: &Admin, who: &Who, region: String, topic: Option<String>) -> Answer {
    let hold = Hold { since_ms: now_ms(), by: who.0.clone() };
    let at = Place { region: Some(&region), topic: topic.as_deref(), partition: None };
    let done = admin.state.commands.pause(&region, topic.as_deref(), hold.clone());
    noted(admin, who, at, done, ("pause", |()| "done; positions stay, nothing is sent".to_owned()))?;
    Ok((StatusCode::ACCEPTED, Json(Held { region, topic, paused: Some(hold) })).into_response())
}

fn resume(admin: &Admin, who: &Who, region: String, topic: Option<String>) -> Answer {
    let at = Place { region: Some(&region), topic: topic.as_deref(), partition: None };
    let done = admin.state.commands.resume(&region, topic.as_deref());
    noted(admin, who, at, done, ("resume", |()| "done".to_owned()))?;
    Ok((StatusCode::ACCEPTED, Json(Held { region, topic, paused: None })).into_response())
}

pub(super) async fn pause_region(State(admin): State<Admin>, who: Who, Path(region): Path<String>) -> Answer {
    pause(&admin, &who, region, None)
}

pub(super) async fn pause_topic(
    State(admin): State<Admin>,
    who: Who,
    Path((region, topic)): Path<(String, String)>,
) -> Answer {
    pause(&admin, &who, region, Some(topic))
}

pub(super) async fn resume_region(State(admin): State<Admin>, who: Who, Path(region): Path<String>) -> Answer {
    resume(&admin, &who, region, None)
}

pub(super) async fn resume_topic(
    State(admin): State<Admin>,
    who: Who,
    Path((region, topic)): Path<(String, String)>,
) -> Answer {
    resume(&admin, &who, region, Some(topic))
}

/// Which limits are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ThrottleWanted {
    rate_limit: Option<String>,
    catch_up_rate_limit: Option<String>,
}

const THROTTLE_QUERY: &str = "?rate_limit={size per second, or none}&catch_up_rate_limit={size per second, or none}, for instance ?rate_limit=10MiB";

/// `10 MiB`, or `none`.
fn limit(key: &str, text: Option<String>) -> Result<Option<Option<u64>>, Refusal> {
    let Some(text) = text else { return Ok(None) };
    if text == "none" {
        return Ok(Some(None));
    }
    let limit: ByteSize = text.parse().map_err(|what| wrong(format!("{key}: {what}; {THROTTLE_QUERY}")))?;
    if limit < RATE_LIMIT_MIN {
        return Err(wrong(format!(
            "{key}: {limit} is too small: at least {RATE_LIMIT_MIN}; to send nothing, pause the region"
        )));
    }
    Ok(Some(Some(limit.bytes())))
}

/// What `throttle` answers.
#[derive(Debug, Serialize)]
struct Throttled {
    region: String,
    limits: RateLimits,
}

pub(super) async fn throttle(
    State(admin): State<Admin>,
    who: Who,
    Path(region): Path<String>,
    wanted: Result<Query<ThrottleWanted>, QueryRejection>,
) -> Answer {
    let wanted = asked(wanted, THROTTLE_QUERY)?;
    let limits = Throttling {
        rate_limit: limit("rate_limit", wanted.rate_limit)?,
        catch_up_rate_limit: limit("catch_up_rate_limit", wanted.catch_up_rate_limit)?,
    };
    if limits == Throttling::default() {
        return Err(wrong(format!("no limit is named: {THROTTLE_QUERY}")));
    }
    let at = Place { region: Some(&region), ..Place::default() };
    let done = admin.state.commands.throttle(&region, limits, Hold { since_ms: now_ms(), by: who.0.clone() });
    let words = |limits: &RateLimits| {
        let told =
            |limit: Option<u64>| limit.map_or_else(|| "none".into(), |limit| ByteSize::from_bytes(limit).to_string());
        format!(
            "done; a second, at most: sent {}, read to catch up {}",
            told(limits.rate_limit),
            told(limits.catch_up_rate_limit)
        )
    };
    let limits = noted(&admin, &who, at, done, ("throttle", words))?;
    Ok(Json(Throttled { region, limits }).into_response())
}

/// Where streams shall begin anew.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RewindWanted {
    offset: Option<i64>,
    time: Option<String>,
}

const REWIND_QUERY: &str =
    "?offset={source offset} or ?time={such as 2026-11-27T02:00:00Z, or milliseconds since 1970}";

fn rewind_to(wanted: Result<Query<RewindWanted>, QueryRejection>) -> Result<RewindTo, Refusal> {
    match asked(wanted, REWIND_QUERY)? {
        RewindWanted { offset: Some(offset), time: None } if offset >= 0 => Ok(RewindTo::Offset(offset)),
        RewindWanted { offset: None, time: Some(time) } => {
            at_ms(&time).map(RewindTo::Time).ok_or_else(|| wrong(format!("{time:?} is no time: {REWIND_QUERY}")))
        }
        _ => Err(wrong(format!("either an offset that is not negative, or a time: {REWIND_QUERY}"))),
    }
}

/// Milliseconds since 1970 of a time that is written as such, or as RFC 3339 has it.
fn at_ms(text: &str) -> Option<i64> {
    if let Ok(ms) = text.parse::<u64>() {
        return i64::try_from(ms).ok();
    }
    let time = humantime::parse_rfc3339_weak(text).ok()?;
    i64::try_from(time.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

async fn rewind(admin: &Admin, who: &Who, region: &str, what: Rewind) -> Answer {
    let at = Place { region: Some(region), topic: what.topic.as_deref(), partition: what.partition };
    let done = admin.state.commands.rewind(region.to_owned(), what.clone()).await;
    let to = match what.to {
        RewindTo::Offset(offset) => format!("source offset {offset}"),
        RewindTo::Time(at_ms) => crate::lag::moment(u64::try_from(at_ms).unwrap_or(0)),
    };
    let words = |rewound: &Rewound| {
        format!(
            "done; streams begun anew: {}, left as they are: {}; {} offsets are read and sent again, and what of them the region holds it then has twice",
            rewound.rewound, rewound.left, rewound.offsets
        )
    };
    let rewound = noted(admin, who, at, done, (&format!("rewind to {to}"), words))?;
    Ok((StatusCode::ACCEPTED, Json(rewound)).into_response())
}

pub(super) async fn rewind_region(
    State(admin): State<Admin>,
    who: Who,
    Path(region): Path<String>,
    to: Result<Query<RewindWanted>, QueryRejection>,
) -> Answer {
    let to = rewind_to(to)?;
    rewind(&admin, &who, &region, Rewind { topic: None, partition: None, to }).await
}

pub(super) async fn rewind_topic(
    State(admin): State<Admin>,
    who: Who,
    Path((region, topic)): Path<(String, String)>,
    to: Result<Query<RewindWanted>, QueryRejection>,
) -> Answer {
    let to = rewind_to(to)?;
    rewind(&admin, &who, &region, Rewind { topic: Some(Arc::from(topic)), partition: None, to }).await
}

pub(super) async fn rewind_partition(
    State(admin): State<Admin>,
    who: Who,
    path: Result<Path<(String, String, i32)>, PathRejection>,
    to: Result<Query<RewindWanted>, QueryRejection>,
) -> Answer {
    let Path((region, topic, partition)) = path.map_err(|rejected| wrong(rejected.body_text()))?;
    let to = rewind_to(to)?;
    rewind(&admin, &who, &region, Rewind { topic: Some(Arc::from(topic)), partition: Some(partition), to }).await
}

/// Which batch is stepped over.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SkipWhat {
    offset: i64,
}

/// A batch that was stepped over.
#[derive(Debug, Serialize)]
struct Skipped {
    region: String,
    topic: String,
    partition: i32,
    offset: i64,
    next_offset: i64,
    skipped_records: u64,
}

pub(super) async fn skip(
    State(admin): State<Admin>,
    who: Who,
    path: Result<Path<(String, String, i32)>, PathRejection>,
    what: Result<Query<SkipWhat>, QueryRejection>,
) -> Answer {
    let Path((region, topic, partition)) = path.map_err(|rejected| wrong(rejected.body_text()))?;
    let SkipWhat { offset } = asked(what, "?offset={source offset}")?;
    let key = (Arc::from(topic.as_str()), partition);
    let done = admin.state.commands.skip(region.clone(), key, offset).await;
    let at = Place { region: Some(&region), topic: Some(&topic), partition: Some(partition) };
    let command = format!("skip of the batch at source offset {offset}");
    let words = |skipped: &Obstacle| format!("done, {} records", skipped.records);
    let Obstacle { offset, next_offset, records } = noted(&admin, &who, at, done, (&command, words))?;
    Ok(Json(Skipped { region, topic, partition, offset, next_offset, skipped_records: records }).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_people_or_as_kafka_write_it() {
        assert_eq!(at_ms("2026-11-27T02:00:00Z"), Some(1_795_744_800_000));
        assert_eq!(at_ms("2026-11-27 02:00:00"), Some(1_795_744_800_000));
        assert_eq!(at_ms("1795744800000"), Some(1_795_744_800_000));
        for wrong in ["", "yesterday", "-5", "2026-13-01T00:00:00Z", "1969-01-01T00:00:00Z", "99999999999999999999"] {
            assert_eq!(at_ms(wrong), None, "{wrong}");
        }
    }
}
