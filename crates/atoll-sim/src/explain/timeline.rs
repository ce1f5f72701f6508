//! The timeline of a run: requests and their tokens, what each node held and when it computed,
//! what struck whom, and where a client waited.

use std::ops::Range;

use super::svg::{Axis, BAD, FAINT, INK, LEFT, PAPER, RIGHT, Svg, colour};
use super::{Explained, chart, gaps, seconds};
use crate::schedule::What;

/// Rows of requests and of nodes at most; the others are counted.
const ROWS_MAX: usize = 48;
const REQUEST_HEIGHT: f64 = 14.0;
const NODE_HEIGHT: f64 = 22.0;
const SMALL: &str = "font-size=\"10\"";

/// Draws what lies within `span_us` of a run, as SVG.
#[must_use]
pub fn timeline(run: &Explained, span_us: Range<u64>) -> String {
    let mut svg = Svg::new();
    let axis = Axis { span_us };
    let report = &run.report;
    svg.text(
        (8.0, 18.0),
        "font-size=\"14\"",
        format!(
            "seed {}: {} nodes, {} requests of which {} were answered, {} faults, {} tokens",
            run.schedule.seed,
            run.names.len(),
            report.answers.len(),
            report.completed,
            report.faults,
            report.tokens
        ),
    );
    let top = 44.0;
    svg.reaches(top);
    requests(&mut svg, &axis, run);
    chart::tokens(&mut svg, &axis, run);
    let placed = nodes(&mut svg, &axis, run);
    faults(&mut svg, &axis, run, &placed, top);
    let bottom = svg.height();
    for at in axis.ticks() {
        let x = axis.x(at);
        svg.line((x, top - 8.0), (x, bottom), "stroke=\"#000\" stroke-opacity=\"0.08\"");
        let style = format!("{SMALL} text-anchor=\"middle\" fill=\"{FAINT}\"");
        svg.text((x, top - 12.0), &style, format!("{} s", at as f64 / 1e6));
    }
    plans(&mut svg, &axis, run, (top, bottom));
    legend(&mut svg);
    for (i, (name, what)) in report.violations.iter().take(20).enumerate() {
        let y = svg.height() + if i == 0 { 20.0 } else { 14.0 };
        svg.text((8.0, y), &format!("fill=\"{BAD}\""), format!("{name} {what}"));
    }
    svg.finish()
}

fn heading(svg: &mut Svg, words: &str) {
    let y = svg.height() + 18.0;
    svg.text((8.0, y), "font-weight=\"bold\"", words);
    svg.reaches(y + 5.0);
}

fn name(svg: &mut Svg, y: f64, name: &str) {
    let short: String = name.chars().take(18).collect();
    svg.text((LEFT - 6.0, y), "text-anchor=\"end\"", short);
}

fn requests(svg: &mut Svg, axis: &Axis, run: &Explained) {
    heading(svg, "requests");
    let shown = run.report.answers.iter().enumerate().filter(|(_, answer)| {
        axis.shows(&(answer.asked_us..answer.ended_us.unwrap_or(axis.span_us.end)))
    });
    let shown: Vec<_> = shown.collect();
    for (i, answer) in shown.iter().take(ROWS_MAX) {
        let y = svg.height() + 2.0;
        let ended = answer.ended_us.unwrap_or(axis.span_us.end);
        let outcome = match (&answer.error, answer.ended_us) {
            (Some(error), _) => format!("ended with: {error}"),
            (None, Some(_)) => "answered".to_owned(),
            (None, None) => "did not end".to_owned(),
        };
        let title = format!(
            "request {i}: asked at {}, first token after {}, {} tokens, {outcome} at {}",
            seconds(answer.asked_us),
            answer.first_us().map_or("-".to_owned(), seconds),
            answer.token_us.len(),
            seconds(ended),
        );
        name(svg, y + 10.0, &format!("request {i}"));
        let bar = axis.bar(&(answer.asked_us..ended), 1.0);
        svg.rect(bar, (y, REQUEST_HEIGHT - 2.0), &format!("fill=\"{PAPER}\""), &title);
        tokens(svg, axis, &answer.token_us, y);
        for gap in gaps(&answer.token_us).into_iter().filter(|gap| axis.shows(gap)) {
            let (x, width) = axis.bar(&gap, 1.0);
            let long = seconds(gap.end - gap.start);
            let style = format!("fill=\"{BAD}\" fill-opacity=\"0.25\"");
            let title = format!("request {i}: {long} between two tokens");
            svg.rect((x, width), (y, REQUEST_HEIGHT - 2.0), &style, &title);
            if width > 34.0 {
                let style = format!("{SMALL} fill=\"{BAD}\"");
                svg.text((x + 3.0, y + 9.5), &style, long);
            }
        }
        if let Some(error) = &answer.error {
            let x = axis.x(ended);
            let (x, anchor) = if x > RIGHT - 200.0 { (x - 4.0, "end") } else { (x + 4.0, "start") };
            let style = format!("{SMALL} fill=\"{BAD}\" text-anchor=\"{anchor}\"");
            svg.text((x, y + 9.5), &style, error.chars().take(60).collect::<String>());
        }
        svg.reaches(y + REQUEST_HEIGHT);
    }
    more(svg, shown.len(), "requests");
}

