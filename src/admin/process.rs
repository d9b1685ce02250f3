//! The process as a whole: reading the configuration again, what was in effect, what is logged, who the clients are.

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::{Deserialize, Serialize};

use super::answer::{Answer, error, wrong};
use super::routes::{Admin, asked};
use super::who::Who;
use crate::journal::Place;
use crate::reload::ReloadError;
use crate::session::ClientView;

pub(super) async fn reload(State(admin): State<Admin>, who: Who) -> Answer {
    match admin.state.process.reload(who.0).await {
        Ok(reloaded) => Ok(Json(reloaded).into_response()),
        Err(refused) => {
            let status = match refused {
                ReloadError::Config(_) => StatusCode::BAD_REQUEST,
                ReloadError::NeedsRestart(_) | ReloadError::Misfit(_) => StatusCode::CONFLICT,
                ReloadError::NotServing => StatusCode::SERVICE_UNAVAILABLE,
                ReloadError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Err(error(status, refused.to_string()).into())
        }
    }
}

/// How many are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Few {
    limit: Option<usize>,
}

pub(super) async fn history(State(admin): State<Admin>, few: Result<Query<Few>, QueryRejection>) -> Answer {
    let Few { limit } = asked(few, "?limit={entries}")?;
    Ok(Json(admin.state.process.history(limit.unwrap_or(ENTRIES)).await).into_response())
}

/// Entries of `/history` unless asked otherwise.
const ENTRIES: usize = 20;
/// Rows of `/clients` unless asked otherwise.
const CLIENTS: usize = 100;
/// Rows of `/clients`, at most.
const CLIENTS_MAX: usize = 1000;

/// What `/clients` answers: `total` clients, of which these are the ones that produce most.
#[derive(Debug, Serialize)]
struct Clients {
    total: usize,
    connections: usize,
    clients: Vec<ClientView>,
}

pub(super) async fn clients(State(admin): State<Admin>, few: Result<Query<Few>, QueryRejection>) -> Answer {
    let Few { limit } = asked(few, "?limit={rows}")?;
    let mut clients = admin.state.process.clients();
    let total = clients.len();
    let connections = clients.iter().map(|client| client.connections).sum();
    clients.truncate(limit.unwrap_or(CLIENTS).min(CLIENTS_MAX));
    Ok(Json(Clients { total, connections, clients }).into_response())
}

/// What is logged.
#[derive(Debug, Serialize)]
struct Log {
    filter: String,
}

pub(super) async fn log(State(admin): State<Admin>) -> Answer {
    Ok(Json(Log { filter: admin.state.process.log().text() }).into_response())
}

/// What shall be logged.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogWanted {
    filter: String,
}

pub(super) async fn set_log(
    State(admin): State<Admin>,
    Who(by): Who,
    wanted: Result<Query<LogWanted>, QueryRejection>,
) -> Answer {
    const QUERY: &str = "?filter={such as info,diffluent::session=debug}";
    let LogWanted { filter } = asked(wanted, QUERY)?;
    let log = admin.state.process.log();
    let before = log.text();
    log.set(&filter).map_err(|what| wrong(format!("filter {filter:?}: {what}; {QUERY}")))?;
    let message = format!("log: done, {filter:?} instead of {before:?}");
    tracing::info!(%by, "an operator asked for a {message}");
    admin.state.journal.command(&by, Place::default(), &message);
    Ok(Json(Log { filter }).into_response())
}
