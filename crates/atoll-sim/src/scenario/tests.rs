#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::run;

const SMALL: &str = r#"
name = "small"
about = "two devices"
lasts_s = 30
model = "smollm2:135m"
[serve]
at_s = 1
stages = 2
sessions = 2
spares = 0
[[device]]
name = "desk"
profile = "laptop"
link = "ethernet"
[[device]]
name = "pi"
profile = "pi5"
link = "ethernet"
count = 2
[[requests]]
count = 2
from_s = 5
every_s = 2
prompt_tokens = 20
new_tokens = 10
"#;

fn refused(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    let scenario = Scenario::parse(&SMALL.replace(from, to));
    scenario.and_then(|scenario| scenario.schedule(0)).unwrap_err().to_string()
}

#[test]
fn profiles_can_be_read_and_name_their_sources() {
    let all = Profiles::standard();
    let sources = all.device.values().map(|profile| &profile.source);
    let sources = sources.chain(all.link.values().map(|profile| &profile.source));
    assert!(sources.into_iter().all(|source| source.len() > 20));
    assert!(all.link.iter().all(|(name, profile)| profile.link(name).is_ok()));
    assert!(all.device.len() >= 7 && all.link.len() >= 6 && all.model.len() >= 3);
}

#[test]
fn what_cannot_be_used_says_why() {
    for (from, to, why) in [
        ("lasts_s = 30", "last_s = 30", "did you mean `lasts_s`?"),
        ("count = 2\nfrom_s", "cuont = 2\nfrom_s", "did you mean `count`?"),
        ("profile = \"pi5\"", "profile = \"pi55\"", "did you mean `pi5`?"),
        ("link = \"ethernet\"", "link = \"ether-net\"", "did you mean `ethernet`?"),
        ("lasts_s = 30", "lasts_s = -1", "lasts_s is -1"),
        ("lasts_s = 30", "lasts_s = nan", "lasts_s is NaN"),
        ("from_s = 5", "from_s = 50", "after the end"),
        ("prompt_tokens = 20", "prompt_tokens = 0", "1 to 2^20"),
        ("spares = 0", "spares = 2", "serve.spares is 2"),
        ("sessions = 2", "sessions = 0", "serve.sessions is 0"),
        ("stages = 2", "stages = 4", "no plan: 4 nodes are needed, 3 are here"),
        ("smollm2:135m", "llama-3.1-8b-q4\"\n[model_profile.x]\nlayers = \"", "line"),
        ("count = 2\n[[req", "count = 2\nmemory_bytes = 1000\n[[req", "no plan: the model needs"),
        ("count = 2\n[[req", "count = 1000000\n[[req", "would take about"),
        ("[[requests]]", "[[fault]]\nat_s = 3\nwhat = \"kil\"\n[[requests]]", "mean `kill`?"),
        (
            "[[requests]]",
            "[[fault]]\nat_s = 3\nwhat = \"kill\"\ndevice = \"pi-9\"\n[[requests]]",
            "did you mean `pi-1`?",
        ),
        (
            "[[requests]]",
            "[[fault]]\nat_s = 3\nwhat = \"slow\"\ndevice = \"pi\"\n[[requests]]",
            "has `percent`",
        ),
        (
            "[[requests]]",
            "[[fault]]\nat_s = 29\nwhat = \"kill\"\nstage = 0\nback_s = 9\n[[requests]]",
            "before the end",
        ),
    ] {
        let error = refused(from, to);
        assert!(error.contains(why), "{to}: {error}");
    }
}

#[test]
fn a_slower_device_or_link_shows_in_the_figures() {
    let figures = |text: &str| {
        let scenario = Scenario::parse(text).unwrap();
        let report = run(&scenario.schedule(3).unwrap());
        assert_eq!(report.violations, []);
        scenario.judge(&report).0
    };
    let plain = figures(SMALL);
    assert_eq!((plain.answered, plain.tokens), (2, 20));
    // 30 layers on 12.2 and 22 GB/s, 20 ms one way twice a token.
    let far = figures(&SMALL.replace("link = \"ethernet\"", "link = \"site-to-site\""));
    let token_s = |figures: &Figures| 1.0 / figures.tokens_per_s_p50;
    let more_s = token_s(&far) - token_s(&plain);
    assert!((0.039..0.050).contains(&more_s), "{more_s} s more a token");
    // The part of a Pi 5 on a quarter of its speed.
    let liar = "profile = \"pi4\"\nclaims = \"pi5\"";
    let slow = figures(&SMALL.replace("profile = \"pi5\"", liar));
    assert!(token_s(&slow) > token_s(&plain) * 1.8, "{slow:?} {plain:?}");
    assert!(slow.first_token_s_p50 > plain.first_token_s_p50);
}

#[test]
fn seeds_differ_and_repeat() {
    let churn = "[churn]\nshape = 0.6\nscale_s = 8\naway_s = 2\nfrom_s = 4\nuntil_s = 20\n";
    let text = SMALL.replace("[serve]", &format!("{churn}[serve]"));
    let scenario = Scenario::parse(&text).unwrap();
    let [a, b, again] = [1, 2, 1].map(|seed| scenario.schedule(seed).unwrap());
    assert_eq!(a, again);
    assert_ne!(a.faults, b.faults);
    assert!(!a.faults.is_empty() && a.faults.iter().all(|fault| fault.at_us < 20_000_000));
    assert_eq!(run(&a), run(&again));
}

#[test]
fn a_share_of_a_core_is_told_given_slack_and_used_up() {
    let of = |share: &str| {
        let text = SMALL.replace("name = \"pi\"", &format!("name = \"pi\"\n{share}"));
        Scenario::parse(&text).unwrap().schedule(3).unwrap()
    };
    let (whole, tenth) = (of(""), of("cpu = 0.1"));
    let told = |schedule: &Schedule| schedule.devices[1].weight_bytes_per_s;
    assert_eq!((told(&whole) / 10, told(&of("cpu = 1.0"))), (told(&tenth), told(&whole)));
    assert!(tenth.slack_us > whole.slack_us, "{} and {} µs", tenth.slack_us, whole.slack_us);
    // Placed as before, with a tenth of the speed: it is not the plan that makes it slower.
    let mut slow = whole.clone();
    slow.devices[1..].iter_mut().for_each(|device| device.cpu_permille = Some(100));
    slow.slack_us = tenth.slack_us;
    let scenario = Scenario::parse(SMALL).unwrap();
    let speed = |schedule: &Schedule| scenario.judge(&run(schedule)).0.tokens_per_s_p50;
    let (slow, fast) = (speed(&slow), speed(&whole));
    assert!(slow > 0.0 && slow < fast / 2.0, "{slow} and {fast} tokens/s");
}