/// Of each dot in which tokens came: a mark.
fn tokens(svg: &mut Svg, axis: &Axis, token_us: &[u64], y: f64) {
    let mut path = String::new();
    let mut last = f64::MIN;
    for at in token_us.iter().filter(|at| axis.span_us.contains(at)) {
        let x = axis.x(*at);
        if x >= last + 0.5 {
            path.push_str(&format!("M{x:.1} {:.1}v8", y + 2.0));
            last = x;
        }
    }
    if !path.is_empty() {
        svg.add(&format!("<path d=\"{path}\" stroke=\"{INK}\" stroke-width=\"0.6\"/>"));
    }
}

fn more(svg: &mut Svg, n: usize, what: &str) {
    if n > ROWS_MAX {
        let y = svg.height() + 12.0;
        svg.text((LEFT, y), SMALL, format!("and {} {what} more", n - ROWS_MAX));
    }
}

/// Returns where each node that is shown stands.
fn nodes(svg: &mut Svg, axis: &Axis, run: &Explained) -> Vec<(usize, f64)> {
    heading(svg, "nodes: layers held (dashed: as a spare), and below when it computed");
    let involved = run.involved();
    let mut placed = Vec::new();
    for &node in involved.iter().take(ROWS_MAX) {
        let y = svg.height() + 3.0;
        placed.push((node, y));
        let label = run.names[node].clone() + if node == 0 { " (origin)" } else { "" };
        name(svg, y + 12.0, &label);
        let all = (LEFT, RIGHT - LEFT);
        svg.rect(all, (y, NODE_HEIGHT - 3.0), &format!("fill=\"{PAPER}\""), "");
        for held in run.record.held(node).iter().filter(|held| axis.shows(&held.during_us)) {
            let (x, width) = axis.bar(&held.during_us, 0.5);
            let fill = colour(stage_of(run, held.layers.start));
            let look = if held.is_spare {
                "fill-opacity=\"0.25\" stroke-dasharray=\"3 2\""
            } else {
                "fill-opacity=\"0.75\""
            };
            let style = format!("fill=\"{fill}\" stroke=\"{fill}\" {look}");
            let role = if held.is_spare { "spare for" } else { "holds" };
            let title = format!("{label}: {role} layers {}", held.layers);
            svg.rect((x, width), (y, 13.0), &style, &title);
            if width > 32.0 {
                svg.text((x + 3.0, y + 10.0), SMALL, held.layers);
            }
        }
        let mut path = String::new();
        for busy in run.record.busy(node).iter().filter(|busy| axis.shows(busy)) {
            let (x, width) = axis.bar(busy, 0.3);
            path.push_str(&format!("M{x:.1} {:.1}h{width:.1}", y + 16.5));
        }
        if !path.is_empty() {
            svg.add(&format!("<path d=\"{path}\" stroke=\"{INK}\" stroke-width=\"4\"/>"));
        }
        for away in run.record.away(node).filter(|away| axis.shows(away)) {
            let title = format!("{label}: gone for {}", seconds(away.end - away.start));
            let bar = axis.bar(&away, 1.0);
            svg.rect(bar, (y, NODE_HEIGHT - 3.0), "fill=\"url(#away)\"", &title);
        }
        svg.reaches(y + NODE_HEIGHT - 3.0);
    }
    more(svg, involved.len(), "nodes");
    let idle = run.names.len() - involved.len();
    if idle > 0 {
        let y = svg.height() + 14.0;
        svg.text((LEFT, y), SMALL, format!("{idle} nodes had no part in it"));
    }
    placed
}

