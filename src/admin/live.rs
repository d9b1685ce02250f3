//! `/stream`: server-sent events, one summary a look, for the page.
//!
//! # References
//! Server-sent events, <https://html.spec.whatwg.org/multipage/server-sent-events.html>

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::sleep;

use super::answer::error;
use super::monitor::Seen;
use super::routes::Admin;
use super::summary::Summary;

/// Pages that are told at a time: each holds a connection, and connections are few.
pub(super) const STREAMS_MAX: usize = 16;

/// A page hears something at least this often.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// How soon a page whose connection has ended comes back.
const RETRY: Duration = Duration::from_secs(1);

struct Live {
    admin: Admin,
    seen: watch::Receiver<Arc<Seen>>,
    _slot: OwnedSemaphorePermit,
}

/// Ends when the admin port does.
pub(super) async fn live(State(admin): State<Admin>) -> Response {
    let Ok(slot) = Arc::clone(&admin.streams).try_acquire_owned() else {
        let message = format!("{STREAMS_MAX} pages are open already, and more are not told; close one");
        return error(StatusCode::SERVICE_UNAVAILABLE, message);
    };
    let mut seen = admin.monitor.watch();
    // Told at once what was seen last, if anything was.
    if seen.borrow().at_ms > 0 {
        seen.mark_changed();
    }
    let live = Live { admin, seen, _slot: slot };
    let events = stream::unfold(live, |mut live| async move {
        let mut ended = live.admin.closing.clone();
        tokio::select! {
            changed = live.seen.changed() => changed.ok()?,
            // The mirror takes its time, the connection is well: the page must be able to tell one from the other.
            () = sleep(SILENCE_MAX) => {}
            _ = ended.wait_for(|closing| *closing) => return None,
        }
        let seen = live.seen.borrow_and_update().clone();
        let Admin { state, .. } = &live.admin;
        let summary = Summary::new(&seen, &(state.ready)(), state.journal.last_number(), state.version);
        let event = Event::default().event("summary").retry(RETRY).json_data(summary).ok()?;
        Some((Ok::<_, Infallible>(event), live))
    });
    Sse::new(events).into_response()
}
