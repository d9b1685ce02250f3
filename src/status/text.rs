//! The report in words. Colours are left out where the output is no terminal, or `NO_COLOR` is set.

use std::fmt::{self, Formatter};

use console::{Style, StyledObject, style};

use crate::admin::summary::{Level, RegionSummary, Status, WorstStream, duration, grouped};
use crate::lag::{LatencySummary, State};

/// Latency is shown in milliseconds up to here.
const MILLISECONDS_MAX: f64 = 10.0;

const COLUMNS: [&str; 8] = ["region", "state", "behind", "produced", "mirrored", "caught up", "latency p50", "p99"];

pub(super) fn report(f: &mut Formatter<'_>, status: &Status) -> fmt::Result {
    let summary = &status.summary;
    let headline = match summary.level {
        Level::Well => Style::new().green(),
        Level::Behind => Style::new().yellow(),
        Level::Bad => Style::new().red(),
    };
    write!(f, "{}", headline.bold().apply_to(&summary.headline))?;
    if !summary.regions.is_empty() {
        write!(f, "\n\n")?;
        regions(f, summary.at_ms, &summary.regions)?;
    }
    if !status.worst.is_empty() {
        write!(f, "\n\n{}", style("worst streams").bold())?;
        status.worst.iter().try_for_each(|stream| worst(f, stream))?;
    }
    Ok(())
}

fn regions(f: &mut Formatter<'_>, now_ms: u64, regions: &[RegionSummary]) -> fmt::Result {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(regions.iter().map(|region| row(now_ms, region)));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    for (at, row) in rows.iter().enumerate() {
        let region = at.checked_sub(1).and_then(|at| regions.get(at));
        if at > 0 {
            writeln!(f)?;
        }
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let separator = if column == 0 { "" } else { "  " };
            let padded = format!("{cell:<width$}");
            let padded = if column + 1 == COLUMNS.len() { padded.trim_end() } else { &padded };
            match region {
                None => write!(f, "{separator}{}", style(padded).dim())?,
                Some(region) if column == 1 => write!(f, "{separator}{}", coloured(padded, region.state))?,
                Some(_) => write!(f, "{separator}{padded}")?,
            }
        }
        if let Some(region) = region {
            why(f, "  ", region.reason.as_deref(), region.remedy.as_deref())?;
            missing(f, region)?;
        }
    }
    Ok(())
}

fn row(now_ms: u64, region: &RegionSummary) -> [String; 8] {
    let since = match region.state_since_ms {
        0 => String::new(),
        _ if region.state == State::Mirroring => String::new(),
        since => format!(" for {}", duration(now_ms.saturating_sub(since) as f64 / 1000.0)),
    };
    let behind = match region.lag_records {
        0 => "nothing".to_owned(),
        records => format!("{}, {}", plural(records), duration(region.lag_seconds)),
    };
    let caught_up = match region.rates.caught_up_in_seconds {
        Some(wait) if wait <= 0.0 => "yes".to_owned(),
        Some(wait) => format!("in {}", duration(wait)),
        None => "?".to_owned(),
    };
    let rate = |records: f64| format!("{}/s", grouped(records.round() as u64));
    let LatencySummary { count, p50, p99, .. } = region.replication_latency;
    let latency = |seconds| if count == 0 { "-".to_owned() } else { precise(seconds) };
    [
        region.region.clone(),
        format!("{}{since}", words(region.state)),
        behind,
        rate(region.rates.produced_records_per_second),
        rate(region.rates.mirrored_records_per_second),
        caught_up,
        latency(p50),
        latency(p99),
    ]
}

/// What the region never gets.
fn missing(f: &mut Formatter<'_>, region: &RegionSummary) -> fmt::Result {
    let kinds = [
        (region.lost_records, "retention took before they were there"),
        (region.diverged_records, "the local cluster has lost and the region has"),
        (region.skipped_records, "were stepped over"),
    ];
    for (records, what) in kinds.into_iter().filter(|(records, _)| *records > 0) {
        write!(f, "\n  {} {} that {what}", style("for ever:").yellow(), plural(records))?;
    }
    Ok(())
}

fn worst(f: &mut Formatter<'_>, stream: &WorstStream) -> fmt::Result {
    let WorstStream { region, topic, partition, state, next_source_offset, lag_records, lag_seconds, .. } = stream;
    write!(
        f,
        "\n  {region}  {topic}/{partition}  {}  {}, {} behind, next offset {next_source_offset}",
        coloured(words(*state), *state),
        plural(*lag_records),
        duration(*lag_seconds),
    )?;
    // A region that is away is told once, above.
    let told = *state == State::Unreachable;
    why(f, "    ", stream.reason.as_deref().filter(|_| !told), stream.remedy.as_deref().filter(|_| !told))
}

