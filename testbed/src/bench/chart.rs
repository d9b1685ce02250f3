//! A figure that grows, as an SVG beside docs/BENCHMARKS.md.

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::document;

const SIZE: (u32, u32) = (720, 360);
const MARGIN: u32 = 14;
const LABELS: u32 = 52;
const FONT: (&str, u32) = ("sans-serif", 14);
const DOT: u32 = 4;

/// How the horizontal axis runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    /// By equal steps.
    Linear,
    /// By equal factors.
    Logarithmic,
}

/// A chart of one figure over what makes it grow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    /// What grows, and its unit.
    pub(super) across: &'a str,
    /// What it costs, and its unit.
    pub(super) up: &'a str,
    pub(super) axis: Axis,
    /// The medians.
    pub(super) points: &'a [(f64, f64)],
}

impl Chart<'_> {
    /// Writes it to `docs/benchmarks/<name>.svg` and gives the line that shows it in docs/BENCHMARKS.md.
    ///
    /// # Errors
    /// When there is nothing to draw or the file can't be written.
    pub(super) fn write(&self, name: &str) -> Result<String> {
        let folder = document::folder()?.join("benchmarks");
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let path = folder.join(format!("{name}.svg"));
        std::fs::write(&path, self.svg()?).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(format!("![{}: {} by {}](benchmarks/{name}.svg)", self.title, self.up, self.across))
    }

    fn svg(&self) -> Result<String> {
        let most = self.points.iter().map(|(_, up)| *up).fold(0.0, f64::max);
        let first = self.points.first().context("nothing to draw")?.0;
        let last = self.points.last().context("nothing to draw")?.0;
        let mut text = String::new();
        let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(&area);
        builder.caption(self.title, ("sans-serif", 18)).margin(MARGIN);
        builder.x_label_area_size(LABELS).y_label_area_size(LABELS + MARGIN);
        let up = 0.0..most.max(f64::MIN_POSITIVE) * 1.15;
        // The coordinates' types differ, and nothing else does.
        macro_rules! draw {
            ($across:expr) => {{
                let mut chart = builder.build_cartesian_2d($across, up)?;
                let mut mesh = chart.configure_mesh();
                mesh.x_desc(self.across).y_desc(self.up).label_style(FONT).axis_desc_style(FONT);
                mesh.x_label_formatter(&|across| number(*across)).y_label_formatter(&|up| number(*up)).draw()?;
                chart.draw_series(LineSeries::new(self.points.iter().copied(), BLUE.stroke_width(2)))?;
                chart.draw_series(self.points.iter().map(|point| Circle::new(*point, DOT, BLUE.filled())))?;
            }};
        }
        match self.axis {
            Axis::Linear => draw!(first..last),
            Axis::Logarithmic => draw!((first..last).log_scale()),
        }
        area.present()?;
        drop(builder);
        drop(area);
        Ok(text)
    }
}

/// 1,000,000 as 1M, 0.25 as 0.25.
fn number(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", value / 1e6),
        value if value >= 1e3 => format!("{}k", value / 1e3),
        value => format!("{}", (value * 1e3).round() / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_names_its_axes_and_has_a_dot_for_each_point() {
        for axis in [Axis::Linear, Axis::Logarithmic] {
            let points = [(10.0, 1.0), (100.0, 2.5), (1000.0, 30.0)];
            let chart = Chart { title: "Growth", across: "partitions", up: "MiB", axis, points: &points };
            let svg = chart.svg().expect("a chart");
            assert_eq!(svg.matches("<circle").count(), 3, "{svg}");
            assert!(["Growth", "partitions", "MiB"].iter().all(|part| svg.contains(part)), "{svg}");
        }
    }

    #[test]
    fn nothing_is_no_chart() {
        let chart = Chart { title: "", across: "", up: "", axis: Axis::Linear, points: &[] };
        assert!(chart.svg().is_err());
    }
}
