use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use serde_json::json;

use super::*;
use crate::exit::Exit;

fn status(measured_token_ms: f64) -> Value {
    json!({
        "node": {
            "name": "ward", "version": "0.1.0", "kernels": "avx2", "threads": 2, "uptime_s": 9,
            "memory_bytes": 2_000_000_000, "rss_bytes": 150_000_000,
        },
        "peers": [{ "name": "desk" }],
        "requests": 1,
        "models": [{
            "name": "m",
            "stages": [
                { "node": "ward", "layers": [0, 20] },
                { "node": "desk", "layers": [20, 30] },
            ],
        }],
        "plan": { "timing": {
            "token_ms": 10.0, "measured_token_ms": measured_token_ms, "prompt_tokens": 512,
            "first_token_ms": 800.0, "between_ms": 2.0, "measured_between_ms": 2.1,
            "nodes": [
                { "node": "ward", "compute_ms": 5.0, "measured_ms": 8.0 },
                { "node": "desk", "compute_ms": 3.0, "measured_ms": null },
            ],
        } },
        "links": [{ "from": "ward", "to": "desk", "rtt_us": 1500, "bytes_per_s": 2_500_000 }],
    })
}

fn drawn(view: &View, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view.draw(frame)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width);
    buffer.content.chunks(width).map(|row| row.iter().map(|cell| cell.symbol()).collect()).collect()
}

#[test]
fn what_was_measured_stands_beside_what_was_predicted_and_is_marked_when_off() {
    let mut view = View::default();
    view.take(status(11.0));
    let buffer = drawn(&view, 80, 30);
    let text = lines(&buffer);
    let has = |part: &str| text.iter().any(|line| line.contains(part));
    assert!(has("ward  0.1.0 avx2, 2 threads, up 9 s"), "{text:#?}");
    assert!(has("150.0 MB in use, models may take 2.0 GB; 1 peers, 1 requests"), "{text:#?}");
    assert!(has("ward to desk"), "{text:#?}");
    assert!(has("1.5 ms") && has("20.0 Mbit/s"), "{text:#?}");
    let row = |what: &str| text.iter().position(|line| line.starts_with(what)).expect("a row");
    let cells = |y: usize| text[y].split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(cells(row("│ward  ")), "│ward 5.0 8.0 +60 % │");
    assert_eq!(cells(row("│desk  ")), "│desk 3.0 ? │");
    assert_eq!(cells(row("│a token ")), "│a token 10.0 11.0 +10 % │");
    let is_red =
        |y: usize| (0..80).any(|x| buffer[(x, u16::try_from(y).expect("a line"))].fg == Color::Red);
    assert!(is_red(row("│ward  ")), "60 % off is marked");
    assert!(!is_red(row("│a token ")), "10 % off is not");
}

#[test]
fn a_ribbon_is_as_wide_as_layers_are_many() {
    let mut view = View::default();
    view.take(status(11.0));
    let buffer = drawn(&view, 80, 30);
    let text = lines(&buffer);
    let y = text.iter().position(|line| line.contains("0..20")).expect("a ribbon");
    let y = u16::try_from(y).expect("a line");
    let cells = |color| (0..80).filter(|&x| buffer[(x, y)].bg == color).count();
    let (ward, desk) = (cells(COLORS[0]), cells(COLORS[1]));
    assert_eq!(ward + desk, 80 - "m".len() - 4);
    assert!(ward.abs_diff(2 * desk) <= 2, "{ward} and {desk}");
}

#[test]
fn a_node_that_went_away_is_said_to_be() {
    let mut view = View::default();
    view.take(status(11.0));
    view.lost(&Failure::new(Exit::Unreachable, "the node at X does not answer"));
    let text = lines(&drawn(&view, 80, 30));
    assert!(text[29].contains("the node at X does not answer"), "{text:#?}");
    view.take(status(12.0));
    assert!(lines(&drawn(&view, 80, 30))[29].contains("q ends"));
}

#[test]
fn what_is_not_known_and_small_terminals_are_drawn_too() {
    let mut view = View::default();
    for status in [json!({}), json!({ "models": [{ "name": "m", "stages": [] }] }), status(1.0)] {
        view.take(status);
        for (width, height) in [(1, 1), (7, 3), (40, 12), (200, 60)] {
            drawn(&view, width, height);
        }
    }
    let odd = json!({ "models": [
        { "stages": [{ "layers": [9, 3] }, { "layers": ["x"] }, { "layers": [1, u64::MAX] }] },
    ] });
    view.take(odd);
    drawn(&view, 80, 24);
}
