//! What is logged, while the process runs.

use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Takes a filter such as `info,diffluent::session=debug`, or says what is wrong with it.
type Set = dyn Fn(&str) -> Result<(), String> + Send + Sync;

/// The process's filter of log lines: it can be asked for and changed.
pub struct LogFilter {
    text: Mutex<String>,
    set: Box<Set>,
}

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogFilter").field(&self.text()).finish()
    }
}

impl LogFilter {
    /// A filter that was set to `text`, and is changed by `set`.
    pub fn new(text: &str, set: Box<Set>) -> Self {
        Self { text: Mutex::new(text.to_owned()), set }
    }

    /// The filter in effect.
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Another filter from now on.
    ///
    /// # Errors
    /// What is wrong with it; the one before stays in effect.
    pub fn set(&self, text: &str) -> Result<(), String> {
        let mut now = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        (self.set)(text)?;
        text.clone_into(&mut now);
        Ok(())
    }
}
