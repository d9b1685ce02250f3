//! Who the clients are and how much they move: noted by each session as bytes pass, added up when somebody asks.
//!
//! A client names itself twice: with a client id in every request, and with its software in ApiVersions (KIP-511). Both are taken from the first request that
//! lies whole in one chunk, which first requests do; nothing waits for them. Rates are averages of about the last ten seconds, taken once a second.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::wire::header::{Named, RequestHeader, named};
use crate::wire::versions::{API_VERSIONS, PRODUCE};

/// The longest name of a client that is kept, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// Looks, one a second, that a rate is the average of.
const LOOKS: u32 = 10;

/// One session's part.
#[derive(Debug, Default)]
pub(super) struct ClientFacts {
    client_id: OnceLock<String>,
    software: OnceLock<(String, String)>,
    requests: AtomicU64,
    produced_bytes: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

/// What a session has moved so far.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    requests: u64,
    produced_bytes: u64,
    received_bytes: u64,
    sent_bytes: u64,
}

impl ClientFacts {
    /// A request begins: `frame` is what of it lies in this chunk, behind its length, `frame_bytes` how long it is.
    pub fn request(&self, header: RequestHeader, frame: &[u8], frame_bytes: usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if header.api_key == PRODUCE {
            self.produced_bytes.fetch_add(frame_bytes as u64, Ordering::Relaxed);
        }
        let tells = header.api_key == API_VERSIONS && self.software.get().is_none();
        if !tells && self.client_id.get().is_some() {
            return;
        }
        let frame = frame.get(..frame_bytes.min(frame.len())).unwrap_or_default();
        // One that is not whole, or makes no sense: the next one may tell.
        let Ok(Named { client_id, software }) = named(header, frame) else { return };
        if let Some(client_id) = client_id {
            let _ = self.client_id.set(text(client_id));
        }
        if let Some((name, version)) = software {
            let _ = self.software.set((text(name), text(version)));
        }
    }

    /// Bytes of the client have come.
    pub fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes went to the client.
    pub fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn totals(&self) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            requests: read(&self.requests),
            produced_bytes: read(&self.produced_bytes),
            received_bytes: read(&self.received_bytes),
            sent_bytes: read(&self.sent_bytes),
        }
    }
}

/// A client's word as text, cut to [`NAME_BYTES_MAX`].
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.get(..NAME_BYTES_MAX).unwrap_or(bytes)).into_owned()
}

/// How fast a session moves bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    last: Totals,
    looks: u32,
    rates: ClientRates,
}

impl Pace {
    /// Another second has passed.
    pub fn look(&mut self, facts: &ClientFacts) {
        let now = facts.totals();
        self.looks = (self.looks + 1).min(LOOKS);
        let part = 1.0 / f64::from(self.looks);
        let average = |rate: &mut f64, now: u64, last: u64| *rate += (now.saturating_sub(last) as f64 - *rate) * part;
        let (rates, last) = (&mut self.rates, self.last);
        average(&mut rates.requests_per_second, now.requests, last.requests);
        average(&mut rates.produced_bytes_per_second, now.produced_bytes, last.produced_bytes);
        average(&mut rates.received_bytes_per_second, now.received_bytes, last.received_bytes);
        average(&mut rates.sent_bytes_per_second, now.sent_bytes, last.sent_bytes);
        self.last = now;
    }
}

/// How fast clients move bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct ClientRates {
    /// Requests per second.
    pub requests_per_second: f64,
    /// Bytes per second of Produce requests.
    pub produced_bytes_per_second: f64,
    /// Bytes per second from the client, all requests together.
    pub received_bytes_per_second: f64,
    /// Bytes per second to the client.
    pub sent_bytes_per_second: f64,
}

/// The open connections of one client: those from one address with one client id and one software.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClientView {
    /// Where they come from.
    pub address: IpAddr,
    /// What the client calls itself; none: it has not said.
    pub client_id: Option<String>,
    /// Its software, where it has said.
    pub software_name: Option<String>,
    /// The software's version.
    pub software_version: Option<String>,
    /// Open connections.
    pub connections: usize,
    /// Since when the oldest of them is open, in milliseconds since 1970.
    pub since_ms: u64,
    /// Bytes of Produce requests that came over these connections.
    pub produced_bytes: u64,
    /// How fast.
    pub rates: ClientRates,
}

/// What a session adds to a [`ClientView`].
pub(super) struct Session<'a> {
    pub peer: SocketAddr,
    pub since_ms: u64,
    pub facts: &'a ClientFacts,
    pub pace: &'a Pace,
}

