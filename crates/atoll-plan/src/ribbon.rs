//! A plan as a picture: layers by device along a ribbon, and each device's memory below.

use std::fmt::Write;

use crate::placement::Placement;
use crate::query::Query;
use crate::search::Found;

const WIDTH: u64 = 960;
const LEFT: u64 = 20;
const COLOURS: [&str; 8] =
    ["#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#e15759", "#76b7b2", "#9c755f", "#edc948"];

/// The picture, as SVG. Layers in a lighter variant than the first are hatched.
#[must_use]
pub fn svg(query: &Query<'_>, found: &Found) -> String {
    let stages = &found.placement.stages;
    let n_layers = query.model.layers.len() as u64;
    let height = 190 + 26 * stages.len() as u64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <defs><pattern id=\"hatch\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><rect width=\"2\" height=\"6\" fill=\"#fff\" \
         fill-opacity=\"0.6\"/></pattern></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
        WIDTH + 2 * LEFT
    );
    let mut line = |words: String| writeln!(svg, "{words}").expect("a string takes all");
    let prediction = &found.prediction;
    line(format!(
        "<text x=\"{LEFT}\" y=\"26\" font-size=\"16\">{}: {:.2} ms per token, {} layers, \
         owner {}</text>",
        escape(&query.model.name),
        ms(prediction.token_ns),
        n_layers,
        escape(&query.fleet.nodes()[query.fleet.owner()].name),
    ));
    let at = |layer: usize| LEFT + WIDTH * layer as u64 / n_layers;
    for (i, stage) in stages.iter().enumerate() {
        let (x, end) = (at(stage.layers.start), at(stage.layers.end));
        let (width, colour) = (end - x, COLOURS[i % COLOURS.len()]);
        let name = escape(&query.fleet.nodes()[stage.node].name);
        line(format!(
            "<rect x=\"{x}\" y=\"64\" width=\"{width}\" height=\"44\" fill=\"{colour}\" \
             stroke=\"#fff\"><title>{name}: layers {}..{}</title></rect>",
            stage.layers.start, stage.layers.end
        ));
        for (layer, _) in stage.layers.clone().zip(&stage.variants).filter(|(_, v)| **v > 0) {
            let (from, to) = (at(layer), at(layer + 1));
            line(format!(
                "<rect x=\"{from}\" y=\"64\" width=\"{}\" height=\"44\" fill=\"url(#hatch)\"/>",
                to - from
            ));
        }
        line(format!(
            "<text x=\"{}\" y=\"126\" text-anchor=\"middle\">{:.2} ms</text>",
            x + width / 2,
            ms(prediction.stage_ns[i])
        ));
        if prediction.hop_ns[i] > 0 {
            line(format!("<text x=\"{x}\" y=\"56\">→ {:.2} ms</text>", ms(prediction.hop_ns[i])));
        }
    }
    if let Some(&back) = prediction.hop_ns.last().filter(|ns| **ns > 0) {
        line(format!(
            "<text x=\"{}\" y=\"56\" text-anchor=\"end\">↩ {:.2} ms</text>",
            LEFT + WIDTH,
            ms(back)
        ));
    }
    for (i, stage) in stages.iter().enumerate() {
        let y = 150 + 26 * i as u64;
        let node = &query.fleet.nodes()[stage.node];
        let own = if stage.node == query.fleet.owner() { query.model.ends_bytes } else { 0 };
        let used = Placement::stage_bytes(query, stage).saturating_add(own);
        let share = u128::from(used) * 300 / u128::from(node.memory_bytes.max(1));
        line(format!(
            "<rect x=\"{LEFT}\" y=\"{y}\" width=\"300\" height=\"16\" fill=\"#eee\"/>\
             <rect x=\"{LEFT}\" y=\"{y}\" width=\"{}\" height=\"16\" fill=\"{}\"/>\
             <text x=\"{}\" y=\"{}\">{}: {:.2} of {:.2} GB, layers {}..{}</text>",
            share.min(300),
            COLOURS[i % COLOURS.len()],
            LEFT + 310,
            y + 13,
            escape(&node.name),
            used as f64 / 1e9,
            node.memory_bytes as f64 / 1e9,
            stage.layers.start,
            stage.layers.end,
        ));
    }
    svg.push_str("</svg>\n");
    svg
}

fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// A name as text of XML.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::fleet::{Fleet, Node};
    use crate::model::{Model, Variant};
    use crate::query::Policy;
    use crate::search::plan;

    #[test]
    fn names_are_escaped_and_lighter_layers_hatched() {
        let node = Node { layer_ns: 1_000_000, ..Node::new("a<b>&\"c\"", 9_000) };
        let fleet = Fleet::new(vec![node], 0).unwrap();
        let mut model = Model::uniform("m", 10, 1000, 8);
        for layer in &mut model.layers {
            let (bytes, time_permille, name) = (500, 900, "light".to_owned());
            layer.variants.push(Variant { name, bytes, time_permille, loss: 10 });
        }
        let policy = Policy { loss_max: 20, ..Policy::default() };
        let query = Query { fleet: &fleet, model: &model, policy: &policy };
        let svg = svg(&query, &plan(&query).unwrap());
        assert!(svg.contains("a&lt;b&gt;&amp;&quot;c&quot;"), "{svg}");
        assert!(!svg.contains("a<b"), "{svg}");
        assert_eq!(svg.matches("url(#hatch)").count(), 2, "two layers may be light: {svg}");
        assert!(svg.contains("9.80 ms per token"), "{svg}");
    }
}
