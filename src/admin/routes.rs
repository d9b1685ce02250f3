//! The admin port's routes. Answers are JSON; errors have an `error_code` and a `message`, as Kafka Connect's do.
//! `openapi.json` describes them; a test holds it against [`routes`].

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::Router;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::answer::{Answer, Refusal, error, unknown, wrong};
use super::guard::guarded;
use super::live::{STREAMS_MAX, live};
use super::monitor::Monitor;
use super::server::{BODY_BYTES_MAX, REQUEST_TIME_MAX};
use super::summary::{RegionSummary, Status, Summary};
use super::topics::{ROWS_MAX, Wanted, worst_streams};
use super::{AdminState, commands, metrics, page, process};
use crate::journal::{EVENTS_MAX, Event, now_ms};
use crate::lag::{RegionLag, TopicLag};

/// OpenMetrics 1.0, which Prometheus asks for and accepts.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What the routes are, for machines and for people.
pub(super) const OPENAPI: &str = include_str!("openapi.json");

/// What the routes work with.
#[derive(Clone)]
pub(super) struct Admin {
    pub state: AdminState,
    pub monitor: Arc<Monitor>,
    /// Places for pages that are told what happens.
    pub streams: Arc<Semaphore>,
    /// True once the port closes.
    pub closing: watch::Receiver<bool>,
}

impl Admin {
    pub fn new(state: AdminState, monitor: Arc<Monitor>, closing: watch::Receiver<bool>) -> Self {
        Self { state, monitor, streams: Arc::new(Semaphore::new(STREAMS_MAX)), closing }
    }

    /// The lag now, with rates.
    async fn lag(&self) -> Vec<RegionLag> {
        let mut regions = self.state.lag.lag().await;
        self.monitor.fill(&mut regions);
        regions
    }

    async fn region(&self, name: &str) -> Result<RegionLag, Refusal> {
        let mut regions = self.lag().await;
        match regions.iter().position(|region| region.region == name) {
            Some(at) => Ok(regions.swap_remove(at)),
            None => Err(unknown(
                &format!("region {name:?}"),
                "regions",
                regions.iter().map(|region| region.region.as_str()),
            )),
        }
    }

    async fn topic(&self, region: &str, name: &str) -> Result<TopicLag, Refusal> {
        let mut region = self.region(region).await?;
        match region.topics.iter().position(|topic| topic.topic == name) {
            Some(at) => Ok(region.topics.swap_remove(at)),
            None => Err(unknown(
                &format!("topic {name:?} on its way to region {:?}", region.region),
                "topics",
                region.topics.iter().map(|topic| topic.topic.as_str()),
            )),
        }
    }
}

/// Every route: its path, its methods as the OpenAPI document writes them, and who answers.
pub(super) fn routes() -> Vec<(&'static str, &'static str, MethodRouter<Admin>)> {
    vec![
        ("/", "get", page::page()),
        ("/page/{file}", "get", page::file()),
        ("/openapi.json", "get", get(openapi)),
        ("/status", "get", get(status)),
        ("/lag", "get", get(lag)),
        ("/lag/{region}", "get", get(region_lag)),
        ("/lag/{region}/{topic}", "get", get(topic_lag)),
        ("/regions", "get", get(regions)),
        ("/regions/{region}/history", "get", get(history)),
        ("/regions/{region}/topics", "get", get(topics)),
        ("/regions/{region}/topics/{topic}", "get", get(partitions)),
        ("/regions/{region}/topics/{topic}/partitions/{partition}/skip", "post", post(commands::skip)),
        ("/regions/{region}/topics/{topic}/partitions/{partition}/rewind", "post", post(commands::rewind_partition)),
        ("/regions/{region}/topics/{topic}/pause", "post", post(commands::pause_topic)),
        ("/regions/{region}/topics/{topic}/resume", "post", post(commands::resume_topic)),
        ("/regions/{region}/topics/{topic}/rewind", "post", post(commands::rewind_topic)),
        ("/regions/{region}/pause", "post", post(commands::pause_region)),
        ("/regions/{region}/resume", "post", post(commands::resume_region)),
        ("/regions/{region}/throttle", "post", post(commands::throttle)),
        ("/regions/{region}/rewind", "post", post(commands::rewind_region)),
        ("/brokers", "get", get(brokers)),
        ("/config", "get", get(config)),
        ("/history", "get", get(process::history)),
        ("/reload", "post", post(process::reload)),
        ("/log", "get", get(process::log)),
        ("/log", "post", post(process::set_log)),
        ("/clients", "get", get(process::clients)),
        ("/events", "get", get(events)),
        ("/stream", "get", get(live)),
        ("/metrics", "get", get(scrape)),
        ("/live", "get", get(alive)),
        ("/ready", "get", get(ready)),
    ]
}

pub(super) fn router(admin: Admin) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, _, methods)| router.route(path, methods))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(admin.state.guard.clone(), guarded))
        .layer(middleware::from_fn(in_time))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(admin)
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

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

/// Which part of `/status` is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StatusWanted {
    worst: usize,
}

impl Default for StatusWanted {
    fn default() -> Self {
        Self { worst: 10 }
    }
}

