//! The tables of a page.

use super::svg::escape;
use super::{Explained, gaps, seconds};
use crate::scenario::Scenario;
use crate::world::index;

/// Rows of a table at most; the others are counted.
const ROWS_MAX: usize = 200;

/// A table; cells that are figures stand to the right.
fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return "<p class=\"faint\">None.</p>".to_owned();
    }
    let head: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
    let cell = |cell: &String| {
        let is_figure = cell.starts_with(|c: char| c.is_ascii_digit());
        let class = if is_figure { " class=\"n\"" } else { "" };
        format!("<td{class}>{cell}</td>")
    };
    let row =
        |row: &Vec<String>| format!("<tr>{}</tr>\n", row.iter().map(cell).collect::<String>());
    let body: String = rows.iter().take(ROWS_MAX).map(row).collect();
    let more = rows.len().saturating_sub(ROWS_MAX);
    let more =
        if more > 0 { format!("<p class=\"faint\">and {more} more</p>") } else { String::new() };
    format!("<table><tr>{head}</tr>\n{body}</table>{more}")
}

/// A bar that is so full, of a thousand.
fn bar(permille: u64) -> String {
    let percent = permille.min(1000) as f64 / 10.0;
    format!("<span class=\"bar\"><i style=\"width:{percent:.1}%\"></i></span> {percent:.1} %")
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}

pub(super) fn figures(scenario: &Scenario, run: &Explained) -> String {
    let (f, _) = scenario.judge(&run.report);
    let expect = &scenario.expect;
    let within = |least: Option<f64>, most: Option<f64>| match (least, most) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => String::new(),
    };
    let answered_min = expect.answered_min.unwrap_or(f.requests);
    let s = |s: f64| format!("{s:.3} s");
    let rows = [
        (
            "answered",
            format!("{} of {}", f.answered, f.requests),
            format!("at least {answered_min}"),
        ),
        ("tokens", f.tokens.to_string(), String::new()),
        (
            "tokens/s, median",
            format!("{:.2}", f.tokens_per_s_p50),
            within(expect.tokens_per_s_min, expect.tokens_per_s_max),
        ),
        ("first token, median", s(f.first_token_s_p50), String::new()),
        ("first token, longest", s(f.first_token_s_max), within(None, expect.first_token_s_max)),
        ("longest wait of an answer, median", s(f.gap_s_p50), String::new()),
        ("longest wait of all", s(f.gap_s_max), within(None, expect.gap_s_max)),
        ("faults", run.report.faults.to_string(), String::new()),
        ("messages", run.report.messages.to_string(), String::new()),
        ("bytes sent", gigabytes(run.report.bytes), String::new()),
    ];
    let rows: Vec<_> =
        rows.into_iter().map(|(what, is, wanted)| vec![what.to_owned(), is, wanted]).collect();
    table(&["figure", "is", "expected"], &rows)
}

pub(super) fn devices(scenario: &Scenario, run: &Explained) -> String {
    let devices = &run.schedule.devices;
    let mut first = 0;
    let mut rows = Vec::new();
    for line in &scenario.devices {
        let Some(device) = devices.get(first) else { break };
        let link = device.link.as_ref();
        let latency_ms = link.map_or(0.0, |link| link.latency_us as f64 / 1e3);
        let rate = link.map_or(0, |link| link.uplink_bytes_per_s);
        let claims = line.claims.as_ref().map_or(String::new(), |name| format!(", says {name}"));
        rows.push(vec![
            escape(&line.name),
            line.count.to_string(),
            escape(&format!("{}{claims}", line.profile)),
            escape(&line.site),
            gigabytes(device.memory_bytes),
            format!("{:.1} GB/s", device.weight_bytes_per_s as f64 / 1e9),
            escape(&line.link),
            format!("{latency_ms:.1} ms"),
            format!("{:.1} MB/s", rate as f64 / 1e6),
        ]);
        first += line.count;
    }
    let heads =
        ["device", "count", "profile", "site", "memory", "weights", "link", "one way", "carries"];
    table(&heads, &rows)
}

pub(super) fn placement(run: &Explained) -> String {
    let name = |node| escape(&run.names[index(node)]);
    let rows = run.record.plans.iter().map(|(at, plan)| {
        let stages = |all: &[crate::proto::plan::Stage]| {
            let words = all.iter().map(|stage| format!("{}: {}", name(stage.node), stage.layers));
            words.collect::<Vec<_>>().join(", ")
        };
        vec![
            seconds(*at),
            format!("plan {}", plan.epoch.0),
            stages(&plan.stages),
            stages(&plan.spares),
        ]
    });
    table(&["from", "plan", "stages", "spares"], &rows.collect::<Vec<_>>())
}

pub(super) fn occupancy(run: &Explained) -> String {
    let rows = run.involved().into_iter().map(|node| {
        let (busy, jobs) = run.record.busy_permille(node);
        let (used, all) =
            (run.record.memory_bytes_max(node), run.schedule.devices[node].memory_bytes);
        let full = u128::from(used) * 1000 / u128::from(all.max(1));
        let away: u64 = run.record.away(node).map(|away| away.end - away.start).sum();
        vec![
            escape(&run.names[node]),
            bar(busy),
            jobs.to_string(),
            bar(u64::try_from(full).unwrap_or(1000)),
            format!("{} of {}", gigabytes(used), gigabytes(all)),
            if away > 0 { seconds(away) } else { String::new() },
        ]
    });
    let heads = ["node", "computing", "jobs", "memory at most", "", "gone for"];
    table(&heads, &rows.collect::<Vec<_>>())
}

pub(super) fn faults(run: &Explained) -> String {
    let rows = run.record.struck.iter().map(|(at, what)| {
        let lasts = what.lasts_us();
        let lasts = if lasts > 0 { seconds(lasts) } else { String::new() };
        vec![seconds(*at), escape(&what.told(&run.names)), lasts]
    });
    table(&["at", "what", "for"], &rows.collect::<Vec<_>>())
}

pub(super) fn waits(run: &Explained) -> String {
    let mut rows = Vec::new();
    for (i, answer) in run.report.answers.iter().enumerate() {
        for gap in gaps(&answer.token_us) {
            let before = run.record.struck.iter().rev().find(|(at, _)| *at <= gap.end);
            let near = before.filter(|(at, _)| at + 10_000_000 >= gap.start);
            let cause = near.map_or(String::new(), |(at, what)| {
                format!("{} at {}", escape(&what.told(&run.names)), seconds(*at))
            });
            let long = seconds(gap.end - gap.start);
            rows.push(vec![format!("request {i}"), seconds(gap.start), long, cause]);
        }
    }
    table(&["of", "from", "for", "last fault before its end"], &rows)
}
