//! Shapes as text.

use std::fmt::Display;
use std::ops::Range;

/// Width of every picture.
pub(super) const WIDTH: f64 = 1200.0;
/// Where the names end and time begins.
pub(super) const LEFT: f64 = 130.0;
/// Where it ends.
pub(super) const RIGHT: f64 = WIDTH - 20.0;
/// Of stages, by their place in the ring.
const COLOURS: [&str; 10] = [
    "#4e79a7", "#f28e2b", "#59a14f", "#b07aa1", "#76b7b2", "#edc948", "#9c755f", "#86bcb6",
    "#d37295", "#a0cbe8",
];
pub(super) const BAD: &str = "#c0272d";
pub(super) const INK: &str = "#222";
pub(super) const FAINT: &str = "#8a8a8a";
pub(super) const PAPER: &str = "#f1f1ee";

/// The colour of a stage.
pub(super) const fn colour(stage: usize) -> &'static str {
    COLOURS[stage % COLOURS.len()]
}

/// A picture in the making.
pub(super) struct Svg {
    body: String,
    height: f64,
}

impl Svg {
    pub(super) const fn new() -> Self {
        Self { body: String::new(), height: 0.0 }
    }

    /// Adds an element; its text is escaped already.
    pub(super) fn add(&mut self, element: &str) {
        self.body.push_str(element);
        self.body.push('\n');
    }

    /// A box with words that are shown when one points at it.
    pub(super) fn rect(
        &mut self,
        (x, width): (f64, f64),
        (y, height): (f64, f64),
        style: &str,
        title: &str,
    ) {
        self.reaches(y + height);
        let title = if title.is_empty() {
            String::new()
        } else {
            format!("<title>{}</title>", escape(title))
        };
        self.add(&format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
             {style}>{title}</rect>"
        ));
    }

    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), style: &str) {
        self.add(&format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>"
        ));
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), style: &str, words: impl Display) {
        self.reaches(y + 4.0);
        let words = escape(&words.to_string());
        self.add(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{words}</text>"));
    }

    /// The picture reaches down to here.
    pub(super) fn reaches(&mut self, y: f64) {
        self.height = self.height.max(y);
    }

    pub(super) const fn height(&self) -> f64 {
        self.height
    }

    /// The whole picture.
    pub(super) fn finish(self) -> String {
        let height = self.height + 8.0;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             font-family=\"sans-serif\" font-size=\"11\" fill=\"{INK}\">\n\
             <defs><pattern id=\"away\" width=\"6\" height=\"6\" \
             patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
             <rect width=\"6\" height=\"6\" fill=\"#ddd\"/>\
             <rect width=\"2\" height=\"6\" fill=\"#999\"/></pattern></defs>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}</svg>\n",
            self.body
        )
    }
}

/// Where times lie.
pub(super) struct Axis {
    pub(super) span_us: Range<u64>,
}

impl Axis {
    pub(super) fn x(&self, us: u64) -> f64 {
        let us = us.clamp(self.span_us.start, self.span_us.end) - self.span_us.start;
        let long = (self.span_us.end - self.span_us.start).max(1);
        LEFT + (RIGHT - LEFT) * us as f64 / long as f64
    }

    /// Whether any of it is in the picture.
    pub(super) const fn shows(&self, during: &Range<u64>) -> bool {
        during.start < self.span_us.end && during.end >= self.span_us.start
    }

    /// Left end and width, as wide as `least` at least.
    pub(super) fn bar(&self, during: &Range<u64>, least: f64) -> (f64, f64) {
        let from = self.x(during.start);
        (from, (self.x(during.end) - from).max(least))
    }

    /// Round times, ten or so.
    pub(super) fn ticks(&self) -> Vec<u64> {
        let long = (self.span_us.end - self.span_us.start).max(1);
        let mut step = 1_000;
        for factor in [2, 5, 2].into_iter().cycle() {
            if long / step <= 14 {
                break;
            }
            step = if factor == 5 { step / 2 * 5 } else { step * 2 };
        }
        let first = self.span_us.start.div_ceil(step) * step;
        (0..).map(|i| first + i * step).take_while(|at| *at <= self.span_us.end).collect()
    }
}

/// A name as text of XML.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for (span_us, first, second) in [
            (0..60_000_000, 0, 5_000_000),
            (0..240_000_000, 0, 20_000_000),
            (1_500_000..2_500_000, 1_500_000, 1_600_000),
        ] {
            let ticks = Axis { span_us: span_us.clone() }.ticks();
            assert_eq!(ticks[..2], [first, second], "{span_us:?}");
            assert!((5..=15).contains(&ticks.len()), "{span_us:?}: {}", ticks.len());
        }
    }

    #[test]
    fn names_cannot_close_what_they_stand_in() {
        assert_eq!(escape("<a b='\"&\u{7}\">"), "&lt;a b=&#39;&quot;&amp;\u{fffd}&quot;&gt;");
    }
}
