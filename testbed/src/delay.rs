//! Delay lines: a distant network on loopback.
//!
//! A relay hands bytes on after half a round trip, in order, and at full speed: what is on its way is bounded in bytes
//! (bandwidth times delay has to fit), not in time. One line has any number of relays, one per broker, that share its round trip, its
//! bandwidth and its faults. It runs on a thread of its own, so that a busy test does not stretch the delay.
//!
//! What it can't imitate: a SYN that is never answered (connecting is always quick here, or refused). The round trip that
//! connecting costs is added to the first bytes instead.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Bytes on their way in one direction of one connection. 200 MB/s at 100 ms one way need 20 MB.
const IN_FLIGHT_BYTES_MAX: usize = 64 << 20;
/// Chunks on their way; only tiny ones reach this before the bytes do.
const IN_FLIGHT_CHUNKS_MAX: usize = 64 << 10;
const READ_BYTES: usize = 256 << 10;
/// With a bandwidth limit, chunks are cut to this size, so that it does not come in bursts.
const PACED_BYTES: usize = 16 << 10;

const _: () = assert!(READ_BYTES <= IN_FLIGHT_BYTES_MAX && IN_FLIGHT_BYTES_MAX <= u32::MAX as usize);

/// How far away a place is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DelaySpec {
    /// Round-trip time; half of it each way.
    pub rtt: Duration,
    /// Bytes per second in each direction, of all connections together; `None`: as fast as it goes.
    pub bandwidth: Option<u64>,
}

impl DelaySpec {
    /// A round trip of `rtt_ms` milliseconds, and no limit of bandwidth.
    pub fn rtt_ms(rtt_ms: u64) -> Self {
        Self { rtt: Duration::from_millis(rtt_ms), bandwidth: None }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Open,
    Cut,
    HalfOpen,
    Frozen,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    spec: DelaySpec,
    mode: Mode,
    /// Connections of an older generation end, with RST when `reset` says so.
    generation: u64,
    reset: bool,
}

#[derive(Debug)]
struct Shared {
    settings: watch::Sender<Settings>,
    /// Relays that listen, and connections that are open.
    listening: watch::Sender<usize>,
    connections: watch::Sender<usize>,
    /// When each direction's bandwidth is free again.
    free_at: [Mutex<Option<Instant>>; 2],
}

/// A line with its relays. Dropped, it takes all of them down.
#[derive(Debug)]
pub struct DelayLine {
    shared: Arc<Shared>,
    relays: Mutex<usize>,
    runtime: Option<tokio::runtime::Runtime>,
}

/// One relay's address.
#[derive(Clone, Copy, Debug)]
pub struct Relay {
    addr: SocketAddr,
}

impl Relay {
    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl DelayLine {
    /// A line without relays.
    ///
    /// # Errors
    /// When its thread can't be started.
    pub fn new(spec: DelaySpec) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("delay-line")
            .enable_all()
            .build()
            .context("cannot start the delay line's thread")?;
        let settings = Settings { spec, mode: Mode::Open, generation: 0, reset: false };
        let shared = Arc::new(Shared {
            settings: watch::Sender::new(settings),
            listening: watch::Sender::new(0),
            connections: watch::Sender::new(0),
            free_at: [Mutex::new(None), Mutex::new(None)],
        });
        Ok(Self { shared, relays: Mutex::new(0), runtime: Some(runtime) })
    }

    /// Listens on 127.0.0.1 at `port` (0: any) and relays every connection to `target` (`host:port`), which need not be there yet.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn relay(&self, port: u16, target: &str) -> Result<Relay> {
        let runtime = self.runtime.as_ref().context("the delay line is gone")?;
        let listener =
            runtime.spawn(TcpListener::bind(("127.0.0.1", port))).await.context("the delay line panicked")?;
        let listener = listener.with_context(|| format!("the delay line cannot listen on port {port}"))?;
        let addr = listener.local_addr().context("a listener without an address")?;
        runtime.spawn(relay(listener, addr, target.to_owned(), Arc::clone(&self.shared)));
        if let Ok(mut relays) = self.relays.lock() {
            *relays += 1;
        }
        Ok(Relay { addr })
    }

