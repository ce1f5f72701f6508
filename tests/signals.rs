//! Ctrl-C and SIGTERM: at once, with their exit codes, and nobody stays behind.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::tempdir;

use crate::atoll::{self, Running};
use crate::local::long_prompt;
use crate::models::SMOLLM2;

const SOON: Duration = Duration::from_secs(3);

#[test]
fn ctrl_c_in_prefill_ends_at_once() {
    for place in [&["--local", "--kernels", "generic"][..], &["--stages", "3"]] {
        let data = tempdir().unwrap();
        let Some(mut run) = start(data.path(), &long_prompt(9000), place) else { return };
        let wait = if place.len() == 3 { 1500 } else { 2500 };
        std::thread::sleep(Duration::from_millis(wait));
        ends(&mut run, "INT", 130, data.path());
    }
}

#[test]
fn ctrl_c_in_decode_keeps_what_was_said() {
    for place in [&["--local"][..], &["--stages", "3"]] {
        let data = tempdir().unwrap();
        let Some(mut run) = start(data.path(), "Once upon a time", place) else { return };
        let first = run.wait_for(Duration::from_secs(60), "first line", |line| {
            (!line.trim().is_empty()).then(|| line.to_owned())
        });
        let end = ends(&mut run, "INT", 130, data.path());
        assert!(end.stdout.starts_with(&first), "what was printed is lost: {end}");
    }
}

#[test]
fn sigterm_ends_like_ctrl_c() {
    let data = tempdir().unwrap();
    let Some(mut run) = start(data.path(), &long_prompt(9000), &["--stages", "2"]) else { return };
    std::thread::sleep(Duration::from_millis(2000));
    ends(&mut run, "TERM", 143, data.path());
}

fn start(data: &Path, prompt: &str, place: &[&str]) -> Option<Running> {
    let path = SMOLLM2.path()?;
    let mut args = vec!["run", path.to_str().unwrap(), prompt, "--raw", "--temp", "0"];
    args.extend(["--max-tokens", "4000", "--ctx", "8192"]);
    args.extend(place);
    Some(Running::start(atoll::command(data, &args)))
}

fn ends(run: &mut Running, signal: &str, code: i32, data: &Path) -> atoll::Run {
    let children = children_of(run.pid());
    let before = run.age();
    let end = run.end_with(signal, Duration::from_secs(20));
    let took = end.elapsed - before;
    assert_eq!(end.code, code, "{end}");
    assert!(took < SOON, "took {took:?}: {end}");
    end.did_not_panic();
    for child in children {
        atoll::poll(SOON, "end of the nodes that were started", || {
            let alive = fs::read_to_string(format!("/proc/{child}/stat"))
                .is_ok_and(|stat| stat.contains("atoll") && !stat.contains(") Z "));
            (!alive).then_some(())
        });
    }
    assert!(data.exists());
    end
}

/// Processes whose parent is `pid`.
fn children_of(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = children.unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}