/// Reasons hold the remedy behind their first semicolon; it is told on a line of its own.
fn why(f: &mut Formatter<'_>, indent: &str, reason: Option<&str>, remedy: Option<&str>) -> fmt::Result {
    if let Some(reason) = reason {
        let reason = remedy.and_then(|remedy| reason.strip_suffix(remedy)?.strip_suffix("; ")).unwrap_or(reason);
        write!(f, "\n{indent}{} {reason}", style("why:").dim())?;
    }
    if let Some(remedy) = remedy {
        write!(f, "\n{indent}{} {remedy}", style("do: ").dim())?;
    }
    Ok(())
}

fn coloured(text: &str, state: State) -> StyledObject<&str> {
    match state {
        State::Mirroring => style(text).green(),
        State::Starting | State::CatchingUp | State::Paused => style(text).yellow(),
        State::Stalled | State::Unreachable => style(text).red(),
    }
}

fn words(state: State) -> &'static str {
    if state == State::CatchingUp { "catching up" } else { state.as_str() }
}

fn plural(records: u64) -> String {
    if records == 1 { "1 record".to_owned() } else { format!("{} records", grouped(records)) }
}

/// 0.4 ms, 82 ms, 12 s.
fn precise(seconds: f64) -> String {
    match seconds {
        s if s < 0.01 => format!("{:.1} ms", s * 1000.0),
        s if s < MILLISECONDS_MAX => format!("{:.0} ms", s * 1000.0),
        s => duration(s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::summary::Summary;
    use crate::lag::Rates;

    struct Report(Status);

    impl fmt::Display for Report {
        fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
            report(f, &self.0)
        }
    }

    fn region(name: &str, state: State) -> RegionSummary {
        RegionSummary {
            region: name.to_owned(),
            state,
            state_since_ms: 1_000,
            reason: None,
            remedy: None,
            instance: "proxy-1".to_owned(),
            other_proxies: Vec::new(),
            paused: None,
            limits: Default::default(),
            topics: 1,
            streams: 3,
            streams_by_state: [(state, 3)].into(),
            lag_records: 0,
            lag_bytes: Some(0),
            lag_seconds: 0.0,
            rates: Rates {
                produced_records_per_second: 1_200.4,
                mirrored_records_per_second: 5_000.0,
                mirrored_bytes_per_second: 1e6,
                caught_up_in_seconds: Some(0.0),
            },
            replication_latency: LatencySummary { count: 9, p50: 0.0823, p90: 0.1, p99: 0.1404, max: 0.2 },
            mirrored_records: 1,
            mirrored_bytes: 1,
            lost_records: 0,
            diverged_records: 0,
            skipped_records: 0,
        }
    }

    fn shown(level: Level, headline: &str, regions: Vec<RegionSummary>, worst: Vec<WorstStream>) -> String {
        console::set_colors_enabled(false);
        let summary = Summary {
            version: "test".into(),
            at_ms: 181_000,
            level,
            headline: headline.to_owned(),
            last_event: 1,
            regions,
            silent: Vec::new(),
        };
        Report(Status { summary, worst }).to_string()
    }

    #[test]
    fn a_region_that_is_well_is_one_line() {
        let text = shown(Level::Well, "All is well.", vec![region("us-east", State::Mirroring)], vec![]);
        assert_eq!(
            text,
            "All is well.\n\n\
             region   state      behind   produced  mirrored  caught up  latency p50  p99\n\
             us-east  mirroring  nothing  1,200/s   5,000/s   yes        82 ms        140 ms"
        );
    }

    #[test]
    fn a_stall_says_why_and_what_to_do_apart_from_each_other_and_where() {
        let mut us = region("us", State::Stalled);
        let (why, remedy) = ("MESSAGE_TOO_LARGE (10)", "raise max.message.bytes of the topic in the region");
        us.lag_records = 12_345;
        us.lag_seconds = 180.0;
        us.rates.caught_up_in_seconds = None;
        us.reason = Some(format!("{why}; {remedy}"));
        us.remedy = Some(remedy.to_owned());
        us.skipped_records = 7;
        let worst = WorstStream {
            region: "us".into(),
            topic: "orders".into(),
            partition: 2,
            state: State::Stalled,
            reason: us.reason.clone(),
            remedy: us.remedy.clone(),
            next_source_offset: 4711,
            lag_records: 1,
            lag_seconds: 180.0,
        };
        let text = shown(Level::Bad, "us: 1 of 3 streams stalled.", vec![us], vec![worst]);
        assert_eq!(
            text,
            "us: 1 of 3 streams stalled.\n\n\
             region  state              behind                 produced  mirrored  caught up  latency p50  p99\n\
             us      stalled for 3 min  12,345 records, 3 min  1,200/s   5,000/s   ?          82 ms        140 ms\n  \
             why: MESSAGE_TOO_LARGE (10)\n  \
             do:  raise max.message.bytes of the topic in the region\n  \
             for ever: 7 records that were stepped over\n\n\
             worst streams\n  \
             us  orders/2  stalled  1 record, 3 min behind, next offset 4711\n    \
             why: MESSAGE_TOO_LARGE (10)\n    \
             do:  raise max.message.bytes of the topic in the region"
        );
    }
}