    /// Changes the round-trip time. Bytes that are under way keep theirs; order is kept.
    pub fn set_rtt(&self, rtt: Duration) {
        self.shared.settings.send_modify(|settings| settings.spec.rtt = rtt);
    }

    /// Changes the bandwidth (bytes per second in each direction).
    pub fn set_bandwidth(&self, bandwidth: Option<u64>) {
        self.shared.settings.send_modify(|settings| settings.spec.bandwidth = bandwidth);
    }

    /// Closes all connections and refuses new ones, until [`DelayLine::restore`]. Returns when that has come to pass.
    pub async fn cut(&self) {
        self.change(Mode::Cut, Some(false));
        let _ = self.shared.listening.subscribe().wait_for(|&listening| listening == 0).await;
        let _ = self.shared.connections.subscribe().wait_for(|&connections| connections == 0).await;
    }

    /// Swallows everything silently, in both directions; connections stay open and new ones are taken, until
    /// [`DelayLine::restore`], which resets them: what was swallowed is lost, as behind a firewall that forgot them.
    pub fn half_open(&self) {
        self.change(Mode::HalfOpen, None);
    }

    /// Holds everything back, in both directions, until [`DelayLine::restore`] lets it flow on, with nothing lost.
    pub fn freeze(&self) {
        self.change(Mode::Frozen, None);
    }

    /// Resets all connections (RST) at once. New ones are taken.
    pub fn reset(&self) {
        let mode = self.shared.settings.borrow().mode;
        self.change(mode, Some(true));
    }

    /// Ends every fault. Returns when all relays listen again.
    pub async fn restore(&self) {
        let mode = self.shared.settings.borrow().mode;
        self.change(Mode::Open, (mode == Mode::HalfOpen).then_some(true));
        let relays = self.relays.lock().map_or(0, |relays| *relays);
        let _ = self.shared.listening.subscribe().wait_for(|&listening| listening >= relays).await;
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    /// `end`: whether connections end, and if by reset.
    fn change(&self, mode: Mode, end: Option<bool>) {
        self.shared.settings.send_modify(|settings| {
            settings.mode = mode;
            if let Some(reset) = end {
                settings.generation += 1;
                settings.reset = reset;
            }
        });
    }
}

impl Drop for DelayLine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not waiting: this may run inside another runtime.
            runtime.shutdown_background();
        }
    }
}

/// Counts itself in a gauge for as long as it lives.
struct Counted<'a>(&'a watch::Sender<usize>);

