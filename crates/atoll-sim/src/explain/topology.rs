//! Who is there, around a circle by place, and the ring of the last plan among them.

use super::Explained;
use super::svg::{FAINT, Svg, WIDTH, colour};
use crate::world::index;

/// Nodes around the circle at most: those with a part in it come first.
const NODES_MAX: usize = 40;

/// The picture, as SVG.
pub(super) fn topology(run: &Explained) -> String {
    let mut shown = run.involved();
    let rest = (0..run.names.len()).filter(|node| !shown.contains(node)).collect::<Vec<_>>();
    shown.extend(rest);
    let n_all = shown.len();
    shown.truncate(NODES_MAX);
    let site = |node: usize| run.schedule.devices[node].site;
    shown.sort_by_key(|&node| (site(node), node));
    let (cx, cy, rx, ry) = (WIDTH / 2.0, 200.0, 420.0, 150.0);
    let at = |node: usize| {
        let place = shown.iter().position(|other| *other == node)?;
        let turn = std::f64::consts::TAU * place as f64 / shown.len() as f64;
        Some((cx - rx * turn.cos(), cy - ry * turn.sin()))
    };
    let mut svg = Svg::new();
    svg.reaches(cy + ry + 40.0);
    let plan = run.record.plans.last().map(|(_, plan)| plan);
    let ring: Vec<usize> =
        plan.iter().flat_map(|plan| &plan.stages).map(|stage| index(stage.node)).collect();
    let spares: Vec<usize> =
        plan.iter().flat_map(|plan| &plan.spares).map(|stage| index(stage.node)).collect();
    svg.add(
        "<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"22\" refY=\"4\" markerWidth=\"8\" \
         markerHeight=\"8\" orient=\"auto\"><path d=\"M0 0l8 4l-8 4z\" fill=\"#555\"/>\
         </marker></defs>",
    );
    let mut way = vec![0];
    way.extend(ring.iter().filter(|node| **node != 0));
    way.push(0);
    for (from, to) in way.iter().zip(way.iter().skip(1)).filter(|(from, to)| from != to) {
        if let (Some(from), Some(to)) = (at(*from), at(*to)) {
            svg.line(from, to, "stroke=\"#555\" stroke-width=\"1.5\" marker-end=\"url(#tip)\"");
        }
    }
    for &node in &shown {
        let Some((x, y)) = at(node) else { continue };
        let hop = ring.iter().position(|other| *other == node);
        let is_spare = spares.contains(&node);
        let fill = hop.map_or("#ddd", colour);
        let edge = if is_spare { "stroke=\"#555\" stroke-dasharray=\"3 2\"" } else { "" };
        svg.add(&format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"11\" fill=\"{fill}\" {edge}/>"));
        if let Some(hop) = hop {
            svg.text((x, y + 4.0), "text-anchor=\"middle\" fill=\"#fff\"", hop + 1);
        }
        let below = if y < cy - 1.0 { y - 16.0 } else { y + 24.0 };
        let role = if node == 0 { " (origin)" } else { "" };
        svg.text((x, below), "text-anchor=\"middle\"", format!("{}{role}", run.names[node]));
    }
    let sites: std::collections::BTreeSet<u64> = shown.iter().map(|node| site(*node)).collect();
    let faint = format!("fill=\"{FAINT}\"");
    let s = if sites.len() == 1 { "" } else { "s" };
    let mut words = format!("{} site{s}; arrows: the ring of the last plan", sites.len());
    if n_all > shown.len() {
        words += &format!("; {} nodes more are not drawn", n_all - shown.len());
    }
    svg.text((8.0, 16.0), &faint, words);
    svg.finish()
}
