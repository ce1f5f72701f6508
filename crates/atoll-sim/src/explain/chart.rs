//! Tokens over time.

use super::Explained;
use super::svg::{Axis, FAINT, LEFT, RIGHT, Svg};

/// Bars of the chart.
const BARS: u64 = 120;
const HEIGHT: f64 = 46.0;

/// Tokens per second of all requests together.
pub(super) fn tokens(svg: &mut Svg, axis: &Axis, run: &Explained) {
    let y = svg.height() + 18.0;
    svg.text((8.0, y), "font-weight=\"bold\"", "tokens/s, all requests");
    let (top, base) = (y + 6.0, y + 6.0 + HEIGHT);
    let bar_us = ((axis.span_us.end - axis.span_us.start) / BARS).max(1);
    let mut bars = vec![0_u64; usize::try_from(BARS).expect("few") + 1];
    let all = run.report.answers.iter().flat_map(|answer| &answer.token_us);
    for at in all.filter(|at| axis.span_us.contains(at)) {
        let bar = usize::try_from((at - axis.span_us.start) / bar_us).unwrap_or(usize::MAX);
        if let Some(bar) = bars.get_mut(bar) {
            *bar += 1;
        }
    }
    let most = bars.iter().copied().max().unwrap_or(0).max(1);
    let mut path = format!("M{LEFT} {base:.1}");
    for (i, n) in (0_u64..).zip(&bars) {
        let x = axis.x(axis.span_us.start + i * bar_us);
        let height = HEIGHT * *n as f64 / most as f64;
        let width = axis.x(axis.span_us.start + (i + 1) * bar_us) - x;
        path.push_str(&format!("L{x:.1} {:.1}h{width:.1}", base - height));
    }
    path.push_str(&format!("L{RIGHT} {base:.1}z"));
    svg.add(&format!("<path d=\"{path}\" fill=\"#59a14f\" fill-opacity=\"0.6\"/>"));
    svg.line((LEFT, base), (RIGHT, base), "stroke=\"#8a8a8a\"");
    let rate = most as f64 * 1e6 / bar_us as f64;
    let style = format!("font-size=\"10\" text-anchor=\"end\" fill=\"{FAINT}\"");
    svg.text((LEFT - 6.0, top + 6.0), &style, format!("{rate:.1}"));
    svg.text((LEFT - 6.0, base), &style, "0");
    svg.reaches(base + 2.0);
}