impl<'a> Counted<'a> {
    fn new(gauge: &'a watch::Sender<usize>) -> Self {
        gauge.send_modify(|count| *count += 1);
        Self(gauge)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn relay(listener: TcpListener, addr: SocketAddr, target: String, shared: Arc<Shared>) {
    let mut listener = Some(listener);
    let mut settings = shared.settings.subscribe();
    loop {
        let listening = match listener.take() {
            Some(listener) => listener,
            // Bound anew after a cut; the port is claimed, so nobody else can be there for long.
            None => match TcpListener::bind(addr).await {
                Ok(listener) => listener,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        {
            let _counted = Counted::new(&shared.listening);
            loop {
                tokio::select! {
                    accepted = listening.accept() => if let Ok((client, _)) = accepted {
                        tokio::spawn(connection(client, target.clone(), Arc::clone(&shared)));
                    },
                    changed = settings.wait_for(|settings| settings.mode == Mode::Cut) => {
                        if changed.is_err() {
                            return;
                        }
                        break;
                    }
                }
            }
            drop(listening);
        }
        if settings.wait_for(|settings| settings.mode != Mode::Cut).await.is_err() {
            return;
        }
    }
}

async fn connection(mut client: TcpStream, target: String, shared: Arc<Shared>) {
    let _counted = Counted::new(&shared.connections);
    let born = *shared.settings.borrow();
    if born.mode == Mode::Cut {
        return;
    }
    let Ok(mut server) = TcpStream::connect(&target).await else {
        // The closest to a refused connection that is left, now that it has been accepted.
        let _ = client.set_zero_linger();
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let mut settings = shared.settings.subscribe();
    let ended = {
        let (mut client_read, mut client_write) = client.split();
        let (mut server_read, mut server_write) = server.split();
        // Connecting would have taken one round trip before the client could send its first byte.
        let connected = Instant::now() + born.spec.rtt;
        let there = direction(&mut client_read, &mut server_write, &shared, 0, connected + born.spec.rtt / 2);
        let back = direction(&mut server_read, &mut client_write, &shared, 1, connected);
        tokio::select! {
            done = async { tokio::try_join!(there, back) } => done.is_err(),
            changed = settings.wait_for(|settings| settings.generation != born.generation) => {
                changed.is_ok_and(|settings| settings.reset)
            }
        }
    };
    if ended {
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Carries one direction to its end, and the end too (half-close). An error ends both directions.
async fn direction<R, W>(from: &mut R, to: &mut W, shared: &Shared, way: usize, first: Instant) -> std::io::Result<()>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let (queue, queued) = mpsc::channel::<(Instant, Bytes)>(IN_FLIGHT_CHUNKS_MAX);
    let room = Semaphore::new(IN_FLIGHT_BYTES_MAX);
    let read = read_side(from, queue, &room, shared, first);
    let write = write_side(to, queued, &room, shared, way);
    tokio::try_join!(read, write).map(|_| ())
}

async fn read_side<R: tokio::io::AsyncRead + Unpin>(
    from: &mut R,
    queue: mpsc::Sender<(Instant, Bytes)>,
    room: &Semaphore,
    shared: &Shared,
    first: Instant,
) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        let read = from.read_buf(&mut buffer).await?;
        let (half, mode) = {
            let settings = shared.settings.borrow();
            (settings.spec.rtt / 2, settings.mode)
        };
        let chunk = buffer.split().freeze();
        if mode == Mode::HalfOpen {
            if read == 0 {
                // The end of the connection does not get through either.
                std::future::pending::<()>().await;
            }
            continue;
        }
        let due = (Instant::now() + half).max(first);
        // The permits come back when the chunk has been written. An empty chunk is the end.
        let Ok(permit) = room.acquire_many(u32::try_from(read).unwrap_or(u32::MAX)).await else { return Ok(()) };
        permit.forget();
        if queue.send((due, chunk)).await.is_err() || read == 0 {
            return Ok(());
        }
    }
}

async fn write_side<W: tokio::io::AsyncWrite + Unpin>(
    to: &mut W,
    mut queued: mpsc::Receiver<(Instant, Bytes)>,
    room: &Semaphore,
    shared: &Shared,
    way: usize,
) -> std::io::Result<()> {
    let mut settings = shared.settings.subscribe();
    while let Some((due, mut chunk)) = queued.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        let passing = settings.wait_for(|settings| settings.mode != Mode::Frozen).await.map(|settings| *settings);
        let Ok(passing) = passing else { return Ok(()) };
        room.add_permits(chunk.len());
        if passing.mode == Mode::HalfOpen {
            continue;
        }
        if chunk.is_empty() {
            return to.shutdown().await;
        }
        match passing.spec.bandwidth {
            None => to.write_all(&chunk).await?,
            Some(bandwidth) => {
                while !chunk.is_empty() {
                    let piece = chunk.split_to(PACED_BYTES.min(chunk.len()));
                    sleep_until(shared.pace(way, piece.len(), bandwidth)).await;
                    to.write_all(&piece).await?;
                }
            }
        }
    }
    Ok(())
}

impl Shared {
    /// When `len` more bytes may leave in that direction; books them.
    fn pace(&self, way: usize, len: usize, bandwidth: u64) -> Instant {
        let now = Instant::now();
        let Some(Ok(mut free_at)) = self.free_at.get(way).map(Mutex::lock) else { return now };
        let at = free_at.map_or(now, |free_at| free_at.max(now));
        *free_at = Some(at + Duration::from_secs_f64(len as f64 / bandwidth.max(1) as f64));
        at
    }
}
