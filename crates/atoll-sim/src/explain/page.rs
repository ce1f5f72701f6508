//! A page about one scenario: what it is, what came of it, who held what, when, and what struck.

use super::svg::escape;
use super::tables;
use super::topology::topology;
use super::{Explained, timeline};
use crate::scenario::Scenario;

/// How it looks; nothing is fetched from elsewhere.
const STYLE: &str = "\
body{font:15px/1.45 sans-serif;max-width:1240px;margin:24px auto;padding:0 16px;\
color:#222}h1{margin-bottom:0}h2{margin-top:32px;border-bottom:1px solid #ddd}\
table{border-collapse:collapse;margin:8px 0}th,td{padding:3px 10px;text-align:left;\
border-bottom:1px solid #eee;font-variant-numeric:tabular-nums}th{font-weight:600}\
td.n{text-align:right}.good{color:#2c7a3f}.bad{color:#c0272d}.faint{color:#777}\
.bar{display:inline-block;width:160px;height:10px;background:#eee;vertical-align:middle}\
.bar i{display:block;height:10px;background:#4e79a7}svg{max-width:100%;height:auto}";

/// The page, as HTML in one file.
#[must_use]
pub fn page(scenario: &Scenario, run: &Explained) -> String {
    let (_, missed) = scenario.judge(&run.report);
    let broken = run.report.violations.iter().map(|(name, what)| format!("{name} {what}"));
    let wrong: Vec<_> = broken.chain(missed).collect();
    let verdict = if wrong.is_empty() {
        "<p class=\"good\">All is as expected, and no invariant broke.</p>".to_owned()
    } else {
        let line = |what: &String| format!("<li>{}</li>", escape(what));
        let lines: String = wrong.iter().map(line).collect();
        format!("<p class=\"bad\">Not as expected:</p><ul class=\"bad\">{lines}</ul>")
    };
    let title = escape(&scenario.name);
    let about = escape(&scenario.about);
    let again = format!(
        "atoll sim run {title}.toml --seed {}, {} s simulated, {} events, trace {:016x}",
        run.schedule.seed, scenario.lasts_s, run.report.events, run.report.trace
    );
    let sections = [
        ("What came of it", tables::figures(scenario, run)),
        ("Who is there", topology(run) + &tables::devices(scenario, run)),
        ("Who held what", tables::placement(run)),
        ("Over time", timeline(run, run.whole_us())),
        ("How busy, and how full", tables::occupancy(run)),
        ("Faults", tables::faults(run)),
        ("Waits between two tokens", tables::waits(run)),
    ];
    let section = |(head, body): &(&str, String)| format!("<h2>{head}</h2>\n{body}\n");
    let sections: String = sections.iter().map(section).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n<p>{about}</p>\n{verdict}\n\
         <p class=\"faint\">{again}</p>\n{sections}</body></html>\n"
    )
}
