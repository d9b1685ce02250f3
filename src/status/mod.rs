//! `diffluent status`: what the dashboard page shows, in a terminal.
//!
//! Owns the words and the drawing. It asks a running proxy through its admin port, knows what that says and nothing else, and changes
//! nothing. What is true is decided there: the page and this say the same.

mod text;
mod watch;

pub use watch::watch;

use serde::Deserialize;
use serde_json::Value;

use crate::admin::summary::{Level, Status};
use crate::operator::{self, AdminPort, OperatorError};

/// What a running proxy says of itself: as it was sent, and as far as this version understands it.
#[derive(Clone, Debug)]
pub struct Told {
    /// The document, with whatever a newer version has added to it.
    pub document: Value,
    status: Status,
}

impl Told {
    /// What the process exits with: 0 when all is well, 1 when not.
    pub fn exit_code(&self) -> u8 {
        u8::from(self.status.summary.level != Level::Well)
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        text::report(f, &self.status)
    }
}

/// Asks the proxy whose admin port is `admin`.
///
/// # Errors
/// [`OperatorError`]: it could not be told how well all is.
pub async fn ask(admin: &AdminPort) -> Result<Told, OperatorError> {
    let document = operator::get(admin, "/status").await?;
    match Status::deserialize(&document) {
        Ok(status) => Ok(Told { document, status }),
        Err(error) => Err(OperatorError::Refused(format!(
            "{admin} answers in another way than this version of diffluent knows ({error}); use the version that runs there"
        ))),
    }
}
