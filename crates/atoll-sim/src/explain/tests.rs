#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::Scenario;
use crate::schedule::{Fault, What};

/// Every element is closed in the order in which it was opened.
fn check_closed(text: &str) {
    let mut open = Vec::new();
    for part in text.split('<').skip(1) {
        let tag = part.split('>').next().unwrap();
        let name = tag.trim_start_matches('/').split([' ', '/', '\n']).next().unwrap();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "in {tag}");
        } else if !tag.ends_with('/') && !tag.starts_with('!') && name != "meta" {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

fn disturbed() -> Explained {
    let mut schedule = Schedule::chaos(5, 12);
    let what = What::Kill { node: 1, back_us: Some(2_000_000) };
    schedule.faults = vec![Fault { at_us: 9_000_000, what, stage: Some(1) }];
    schedule.requests[0].at_us = 8_800_000;
    Explained::play(schedule, vec!["<desk>".to_owned()])
}

#[test]
fn a_timeline_shows_requests_stages_and_who_was_struck() {
    let run = disturbed();
    assert_eq!(run.report.violations, []);
    let svg = timeline(&run, run.whole_us());
    check_closed(&svg);
    let (_, what) = &run.record.struck[0];
    let node = what.nodes().next().unwrap();
    assert!(svg.contains(&format!("9.00 s: n{node} is killed")), "who it was aimed at");
    assert!(svg.contains(&format!("n{node}: gone for 2.00 s")));
    assert!(svg.contains("&lt;desk&gt; (origin)") && !svg.contains("<desk>"));
    let plan = &run.record.plans.last().unwrap().1;
    for stage in &plan.stages {
        assert!(svg.contains(&format!("holds layers {}", stage.layers)), "{}", stage.layers);
    }
    assert!(svg.contains("request 0: asked at 8.80 s"));
}

#[test]
fn what_lies_outside_the_span_is_left_out() {
    let run = disturbed();
    let svg = timeline(&run, 0..2_000_000);
    check_closed(&svg);
    assert!(!svg.contains("is killed") && !svg.contains("request 0: asked"));
}

#[test]
fn busy_time_is_what_jobs_took_and_no_more_dots_are_kept_than_shown() {
    let run = disturbed();
    for node in 0..12 {
        let busy = run.record.busy(node);
        assert!(busy.len() <= 4_001, "{}", busy.len());
        assert!(busy.windows(2).all(|two| two[0].end < two[1].start));
        let (permille, jobs) = run.record.busy_permille(node);
        assert!(permille <= 1000 && (jobs > 0 || permille == 0), "{permille} {jobs}");
        let joined: u64 = busy.iter().map(|busy| busy.end - busy.start).sum();
        assert!(joined * 1000 / run.schedule.end_us >= permille);
    }
    assert!(run.record.busy_permille(0).1 > 100, "the origin computes heads");
}

#[test]
fn long_waits_stand_out_and_usual_ones_do_not() {
    let at = [0, 100_000, 200_000, 900_000, 1_000_000];
    let found = gaps(&at);
    assert_eq!((found.len(), &found[0]), (1, &(200_000..900_000)));
    assert!(gaps(&[0, 1_000_000, 2_000_000, 3_000_000]).is_empty(), "it is that slow");
    assert!(gaps(&[5]).is_empty());
}

#[test]
fn a_page_stands_alone_and_says_what_came_of_it() {
    let text = include_str!("../../../../simulations/scenarios/home-8.toml");
    let scenario = Scenario::parse(text).unwrap();
    let schedule = scenario.schedule(1).unwrap();
    let run = Explained::play(schedule, scenario.names());
    let html = page(&scenario, &run);
    check_closed(&html);
    for part in ["<h1>home-8</h1>", "All is as expected", "stands still", "power-line", "plan 1"] {
        assert!(html.contains(part), "{part}");
    }
    for elsewhere in ["<script", "<link", "src=", "@import", "url(http"] {
        assert!(!html.contains(elsewhere), "{elsewhere}");
    }
    let strict = text.replace("tokens_per_s_min = 6.0", "tokens_per_s_min = 1e6");
    let strict = Scenario::parse(&strict).unwrap();
    let html = page(&strict, &run);
    assert!(html.contains("Not as expected") && html.contains("≥ 1000000"));
}