/// The place in the ring of what begins at this layer, by the last plan that has it.
fn stage_of(run: &Explained, start: u16) -> usize {
    let plans = run.record.plans.iter().rev();
    let hops = plans.map(|(_, plan)| plan.stages.iter().position(|s| s.layers.start == start));
    hops.flatten().next().unwrap_or(usize::from(start))
}

fn faults(svg: &mut Svg, axis: &Axis, run: &Explained, placed: &[(usize, f64)], top: f64) {
    for (at, what) in run.record.struck.iter().filter(|(at, _)| axis.span_us.contains(at)) {
        let x = axis.x(*at);
        let words = format!("{}: {}", seconds(*at), what.told(&run.names));
        let during = *at..at.saturating_add(what.lasts_us());
        for node in what.nodes() {
            let Some((_, y)) = placed.iter().find(|(other, _)| *other == node) else { continue };
            let bar = axis.bar(&during, 2.0);
            let style = format!("fill=\"{BAD}\" fill-opacity=\"0.8\"");
            svg.rect(bar, (*y, 2.5), &style, &words);
            mark(svg, (x, *y), &words);
        }
        if let What::Cancel { .. } = what {
            mark(svg, (x, top + 20.0), &words);
        }
    }
    for (at, node) in run.record.suspected.iter().filter(|(at, _)| axis.span_us.contains(at)) {
        if let Some((_, y)) = placed.iter().find(|(other, _)| other == node) {
            let title = format!("{}: {} is suspected", seconds(*at), run.names[*node]);
            let style = "fill=\"#fff\" stroke=\"#c0272d\"";
            svg.rect((axis.x(*at) - 2.0, 4.0), (y + 8.0, 4.0), style, &title);
        }
    }
}

/// A triangle whose tip is where it struck.
fn mark(svg: &mut Svg, (x, y): (f64, f64), title: &str) {
    let title = super::svg::escape(title);
    svg.add(&format!(
        "<path d=\"M{x:.1} {:.1}l-4 -7h8z\" fill=\"{BAD}\"><title>{title}</title></path>",
        y + 5.0
    ));
}

fn plans(svg: &mut Svg, axis: &Axis, run: &Explained, (top, bottom): (f64, f64)) {
    let mut last = f64::MIN;
    for (at, plan) in run.record.plans.iter().filter(|(at, _)| axis.span_us.contains(at)) {
        let x = axis.x(*at);
        svg.line((x, top - 2.0), (x, bottom), "stroke=\"#4e79a7\" stroke-dasharray=\"2 3\"");
        if x > last + 40.0 {
            let style = format!("{SMALL} fill=\"#4e79a7\"");
            svg.text((x + 2.0, top + 6.0), &style, format!("plan {}", plan.epoch.0));
            last = x;
        }
    }
}

fn legend(svg: &mut Svg) {
    let y = svg.height() + 18.0;
    mark(svg, (LEFT + 4.0, y - 2.0), "a fault");
    svg.text((LEFT + 14.0, y), SMALL, "a fault, and how long it lasts");
    svg.rect((LEFT + 190.0, 14.0), (y - 8.0, 9.0), "fill=\"url(#away)\"", "");
    svg.text((LEFT + 210.0, y), SMALL, "gone");
    let red = format!("fill=\"{BAD}\" fill-opacity=\"0.25\"");
    svg.rect((LEFT + 260.0, 14.0), (y - 8.0, 9.0), &red, "");
    svg.text((LEFT + 280.0, y), SMALL, "a client waited between two tokens");
    svg.rect((LEFT + 470.0, 4.0), (y - 6.0, 4.0), "fill=\"#fff\" stroke=\"#c0272d\"", "");
    svg.text((LEFT + 480.0, y), SMALL, "the origin suspects it");
    let dashed = "stroke=\"#4e79a7\" stroke-dasharray=\"2 3\"";
    svg.line((LEFT + 610.0, y - 8.0), (LEFT + 610.0, y + 1.0), dashed);
    svg.text((LEFT + 616.0, y), SMALL, "a plan comes into force");
    svg.text((LEFT + 750.0, y), SMALL, "point at anything to read what it is");
}