/// All clients, those that produce most first.
pub(super) fn clients<'a>(sessions: impl Iterator<Item = Session<'a>>) -> Vec<ClientView> {
    let mut clients: BTreeMap<_, ClientView> = BTreeMap::new();
    for Session { peer, since_ms, facts, pace } in sessions {
        let address = peer.ip().to_canonical();
        let (client_id, software) = (facts.client_id.get(), facts.software.get());
        let client = clients.entry((address, client_id, software)).or_insert_with(|| ClientView {
            address,
            client_id: client_id.cloned(),
            software_name: software.map(|(name, _)| name.clone()),
            software_version: software.map(|(_, version)| version.clone()),
            connections: 0,
            since_ms,
            produced_bytes: 0,
            rates: ClientRates::default(),
        });
        client.connections += 1;
        client.since_ms = client.since_ms.min(since_ms);
        client.produced_bytes += facts.totals().produced_bytes;
        client.rates.requests_per_second += pace.rates.requests_per_second;
        client.rates.produced_bytes_per_second += pace.rates.produced_bytes_per_second;
        client.rates.received_bytes_per_second += pace.rates.received_bytes_per_second;
        client.rates.sent_bytes_per_second += pace.rates.sent_bytes_per_second;
    }
    let mut clients: Vec<ClientView> = clients.into_values().collect();
    let weight = |client: &ClientView| (client.rates.produced_bytes_per_second, client.rates.received_bytes_per_second);
    // Stable: of those that are alike, by address and name.
    clients.sort_by(|a, b| {
        let ((a_produced, a_received), (b_produced, b_received)) = (weight(a), weight(b));
        b_produced.total_cmp(&a_produced).then(b_received.total_cmp(&a_received))
    });
    clients
}

#[cfg(test)]
mod tests {
    use super::*;

    fn produce(facts: &ClientFacts, client_id: &str, bytes: usize) {
        let header = RequestHeader { api_key: PRODUCE, version: 9, correlation_id: 1 };
        let mut frame = vec![0, 0, 0, 9, 0, 0, 0, 1, 0, client_id.len() as u8];
        frame.extend_from_slice(client_id.as_bytes());
        frame.push(0);
        facts.request(header, &frame, bytes);
    }

    #[test]
    fn connections_of_one_client_are_one_row_and_who_produces_most_is_first() {
        let facts: Vec<ClientFacts> = (0..4).map(|_| ClientFacts::default()).collect();
        let mut paces = [Pace::default(); 4];
        for _ in 0..5 {
            for (at, client_id) in ["app", "app", "big", ""].iter().enumerate() {
                let bytes = if at == 2 { 50_000 } else { 1_000 };
                if at < 3 {
                    produce(&facts[at], client_id, bytes);
                    facts[at].received(bytes);
                }
                paces[at].look(&facts[at]);
            }
        }
        let peers = [[10, 0, 0, 1], [10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3]].map(|ip| SocketAddr::from((ip, 5000)));
        let sessions = (0..4_usize).map(|at| Session {
            peer: peers[at],
            since_ms: 1000 + at as u64,
            facts: &facts[at],
            pace: &paces[at],
        });
        let rows = clients(sessions);
        let told: Vec<(Option<&str>, usize, u64)> =
            rows.iter().map(|row| (row.client_id.as_deref(), row.connections, row.produced_bytes)).collect();
        assert_eq!(told, [(Some("big"), 1, 250_000), (Some("app"), 2, 10_000), (None, 1, 0)]);
        assert_eq!((rows[1].since_ms, rows[1].rates.produced_bytes_per_second), (1000, 2_000.0));
        assert_eq!(rows[0].rates.requests_per_second, 1.0);
    }

    #[test]
    fn a_rate_forgets_in_about_ten_seconds() {
        let (facts, mut pace) = (ClientFacts::default(), Pace::default());
        facts.received(10_000);
        pace.look(&facts);
        assert_eq!(pace.rates.received_bytes_per_second, 10_000.0);
        (0..40).for_each(|_| pace.look(&facts));
        assert!(pace.rates.received_bytes_per_second < 200.0, "{:?}", pace.rates);
    }

    #[test]
    fn a_long_name_is_cut() {
        let facts = ClientFacts::default();
        produce(&facts, &"x".repeat(250), 300);
        assert_eq!(facts.client_id.get().map(String::len), Some(NAME_BYTES_MAX));
    }
}
