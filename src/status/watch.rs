//! `--watch`: the report once a second, in place on a terminal, with a bar for each region that catches up.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{MissedTickBehavior, interval};

use super::{Told, ask};
use crate::admin::summary::{RegionSummary, duration};
use crate::lag::State;
use crate::operator::AdminPort;

const EVERY: Duration = Duration::from_secs(1);
/// Bars count in thousandths of what was missing at the most.
const BAR_LENGTH: u64 = 1000;

/// Asks again and again, and shows what is told. Ends only when nobody reads any more: with the last exit code.
pub async fn watch(admin: &AdminPort, json: bool) -> u8 {
    let mut shown: Box<dyn Shown> = match (json, io::stdout().is_terminal()) {
        (true, _) => Box::new(Documents),
        (false, true) => Box::new(Screen::new()),
        (false, false) => Box::new(Changes::default()),
    };
    let mut times = interval(EVERY);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        let (written, exit) = match ask(admin).await {
            Ok(told) => (shown.told(&told), told.exit_code()),
            Err(error) => (shown.untold(&error.to_string()), 2),
        };
        if written.is_err() {
            return exit;
        }
    }
}

/// How it is shown. Errors are those of standard output.
trait Shown {
    fn told(&mut self, told: &Told) -> io::Result<()>;
    fn untold(&mut self, why: &str) -> io::Result<()>;
}

fn line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// A document a line, for machines.
struct Documents;

impl Shown for Documents {
    fn told(&mut self, told: &Told) -> io::Result<()> {
        line(&told.document)
    }

    fn untold(&mut self, why: &str) -> io::Result<()> {
        line(serde_json::json!({ "level": "unknown", "headline": why }))
    }
}

/// Where there is no terminal: the first line, whenever it changes.
#[derive(Default)]
struct Changes {
    last: String,
}

impl Changes {
    fn say(&mut self, headline: &str) -> io::Result<()> {
        if self.last == headline {
            return Ok(());
        }
        headline.clone_into(&mut self.last);
        line(headline)
    }
}

impl Shown for Changes {
    fn told(&mut self, told: &Told) -> io::Result<()> {
        self.say(&told.status.summary.headline)
    }

    fn untold(&mut self, why: &str) -> io::Result<()> {
        self.say(why)
    }
}

/// A terminal: everything in place.
struct Screen {
    all: MultiProgress,
    text: ProgressBar,
    bars: BTreeMap<String, Bar>,
}

struct Bar {
    bar: ProgressBar,
    /// The most that was missing since it catches up.
    peak: u64,
}

impl Screen {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let text = all.add(ProgressBar::no_length().with_style(template("{msg}")));
        Self { all, text, bars: BTreeMap::new() }
    }

    fn bar(&mut self, region: &RegionSummary) {
        if !catches_up(region) {
            if let Some(Bar { bar, .. }) = self.bars.remove(&region.region) {
                bar.finish_and_clear();
                self.all.remove(&bar);
            }
            return;
        }
        let Bar { bar, peak } = self.bars.entry(region.region.clone()).or_insert_with(|| {
            let style = template("{prefix:<16} {wide_bar} {percent:>3} %  {msg}").progress_chars("━╸─");
            let bar = ProgressBar::new(BAR_LENGTH).with_style(style).with_prefix(region.region.clone());
            Bar { bar: self.all.add(bar), peak: 0 }
        });
        *peak = (*peak).max(region.lag_records);
        bar.set_message(match region.rates.caught_up_in_seconds {
            Some(wait) if wait > 0.0 => format!("{} left", duration(wait)),
            _ => String::new(),
        });
        bar.set_position(done(region.lag_records, *peak));
    }
}

impl Shown for Screen {
    fn told(&mut self, told: &Told) -> io::Result<()> {
        self.text.set_message(told.to_string());
        for region in &told.status.summary.regions {
            self.bar(region);
        }
        Ok(())
    }

    fn untold(&mut self, why: &str) -> io::Result<()> {
        self.text.set_message(format!("{}\nasked again every second", console::style(why).red().bold()));
        for Bar { bar, .. } in std::mem::take(&mut self.bars).into_values() {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
        Ok(())
    }
}

fn catches_up(region: &RegionSummary) -> bool {
    matches!(region.state, State::CatchingUp | State::Starting) && region.lag_records > 0
}

/// Thousandths of `peak` that are done when `missing` are missing.
fn done(missing: u64, peak: u64) -> u64 {
    (peak.saturating_sub(missing)).saturating_mul(BAR_LENGTH).checked_div(peak).unwrap_or(BAR_LENGTH)
}

fn template(text: &'static str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|error| unreachable!("a template of our own: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_when_nothing_is_missing_and_empty_when_all_is() {
        assert_eq!((done(0, 80), done(80, 80), done(20, 80)), (1000, 0, 750));
        assert_eq!(done(0, 0), 1000);
    }
}
