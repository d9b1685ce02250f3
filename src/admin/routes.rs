//! The admin port's routes. Answers are JSON; errors have an `error_code` and a `message`, as Kafka Connect's do.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::server::{BODY_BYTES_MAX, REQUEST_TIME_MAX};
use super::{AdminState, metrics};
use crate::lag::{RegionLag, TopicLag};
use crate::mirror::SkipError;
use crate::mirror::stream::Obstacle;

/// What `/` shows.
const ROUTES: &str = "\
GET /lag                   how far behind each region is, by topic and partition
GET /lag/{region}          one region
GET /lag/{region}/{topic}  one topic on its way to a region, by its name in the local cluster
POST /regions/{region}/topics/{topic}/partitions/{partition}/skip?offset={offset}
                           steps over the batch at this source offset, if it is the one that stalls the stream
GET /metrics               all metrics, as OpenMetrics text
GET /live                  200 while the process works
GET /ready                 200 once clients can be served; 503 with the reason before that
";

/// OpenMetrics 1.0, which Prometheus asks for and accepts.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What `/lag` answers.
#[derive(Debug, Serialize)]
struct Regions {
    regions: Vec<RegionLag>,
}

/// An error as the admin port tells it.
#[derive(Debug, Serialize)]
struct ErrorBody {
    error_code: u16,
    message: String,
}

fn error(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(ErrorBody { error_code: status.as_u16(), message: message.into() })).into_response()
}

pub(super) fn router(state: AdminState) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/lag", get(lag))
        .route("/lag/{region}", get(region_lag))
        .route("/lag/{region}/{topic}", get(topic_lag))
        .route("/regions/{region}/topics/{topic}/partitions/{partition}/skip", post(skip))
        .route("/metrics", get(scrape))
        .route("/live", get(live))
        .route("/ready", get(ready))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(in_time))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(state)
}

/// Answers 503 for a route that takes too long: the rest of the process is in trouble, and the asker should know now.
async fn in_time(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    match timeout(REQUEST_TIME_MAX, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let seconds = REQUEST_TIME_MAX.as_secs();
            error(StatusCode::SERVICE_UNAVAILABLE, format!("{path} could not be answered within {seconds} s"))
        }
    }
}

async fn index(State(state): State<AdminState>) -> String {
    format!("diffluent {}\n\n{ROUTES}", state.version)
}

async fn lag(State(state): State<AdminState>) -> Json<Regions> {
    Json(Regions { regions: state.lag.lag().await })
}

async fn region_lag(State(state): State<AdminState>, Path(region): Path<String>) -> Response {
    match find_region(state.lag.lag().await, &region) {
        Ok(found) => Json(found).into_response(),
        Err(response) => *response,
    }
}

async fn topic_lag(State(state): State<AdminState>, Path((region, topic)): Path<(String, String)>) -> Response {
    let found = find_region(state.lag.lag().await, &region).and_then(|found| find_topic(found, &topic));
    match found {
        Ok(found) => Json(found).into_response(),
        Err(response) => *response,
    }
}

fn find_region(regions: Vec<RegionLag>, name: &str) -> Result<RegionLag, Box<Response>> {
    let known: Vec<String> = regions.iter().map(|region| region.region.clone()).collect();
    let found = regions.into_iter().find(|region| region.region == name);
    found.ok_or_else(|| Box::new(unknown(&format!("region {name:?}"), "regions", &known)))
}

fn find_topic(region: RegionLag, name: &str) -> Result<TopicLag, Box<Response>> {
    let known: Vec<String> = region.topics.iter().map(|topic| topic.topic.clone()).collect();
    let found = region.topics.into_iter().find(|topic| topic.topic == name);
    let what = format!("topic {name:?} on its way to region {:?}", region.region);
    found.ok_or_else(|| Box::new(unknown(&what, "topics", &known)))
}

/// Which batch is stepped over.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SkipWhat {
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

async fn skip(
    State(state): State<AdminState>,
    path: Result<Path<(String, String, i32)>, PathRejection>,
    what: Result<Query<SkipWhat>, QueryRejection>,
) -> Response {
    let Path((region, topic, partition)) = match path {
        Ok(path) => path,
        Err(rejected) => return error(StatusCode::BAD_REQUEST, rejected.body_text()),
    };
    let Query(SkipWhat { offset }) = match what {
        Ok(what) => what,
        Err(rejected) => {
            return error(StatusCode::BAD_REQUEST, format!("{}: ?offset={{source offset}}", rejected.body_text()));
        }
    };
    let key = (Arc::from(topic.as_str()), partition);
    match state.commands.skip(region.clone(), key, offset).await {
        Ok(Obstacle { offset, next_offset, records }) => {
            Json(Skipped { region, topic, partition, offset, next_offset, skipped_records: records }).into_response()
        }
        Err(refused) => {
            let status = match refused {
                SkipError::Unknown(_) => StatusCode::NOT_FOUND,
                SkipError::Refused(_) => StatusCode::CONFLICT,
                SkipError::Silent => StatusCode::SERVICE_UNAVAILABLE,
            };
            error(status, refused.to_string())
        }
    }
}

/// The most names that an error lists.
const NAMES_MAX: usize = 100;

fn unknown(what: &str, kind: &str, known: &[String]) -> Response {
    let message = if known.is_empty() {
        format!("there is no {what}: there are no {kind} yet")
    } else {
        let more = known.len().saturating_sub(NAMES_MAX);
        let shown: Vec<&str> = known.iter().take(NAMES_MAX).map(String::as_str).collect();
        let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("there is no {what}; known {kind}: {}{rest}", shown.join(", "))
    };
    error(StatusCode::NOT_FOUND, message)
}

async fn scrape(State(state): State<AdminState>) -> Response {
    let regions = state.lag.lag().await;
    match metrics::text(&state.registry, &regions, state.version) {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written as text"),
    }
}

async fn live() -> &'static str {
    "alive\n"
}

async fn ready(State(state): State<AdminState>) -> Response {
    let readiness = (state.ready)();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn not_found(uri: Uri) -> Response {
    error(StatusCode::NOT_FOUND, format!("there is no {}; GET / lists what there is", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    error(StatusCode::METHOD_NOT_ALLOWED, format!("{method} does nothing at {}; GET / lists what there is", uri.path()))
}
