//! How the admin port says no. Errors have an `error_code` and a `message`, as Kafka Connect's do.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// The most names that an error lists.
const NAMES_MAX: usize = 100;

/// An error as the admin port tells it.
#[derive(Debug, Serialize)]
struct ErrorBody {
    error_code: u16,
    message: String,
}

/// What a handler gives: an answer, or an error that is one too.
pub(super) type Answer = Result<Response, Refusal>;

/// An answer that says no; in a box, because answers are large and errors travel.
#[derive(Debug)]
pub(super) struct Refusal(Box<Response>);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
}

impl From<Response> for Refusal {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

pub(super) fn error(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(ErrorBody { error_code: status.as_u16(), message: message.into() })).into_response()
}

/// 400.
pub(super) fn wrong(message: impl Into<String>) -> Refusal {
    error(StatusCode::BAD_REQUEST, message).into()
}

/// 404 with the names that there are.
pub(super) fn unknown<'a>(what: &str, kind: &str, known: impl ExactSizeIterator<Item = &'a str>) -> Refusal {
    let count = known.len();
    let message = if count == 0 {
        format!("there is no {what}: there are no {kind} yet")
    } else {
        let shown: Vec<&str> = known.take(NAMES_MAX).collect();
        let more = count - shown.len();
        let rest = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("there is no {what}; known {kind}: {}{rest}", shown.join(", "))
    };
    error(StatusCode::NOT_FOUND, message).into()
}