async fn status(State(admin): State<Admin>, wanted: Result<Query<StatusWanted>, QueryRejection>) -> Answer {
    let StatusWanted { worst } = asked(wanted, "?worst={streams}")?;
    let regions = admin.state.lag.lag().await;
    // Seen as the page sees it: a stall that is tried again stays one.
    admin.monitor.look(&regions, Instant::now(), now_ms());
    let AdminState { ready, journal, version, .. } = &admin.state;
    let summary = Summary::new(&admin.monitor.seen(), &ready(), journal.last_number(), version);
    Ok(Json(Status { summary, worst: worst_streams(&regions, worst.min(ROWS_MAX)) }).into_response())
}

/// What `/lag` answers.
#[derive(Debug, Serialize)]
struct Lag {
    regions: Vec<RegionLag>,
}

async fn lag(State(admin): State<Admin>) -> Response {
    let regions = admin.lag().await;
    aside(move || Json(Lag { regions }).into_response()).await
}

async fn region_lag(State(admin): State<Admin>, Path(region): Path<String>) -> Answer {
    let region = admin.region(&region).await?;
    Ok(aside(move || Json(region).into_response()).await)
}

async fn topic_lag(State(admin): State<Admin>, Path((region, topic)): Path<(String, String)>) -> Answer {
    Ok(Json(admin.topic(&region, &topic).await?).into_response())
}

/// What `/regions` answers.
#[derive(Debug, Serialize)]
struct Regions {
    regions: Vec<RegionSummary>,
}

async fn regions(State(admin): State<Admin>) -> Json<Regions> {
    let summary = |lag: &RegionLag| RegionSummary {
        state_since_ms: admin.monitor.since_ms(&lag.region, lag.state),
        ..RegionSummary::of(lag)
    };
    Json(Regions { regions: admin.lag().await.iter().map(summary).collect() })
}

async fn history(State(admin): State<Admin>, Path(region): Path<String>) -> Answer {
    // Nothing was seen of a region that was never asked: an empty hour. One that is not there is an error.
    match admin.monitor.history(&region) {
        Some(history) => Ok(Json(history).into_response()),
        None => admin.region(&region).await.map(|_| Json(super::monitor::History::default()).into_response()),
    }
}

/// A query that can't be read, with what can be asked.
pub(super) fn asked<T>(query: Result<Query<T>, QueryRejection>, what: &str) -> Result<T, Refusal> {
    query.map(|Query(query)| query).map_err(|rejected| wrong(format!("{}: {what}", rejected.body_text())))
}

const TOPICS_QUERY: &str =
    "?search={part of a name, or a state}&sort=worst|name|lag_records|lag_seconds|rate&reverse=true|false&limit={rows}";

async fn topics(
    State(admin): State<Admin>,
    Path(region): Path<String>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    let wanted = asked(wanted, TOPICS_QUERY)?;
    Ok(Json(wanted.topics(&admin.region(&region).await?.topics)).into_response())
}

async fn partitions(
    State(admin): State<Admin>,
    Path((region, topic)): Path<(String, String)>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    let wanted = asked(wanted, TOPICS_QUERY)?;
    Ok(Json(wanted.partitions(admin.topic(&region, &topic).await?)).into_response())
}

async fn brokers(State(admin): State<Admin>) -> Json<serde_json::Value> {
    let mut clusters = (admin.state.clusters)();
    admin.monitor.fill_clusters(&mut clusters);
    Json(serde_json::json!({ "clusters": clusters }))
}

async fn config(State(admin): State<Admin>) -> Json<serde_json::Value> {
    Json(admin.state.process.config())
}

/// Which events are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EventsWanted {
    after: u64,
    limit: usize,
    region: Option<String>,
}

impl Default for EventsWanted {
    fn default() -> Self {
        Self { after: 0, limit: EVENTS_MAX, region: None }
    }
}

/// What `/events` answers: the newest first.
#[derive(Debug, Serialize)]
struct Events {
    events: Vec<Event>,
}

async fn events(State(admin): State<Admin>, wanted: Result<Query<EventsWanted>, QueryRejection>) -> Answer {
    let EventsWanted { after, limit, region } = asked(wanted, "?after={number}&limit={count}&region={name}")?;
    let mut events = admin.state.journal.recent(after, EVENTS_MAX);
    if region.is_some() {
        events.retain(|event| event.region == region);
    }
    events.truncate(limit);
    Ok(Json(Events { events }).into_response())
}

async fn scrape(State(admin): State<Admin>) -> Response {
    let regions = admin.lag().await;
    aside(move || {
        let state = &admin.state;
        let shown = metrics::Shown {
            regions: &regions,
            clusters: &(state.clusters)(),
            version: state.version,
            commit: state.commit,
            partitions: state.process.partition_metrics(),
        };
        match metrics::text(&state.registry, &shown) {
            Ok(text) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
            Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written as text"),
        }
    })
    .await
}

/// Writes an answer that may have a line for each of ten thousand partitions, on a thread that no client waits for.
async fn aside(write: impl FnOnce() -> Response + Send + 'static) -> Response {
    let written = tokio::task::spawn_blocking(write).await;
    written.unwrap_or_else(|_| error(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written"))
}

async fn alive() -> &'static str {
    "alive\n"
}

async fn ready(State(admin): State<Admin>) -> Response {
    let readiness = (admin.state.ready)();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn not_found(uri: Uri) -> Response {
    error(StatusCode::NOT_FOUND, format!("there is no {}; GET /openapi.json lists what there is", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let message = format!("{method} does nothing at {}; GET /openapi.json lists what there is", uri.path());
    error(StatusCode::METHOD_NOT_ALLOWED, message)
}
