//! What systemd is told, where it started this process and asked for it (`Type=notify`, `WatchdogSec=`).
//!
//! # References
//! sd_notify(3), <https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>

use std::sync::Arc;
use std::time::Duration;

use sd_notify::{NotifyState, notify, watchdog_enabled};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::Readiness;

/// How often readiness is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// Tells systemd when clients can be served, what is waited for until then, that this process lives, and when it stops. Ends with the stop; at once where
/// nobody asked to be told.
///
/// The watchdog is fed from the runtime that serves the clients: one that hangs is killed and started again. A region that hangs is no reason for that.
pub async fn tell(readiness: Arc<dyn Fn() -> Readiness + Send + Sync>, mut stop: watch::Receiver<bool>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // Twice in its time, as its manual page advises.
    let feed_every = watchdog_enabled().map(|within| (within / 2).max(Duration::from_millis(1)));
    let mut looks = interval(feed_every.map_or(LOOK, |every| every.min(LOOK)));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        if feed_every.is_some() {
            say(&[NotifyState::Watchdog]);
        }
        let now = readiness();
        if last.as_ref() == Some(&now) {
            continue;
        }
        if now.ready {
            say(&[NotifyState::Ready, NotifyState::Status("clients are served")]);
        } else {
            let waiting = format!("waiting for {}", now.waiting_for.join(", "));
            say(&[NotifyState::Status(&waiting)]);
        }
        last = Some(now);
    }
    say(&[NotifyState::Stopping, NotifyState::Status("stopping: what is under way may finish")]);
}

fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = notify(states) {
        tracing::debug!(%error, "systemd can't be told");
    }
}
