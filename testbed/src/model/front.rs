//! One connection to one broker of the model: requests are taken one after the other, as Kafka does.

use std::io;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Model;
use super::answer::{Reply, Sessions, answer};

/// The longest request (`socket.request.max.bytes`).
const REQUEST_BYTES_MAX: usize = 100 << 20;
/// How soon a connection notices that its broker is gone.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Serves a connection to broker `node_id` until either side ends it, or the broker crashes.
pub async fn serve_connection(model: &Model, node_id: i32, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let incarnation = || model.look().brokers.get(&node_id).map(|broker| (broker.running, broker.incarnation));
    let begun = incarnation();
    if !begun.is_some_and(|(running, _)| running) {
        return;
    }
    let gone = async {
        while incarnation() == begun {
            tokio::select! {
                biased;
                () = model.changed() => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = gone => {}
        // What goes wrong with a connection is its client's to see.
        _ = serve(model, node_id, stream) => {}
    }
}

async fn serve(model: &Model, node_id: i32, mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut sessions = Sessions::default();
    loop {
        let request = read_frame(&mut stream).await?;
        match answer(model, node_id, &mut sessions, request).await {
            Reply::Frame(frame) => {
                let mut bytes = BytesMut::with_capacity(frame.len() + 4);
                bytes.put_i32(i32::try_from(frame.len()).map_err(io::Error::other)?);
                bytes.put_slice(&frame);
                stream.write_all(&bytes).await?;
            }
            Reply::None => {}
            Reply::Close => return Ok(()),
        }
    }
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Bytes> {
    let length = usize::try_from(stream.read_i32().await?).unwrap_or(usize::MAX);
    if length > REQUEST_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut frame = BytesMut::new();
    while frame.len() < length {
        frame.reserve((length - frame.len()).min(64 * 1024));
        if (&mut *stream).take((length - frame.len()) as u64).read_buf(&mut frame).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(frame.freeze())
}
