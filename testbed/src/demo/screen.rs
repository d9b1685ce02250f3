//! Where the story is shown: a table at the bottom that is drawn anew, the story scrolling above it; or only lines.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Without a terminal a status line every so often is enough.
const PLAIN_INTERVAL: Duration = Duration::from_secs(2);

pub(super) struct Screen {
    live: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    table: Vec<String>,
    drawn: usize,
    last_plain: Option<Instant>,
}

impl Screen {
    pub(super) fn new(live: bool) -> Self {
        Self { live, state: Mutex::new(State::default()) }
    }

    /// A line (or some) of the story.
    pub(super) fn say(&self, text: &str) {
        self.with(|state, out| {
            state.erase(out)?;
            writeln!(out, "{text}")?;
            state.draw(out)
        });
    }

    /// What is true now: a table for a terminal, one line otherwise.
    pub(super) fn show(&self, table: Vec<String>, line: &str) {
        self.with(|state, out| {
            if self.live {
                state.erase(out)?;
                state.table = table;
                return state.draw(out);
            }
            if state.last_plain.is_none_or(|last| last.elapsed() >= PLAIN_INTERVAL) {
                state.last_plain = Some(Instant::now());
                writeln!(out, "{line}")?;
            }
            Ok(())
        });
    }

    /// The table stays where it is, and is not drawn again.
    pub(super) fn freeze(&self) {
        self.with(|state, _| {
            state.table.clear();
            state.drawn = 0;
            Ok(())
        });
    }

    fn with(&self, act: impl FnOnce(&mut State, &mut std::io::StdoutLock<'_>) -> std::io::Result<()>) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut out = std::io::stdout().lock();
        // A closed terminal is no reason to leave clusters running.
        let _ = act(&mut state, &mut out).and_then(|()| out.flush());
    }
}

impl State {
    fn erase(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        if self.drawn > 0 {
            // Up to the table's first line, and clear from there.
            write!(out, "\x1b[{}A\x1b[J", self.drawn)?;
            self.drawn = 0;
        }
        Ok(())
    }

    fn draw(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        for line in &self.table {
            writeln!(out, "{line}")?;
        }
        self.drawn = self.table.len();
        Ok(())
    }
}
