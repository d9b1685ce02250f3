//! Why a session ends before both sides are done.

use std::io;

use thiserror::Error;

use crate::wire::cursor::ReadError;
use crate::wire::frame::BadInput;

/// A session's failure. It names the side. The client decides what to try again: to it, the connection is lost, as when a broker is.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The client sent something that is no Kafka request that could be served.
    #[error("the client sent {0}")]
    BadInput(BadInput),
    /// The connection to the client failed.
    #[error("connection to the client: {0}")]
    Client(#[source] io::Error),
    /// The connection to the local broker failed.
    #[error("connection to the local broker: {0}")]
    Broker(#[source] io::Error),
    /// The broker's answers are out of step.
    #[error("the local broker answered correlation id {answered} where {expected} ({api}) was expected")]
    CorrelationId {
        /// What it bears.
        answered: i32,
        /// What the oldest request bears.
        expected: i32,
        /// The oldest request's API.
        api: &'static str,
    },
    /// The broker answers without having been asked.
    #[error("the local broker answered correlation id {answered}, but no request waits for an answer")]
    NotAsked {
        /// What it bears.
        answered: i32,
    },
    /// The broker sent a frame of impossible length.
    #[error("the local broker sent a frame of length {0}")]
    AnswerLength(i32),
    /// An answer that ends inside of what must be rewritten.
    #[error("the local broker's answer ends too early")]
    AnswerTooShort,
    /// An answer that must be read has another shape than its version says.
    #[error("the local broker's answer to {api} v{version} can't be read: {source}")]
    Answer {
        /// The request's API.
        api: &'static str,
        /// Its version.
        version: i16,
        /// What is wrong.
        source: ReadError,
    },
}

impl SessionError {
    /// The label in `diffluent_client_closed_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            SessionError::BadInput(bad) => bad.as_str(),
            SessionError::Client(_) => "client_lost",
            SessionError::Broker(_) => "broker_lost",
            SessionError::CorrelationId { .. } | SessionError::NotAsked { .. } => "answer_unexpected",
            SessionError::AnswerLength(_) | SessionError::AnswerTooShort | SessionError::Answer { .. } => {
                "answer_malformed"
            }
        }
    }

    /// Whether this is everyday life: peers that go away, clients that talk nonsense. All else needs a human.
    pub fn is_expected(&self) -> bool {
        match self {
            SessionError::BadInput(_) => true,
            SessionError::Client(error) | SessionError::Broker(error) => is_expected_io_error(error),
            _ => false,
        }
    }
}

/// Whether a connection just ended, in one of the ways in which connections end.
pub fn is_expected_io_error(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable,
        NotConnected, TimedOut, UnexpectedEof,
    };
    matches!(
        error.kind(),
        ConnectionReset
            | ConnectionAborted
            | ConnectionRefused
            | BrokenPipe
            | NotConnected
            | TimedOut
            | UnexpectedEof
            | HostUnreachable
            | NetworkUnreachable
    )
}
