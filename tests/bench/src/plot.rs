//! The figures at one batch size as bars, in SVG that reads on light and on dark pages.

use std::fmt::Write;
use std::num::NonZeroUsize;

use crate::machine::machine;
use crate::report::{Comparison, Report, three_digits};
use crate::stats::float;

const WIDTH: usize = 760;
const MARGIN: usize = 16;
/// Title and machine; versions come below.
const HEADER: usize = 56;
const VERSIONS_IN_A_LINE: usize = 4;
const VERSION_LINE: usize = 13;
/// Where bars begin, and how long the longest is.
const BARS_FROM: usize = 88;
const BAR_MAX: f64 = 187.5;
const ROW: usize = 22;
const PANEL_TITLE: usize = 30;
const PANELS_IN_A_ROW: usize = 2;

/// One measure of all sides.
struct Panel {
    title: String,
    /// Ours first; medians.
    bars: Vec<(&'static str, f64)>,
}

/// Draws the job `pure` at a batch size: processor time, wall time, cold start and peak resident size.
pub(crate) fn plot(report: &Report, records: NonZeroUsize) -> String {
    let panels: Vec<Panel> = [
        ("cpu", Some(records), format!("processor time an item, us (batches of {records})")),
        ("wall", Some(records), format!("wall time of a batch of {records}, ms")),
        ("cold", None, "cold start to the first response, ms".to_owned()),
        ("rss", Some(records), format!("peak resident size, MiB (batches of {records})")),
    ]
    .into_iter()
    .filter_map(|(measure, records, title)| panel(report, measure, records, title))
    .collect();
    let versions: Vec<String> =
        report.version_list().chunks(VERSIONS_IN_A_LINE).map(|versions| versions.join(", ")).collect();
    draw(&panels, &versions)
}

fn panel(report: &Report, measure: &str, records: Option<NonZeroUsize>, title: String) -> Option<Panel> {
    let is_shown = |comparison: &&Comparison| comparison.measure == measure && comparison.records == records;
    let shown: Vec<_> = report.comparisons.iter().filter(is_shown).collect();
    let ours = shown.first()?;
    let mut bars = vec![(report.ours, ours.values()[0])];
    bars.extend(shown.iter().map(|comparison| (comparison.peer, comparison.values()[1])));
    Some(Panel { title, bars })
}

fn draw(panels: &[Panel], versions: &[String]) -> String {
    let rows = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or_default();
    let panel_height = PANEL_TITLE + rows * ROW + MARGIN;
    let header = HEADER + versions.len() * VERSION_LINE;
    let height = header + panels.len().div_ceil(PANELS_IN_A_ROW) * panel_height;
    let width = WIDTH + MARGIN;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n\
         <style>text {{ fill: #24292f }} .ours {{ fill: #d1570b }} .theirs {{ fill: #8c959f }} \
         @media (prefers-color-scheme: dark) {{ text {{ fill: #d8dee4 }} }}</style>\n\
         <text x=\"{MARGIN}\" y=\"24\" font-size=\"15\" font-weight=\"bold\">The same orders, each once: medians, less is better\
         </text>\n<text x=\"{MARGIN}\" y=\"42\">{}</text>\n",
        escaped(&machine())
    );
    for (position, versions) in versions.iter().enumerate() {
        let y = HEADER + position * VERSION_LINE;
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "<text x=\"{MARGIN}\" y=\"{y}\" font-size=\"10\">{}</text>", escaped(versions));
    }
    for (position, panel) in panels.iter().enumerate() {
        let x = MARGIN + position % PANELS_IN_A_ROW * (WIDTH / PANELS_IN_A_ROW);
        let y = header + position / PANELS_IN_A_ROW * panel_height;
        draw_panel(&mut svg, panel, x, y);
    }
    svg + "</svg>\n"
}

fn draw_panel(svg: &mut String, panel: &Panel, x: usize, y: usize) {
    // Writing to a string cannot fail.
    let _ = writeln!(svg, "<text x=\"{x}\" y=\"{}\" font-weight=\"bold\">{}</text>", y + 18, escaped(&panel.title));
    let longest = panel.bars.iter().map(|(_, figure)| *figure).fold(f64::MIN_POSITIVE, f64::max);
    for (row, (name, figure)) in panel.bars.iter().enumerate() {
        let top = y + PANEL_TITLE + row * ROW;
        let length = (figure / longest * BAR_MAX).max(1.0);
        let class = if row == 0 { "ours" } else { "theirs" };
        let from = x + BARS_FROM;
        let after = float(from) + length + 6.0;
        let _ = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{text_y}\">{name}</text>\
             <rect class=\"{class}\" x=\"{from}\" y=\"{top}\" width=\"{length:.1}\" height=\"{height}\"/>\
             <text x=\"{after:.1}\" y=\"{text_y}\">{figure}</text>",
            text_y = top + 12,
            height = ROW - 6,
            name = escaped(name),
            figure = three_digits(*figure),
        );
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Compared;

    #[test]
    fn a_panel_has_a_bar_for_each_side() {
        let comparison = |peer, theirs: f64| Comparison {
            peer,
            records: NonZeroUsize::new(1_000),
            measure: "cpu".to_owned(),
            label: "CPU us/item",
            figures: [vec![10.0, 30.0, 20.0], vec![theirs; 3]],
            compared: Compared::Medians,
        };
        let comparisons = vec![comparison("handwritten", 100.0), comparison("a<b", 2_000.0)];
        let report = Report {
            title: String::new(),
            ours: "microbatch",
            versions: vec![("node".into(), "24".into())],
            comparisons,
        };
        let svg = plot(&report, NonZeroUsize::new(1_000).expect("not zero"));
        assert_eq!(svg.matches("<rect").count(), 3, "{svg}");
        for text in [">microbatch<", ">handwritten<", ">20.0<", ">2000<", "node 24"] {
            assert!(svg.contains(text), "{text} in {svg}");
        }
        assert!(!svg.contains("cold start"), "nothing was measured of it");
    }
}
