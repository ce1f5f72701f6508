//! What `atoll top` shows.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};
use serde_json::Value;

use super::super::status::{list, ms, word};
use crate::exit::Failure;
use crate::output::bytes_text;

/// Looks whose tokens are drawn.
const LOOKS_MAX: usize = 240;
/// What was measured may be off from what was predicted by so much before it is marked: beyond it
/// the owner plans anew.
const OFF_MAX: f64 = 0.2;
/// Stages next to each other differ in color.
const COLORS: [Color; 6] =
    [Color::Cyan, Color::Yellow, Color::Green, Color::Magenta, Color::Blue, Color::LightRed];

/// What was seen so far.
#[derive(Debug, Default)]
pub(super) struct View {
    status: Value,
    /// Microseconds of a token, at each look that knew them.
    tokens_us: VecDeque<u64>,
    /// Why the latest look saw nothing.
    lost: Option<String>,
}

impl View {
    pub(super) fn take(&mut self, status: Value) {
        let token_ms = status["plan"]["timing"]["measured_token_ms"].as_f64();
        if let Some(us) = token_ms.and_then(micros) {
            if self.tokens_us.len() == LOOKS_MAX {
                self.tokens_us.pop_front();
            }
            self.tokens_us.push_back(us);
        }
        (self.status, self.lost) = (status, None);
    }

    pub(super) fn lost(&mut self, failure: &Failure) {
        self.lost = Some(failure.to_string().lines().next().unwrap_or_default().to_owned());
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let timed = list(&self.status["plan"]["timing"]["nodes"]).len();
        let rows = |n: usize| Constraint::Length(u16::try_from(n).unwrap_or(u16::MAX));
        let links = list(&self.status["links"]).len();
        let parts = Layout::vertical([
            rows(2),
            rows(2 + list(&self.status["models"]).len().max(1)),
            rows(if timed == 0 { 3 } else { timed + 6 }),
            rows(2 + links.max(1)),
            Constraint::Min(3),
            rows(1),
        ]);
        let [head, models, times, links, tokens, foot] = parts.areas(frame.area());
        frame.render_widget(Paragraph::new(self.head()), head);
        self.models(frame, models);
        self.times(frame, times);
        self.links(frame, links);
        let most = self.tokens_us.iter().max().copied().unwrap_or_default();
        let title =
            format!("a token, measured at each look: at most {}", ms_text(float(most) / 1e3));
        let line = Sparkline::default().block(Block::bordered().title(title));
        frame.render_widget(line.data(self.tokens_us.iter().copied()), tokens);
        let said = self.lost.as_deref().map_or_else(
            || Line::from("q ends").dim(),
            |why| Line::from(format!("{why}; what stands here is what it said last")).red(),
        );
        frame.render_widget(Paragraph::new(said), foot);
    }

