//! What became of each layer, drawn.

use std::fmt::Write;

use atoll_compress::LayerReport;

const BAR: usize = 18;
const HEIGHT: f64 = 160.0;
const LEFT: usize = 60;

/// Two charts with a bar for every layer: its bytes before (pale) and after, and the share of the
/// feed-forward block's output that pruning lost, where neurons were pruned.
pub(super) fn layers(layers: &[LayerReport]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "bars of some pixels")]
    let bytes = |bytes: u64| bytes as f64 / 1e6;
    let before: Vec<f64> = layers.iter().map(|layer| bytes(layer.bytes_before)).collect();
    let after: Vec<f64> = layers.iter().map(|layer| bytes(layer.bytes)).collect();
    let lost: Vec<f64> = layers.iter().filter_map(|layer| layer.lost_by_pruning).collect();
    let mut body = String::new();
    let most = before.iter().chain(&after).copied().fold(0.0, f64::max);
    title(&mut body, 0, &format!("MB of each layer before and after, up to {most:.2}"));
    bars(&mut body, 0, &before, most, "#c8d4dc");
    bars(&mut body, 0, &after, most, "#1f6f8b");
    let mut charts = 1;
    if lost.len() == layers.len() && !lost.is_empty() {
        let most = lost.iter().copied().fold(0.0, f64::max);
        title(&mut body, 1, &format!("share of the output lost by pruning, up to {most:.4}"));
        bars(&mut body, 1, &lost, most, "#c0563b");
        charts = 2;
    }
    let (width, height) = (2 * LEFT + BAR * layers.len(), charts * 220);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn title(out: &mut String, chart: usize, text: &str) {
    let _infallible = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">{text}</text>", 20 + chart * 220);
}

fn bars(out: &mut String, chart: usize, values: &[f64], most: f64, color: &str) {
    for (idx, value) in values.iter().enumerate() {
        let height = HEIGHT * value / most.max(1e-12);
        #[expect(clippy::cast_precision_loss, reason = "bars of some pixels")]
        let y = (chart * 220 + 190) as f64 - height;
        let (x, width) = (LEFT + idx * BAR, BAR - 4);
        let _infallible = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y:.1}\" width=\"{width}\" height=\"{height:.1}\" \
             fill=\"{color}\"><title>layer {idx}: {value:.4}</title></rect>"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layer_has_its_bars() {
        let layer = |bytes, lost_by_pruning| LayerReport {
            bytes,
            bytes_before: 2_000_000,
            neurons: 32,
            lost_by_pruning,
        };
        let drawn = layers(&[layer(1_000_000, Some(0.1)), layer(500_000, Some(0.2))]);
        assert_eq!(drawn.matches("<title>").count(), 6);
        assert!(drawn.contains("height=\"80.0\" fill=\"#1f6f8b\"><title>layer 0: 1.0000"));
        assert!(drawn.contains("up to 2.00") && drawn.contains("up to 0.2000"));
        assert_eq!(layers(&[layer(1, None)]).matches("<title>").count(), 2);
        assert!(!layers(&[]).contains("<title>"));
    }
}
