//! A local cluster of one broker that answers as a test says: with what no real broker sends, or not at all.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use bytes::BytesMut;
use kafka_protocol::messages::metadata_response::MetadataResponseBroker;
use kafka_protocol::messages::{MetadataResponse, ResponseHeader};
use kafka_protocol::protocol::{Encodable, HeaderVersion, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Requests with this correlation id are answered by the script, Metadata and ApiVersions with any other properly, and all else with its own body.
pub const SCRIPTED: i32 = 666;

const METADATA: i16 = 3;
/// Answered in version 0, which is what diffluent asks for.
const API_VERSIONS: i16 = 18;
/// So many APIs are there.
const APIS: i16 = 93;

/// What a scripted request is answered with, and whether the connection ends behind it.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// As it goes out, length and all.
    pub bytes: Vec<u8>,
    /// The broker closes.
    pub close: bool,
}

/// The broker.
#[derive(Debug)]
pub struct ScriptedBroker {
    /// host:port.
    pub address: String,
    shared: Arc<Shared>,
    _serving: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    address: (String, u16),
    script: Mutex<Script>,
    /// Each answer but those to Metadata and ApiVersions takes one of these.
    answers: Semaphore,
    seen: Mutex<usize>,
}

impl ScriptedBroker {
    /// Starts it. It answers without limit.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            address: (address.ip().to_string(), address.port()),
            script: Mutex::default(),
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
            seen: Mutex::default(),
        });
        let mut serving = JoinSet::new();
        let context = Arc::clone(&shared);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let context = Arc::clone(&context);
                // How a connection ends is what the tests look at from the other side.
                connections.spawn(async move { drop(serve(stream, &context).await) });
            }
        });
        Ok(Self { address: address.to_string(), shared, _serving: serving })
    }

    /// What scripted requests are answered with from now on.
    pub fn script(&self, script: Script) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = script;
    }

    /// Answers nothing but Metadata and ApiVersions until [`ScriptedBroker::answer_more`].
    pub fn answer_nothing(&self) {
        self.shared.answers.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// Answers so many more.
    pub fn answer_more(&self, count: usize) {
        self.shared.answers.add_permits(count);
    }

    /// Requests other than Metadata and ApiVersions that have come.
    pub fn seen(&self) -> usize {
        *self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(stream: TcpStream, shared: &Arc<Shared>) -> Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    // Answers go out in order while requests go on being read, as far as a broker's socket would take them.
    let (asked, mut to_answer) = tokio::sync::mpsc::channel::<Vec<u8>>(10_000);
    let context = Arc::clone(shared);
    let mut answering = JoinSet::new();
    answering.spawn(async move {
        while let Some(request) = to_answer.recv().await {
            let answered = answer(&request, &context, &mut writer).await;
            if !matches!(answered, Ok(true)) {
                return;
            }
        }
    });
    let reading = async {
        loop {
            let length = usize::try_from(reader.read_i32().await?)?;
            let mut request = vec![0; length];
            reader.read_exact(&mut request).await?;
            if !matches!(request.get(..2), Some([0, 3 | 18])) {
                *shared.seen.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            }
            asked.send(request).await?;
        }
    };
    tokio::select! {
        read = reading => read,
        _ = answering.join_next() => Ok(()),
    }
}

/// Answers one request; whether the connection goes on.
async fn answer(request: &[u8], shared: &Shared, writer: &mut (impl AsyncWriteExt + Unpin)) -> Result<bool> {
    let (head, body) = request.split_first_chunk::<8>().context("a short request")?;
    let [k0, k1, v0, v1, id @ ..] = *head;
    let (api_key, version, id) = (i16::from_be_bytes([k0, k1]), i16::from_be_bytes([v0, v1]), i32::from_be_bytes(id));
    if id == SCRIPTED {
        let script = shared.script.lock().unwrap_or_else(PoisonError::into_inner).clone();
        writer.write_all(&script.bytes).await?;
        return Ok(!script.close);
    }
    let mut out = BytesMut::new();
    if api_key == METADATA {
        let (host, port) = &shared.address;
        let broker = MetadataResponseBroker::default()
            .with_node_id(1.into())
            .with_host(StrBytes::from_string(host.clone()))
            .with_port(i32::from(*port));
        let answer = MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_cluster_id(Some(StrBytes::from_static_str("scripted")))
            .with_controller_id(1.into());
        ResponseHeader::default()
            .with_correlation_id(id)
            .encode(&mut out, MetadataResponse::header_version(version))?;
        answer.encode(&mut out, version)?;
    } else if api_key == API_VERSIONS {
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&i32::from(APIS).to_be_bytes());
        for key in 0..APIS {
            out.extend_from_slice(&[key.to_be_bytes(), 0_i16.to_be_bytes(), 20_i16.to_be_bytes()].concat());
        }
    } else {
        shared.answers.acquire().await?.forget();
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(body);
    }
    writer.write_i32(i32::try_from(out.len())?).await?;
    writer.write_all(&out).await?;
    Ok(true)
}