    fn head(&self) -> Vec<Line<'static>> {
        let node = &self.status["node"];
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let rss = node["rss_bytes"].as_u64().map_or_else(|| "?".to_owned(), bytes_text);
        let first = Line::from(vec![
            Span::from(word(&node["name"])).bold(),
            Span::from(format!(
                "  {} {}, {} threads, up {} s",
                word(&node["version"]),
                word(&node["kernels"]),
                number(&node["threads"]),
                number(&node["uptime_s"])
            )),
        ]);
        let second = format!(
            "{rss} in use, models may take {}; {} peers, {} requests under way",
            bytes_text(number(&node["memory_bytes"])),
            list(&self.status["peers"]).len(),
            number(&self.status["requests"])
        );
        vec![first, Line::from(second)]
    }

    /// A ribbon for each model: layers by node.
    fn models(&self, frame: &mut Frame<'_>, area: Rect) {
        let models = list(&self.status["models"]);
        let mut lines: Vec<Line<'_>> =
            models.iter().map(|model| ribbon(model, area.width)).collect();
        if lines.is_empty() {
            lines.push(Line::from("none is served here").dim());
        }
        let block = Block::bordered().title("models: layers by node");
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn times(&self, frame: &mut Frame<'_>, area: Rect) {
        let timing = &self.status["plan"]["timing"];
        let block = Block::bordered().title("ms of a token");
        let nodes = list(&timing["nodes"]);
        if nodes.is_empty() {
            let nothing = Paragraph::new("nothing is predicted without a plan").dim().block(block);
            return frame.render_widget(nothing, area);
        }
        let mut rows: Vec<Row<'_>> = nodes
            .iter()
            .map(|node| time_row(&word(&node["node"]), &node["compute_ms"], &node["measured_ms"]))
            .collect();
        let between = (&timing["between_ms"], &timing["measured_between_ms"]);
        rows.push(time_row("between nodes", between.0, between.1));
        rows.push(time_row("a token", &timing["token_ms"], &timing["measured_token_ms"]).bold());
        let prompt = timing["prompt_tokens"].as_u64().unwrap_or_default();
        let first = format!("the first of {prompt}");
        rows.push(time_row(&first, &timing["first_token_ms"], &Value::Null));
        let widths = [24, 10, 10, 8].map(Constraint::Length);
        let header = Row::new(["", "predicted", "measured", "off"]).dim();
        frame.render_widget(Table::new(rows, widths).header(header).block(block), area);
    }

    fn links(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows: Vec<Row<'_>> = list(&self.status["links"])
            .iter()
            .map(|link| {
                let rtt =
                    link["rtt_us"].as_f64().map_or_else(|| "?".into(), |us| ms_text(us / 1e3));
                let rate = link["bytes_per_s"].as_f64();
                let rate =
                    rate.map_or_else(|| "?".into(), |bytes| format!("{:.1} Mbit/s", bytes / 125e3));
                Row::new([format!("{} to {}", word(&link["from"]), word(&link["to"])), rtt, rate])
            })
            .collect();
        let block = Block::bordered().title("links, as they were measured");
        if rows.is_empty() {
            return frame.render_widget(Paragraph::new("none").dim().block(block), area);
        }
        let widths = [32, 14, 16].map(Constraint::Length);
        frame.render_widget(Table::new(rows, widths).block(block), area);
    }
}

/// A model's name, and its layers as wide as there is room.
fn ribbon(model: &Value, width: u16) -> Line<'static> {
    let stages = list(&model["stages"]);
    let at = |stage: &Value, i: usize| {
        let layer = stage["layers"][i].as_u64().unwrap_or_default();
        usize::from(u16::try_from(layer).unwrap_or(u16::MAX))
    };
    let name = word(&model["name"]);
    let layers = stages.iter().map(|stage| at(stage, 1)).max().unwrap_or_default();
    let room = usize::from(width).saturating_sub(name.chars().count() + 4).max(1);
    let mut spans = vec![Span::from(format!("{name} ")).bold()];
    if layers == 0 {
        spans.push(Span::from("has no plan").red());
    }
    for (stage, color) in stages.iter().zip(COLORS.iter().cycle()) {
        let (from, to) = (at(stage, 0).min(layers), at(stage, 1));
        // Rounded at both ends, so that all together are as wide as the room.
        let cells = (to * room / layers.max(1)).saturating_sub(from * room / layers.max(1));
        let text = format!("{} {from}..{to}", word(&stage["node"]));
        let text: String = text.chars().chain(std::iter::repeat(' ')).take(cells).collect();
        spans.push(Span::styled(text, Style::new().fg(Color::Black).bg(*color)));
    }
    Line::from(spans)
}

fn time_row(what: &str, predicted: &Value, measured: &Value) -> Row<'static> {
    let off = match (predicted.as_f64(), measured.as_f64()) {
        (Some(predicted), Some(measured)) if predicted > 0.0 => Some(measured / predicted - 1.0),
        _ => None,
    };
    let marked = off.is_some_and(|off| off.abs() > OFF_MAX);
    let off = off.map_or_else(String::new, |off| format!("{:+.0} %", 100.0 * off));
    let off = if marked { Span::from(off).red() } else { Span::from(off) };
    let cells = [what.to_owned(), ms(predicted), ms(measured)].map(Span::from);
    Row::new(cells.into_iter().chain([off]))
}

fn ms_text(ms: f64) -> String {
    format!("{ms:.1} ms")
}

/// Whole microseconds; none of what is no time.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within an hour")]
fn micros(ms: f64) -> Option<u64> {
    (0.0..3.6e6).contains(&ms).then_some((ms * 1e3) as u64)
}

/// The nearest float.
#[expect(clippy::cast_precision_loss, reason = "one digit is shown")]
const fn float(n: u64) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests;
