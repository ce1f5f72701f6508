//! A mesh places layers by the links that it measured itself, where nobody says how many stages.
#![expect(clippy::unwrap_used, reason = "tests")]

use atoll_sim::proto::plan::{ModelInfo, PlanError, PlanPolicy, Stage};
use atoll_sim::proto::planner::{Candidate, place};
use atoll_sim::{Scenario, Study};

use crate::plans::Plans;

mod plans;

/// What the mesh did before it knew links.
fn by_speed_and_memory(
    model: &ModelInfo,
    policy: &PlanPolicy,
    owner: Candidate,
    others: &[Candidate],
) -> Result<Vec<Stage>, PlanError> {
    // A rule is given what the owner has left beside embedding and head.
    let memory_bytes = owner.memory_bytes + model.embed_bytes + model.head_bytes;
    place(model, policy, Candidate { memory_bytes, ..owner }, others)
}

/// A node that holds so many layers.
fn device(name: &str, profile: &str, link: &str, site: &str, layers: u64) -> String {
    let more = format!("link = \"{link}\"\nsite = \"{site}\"");
    plans::device(name, profile, (layers, u64::from(name == "desk")), &more)
}

fn scenario(devices: &[String]) -> Scenario {
    let text = format!(
        "name = \"placed\"\nabout = \"Placed by what was measured.\"\nlasts_s = 60\n\
         model = \"smollm2:135m\"\nbetween_sites = \"site-to-site\"\n\
         serve = {{ at_s = 2, sessions = 2, spares = 0 }}\n\
         requests = [{{ count = 4, from_s = 12, every_s = 10, prompt_tokens = 30, \
         new_tokens = 40 }}]\n\
         [link_profile.far]\nlatency_ms = 60.0\njitter_ms = 5.0\nbytes_per_s = 5000000\n\
         source = \"An estimate.\"\n\
         [link_profile.thin]\nlatency_ms = 0.1\njitter_ms = 0.1\nbytes_per_s = 50000\n\
         source = \"An estimate.\"\n{}",
        devices.concat()
    );
    Scenario::parse(&text).unwrap()
}

/// The plan, and tokens per second with it and with the rule that knows no links.
fn placed(devices: &[String]) -> (Vec<(usize, usize)>, f64, f64) {
    let scenario = scenario(devices);
    let schedule = scenario.schedule(1).unwrap();
    let mut plans = Plans::default();
    let ours = Study::of(&schedule).claim(&mut plans).run();
    let rule = Study::of(&schedule).place_by(by_speed_and_memory).run();
    assert_eq!((&ours.violations, &rule.violations), (&vec![], &vec![]));
    let speed = |report| scenario.judge(report).0.tokens_per_s_p50;
    let (_, latest) = plans.0.pop().unwrap();
    (latest, speed(&ours), speed(&rule))
}

#[test]
fn a_slow_link_is_avoided() {
    // Far away, and near behind a thin line.
    for link in ["far", "thin"] {
        let (plan, ours, rule) = placed(&[
            device("desk", "mini-pc", "ethernet", "home", 12),
            device("shed", "laptop", "ethernet", "home", 20),
            device("attic", "workstation", link, "home", 30),
        ]);
        let nodes: Vec<usize> = plan.iter().map(|(node, _)| *node).collect();
        assert!(!nodes.contains(&2), "the fastest and largest, but {link}: {plan:?}");
        assert!(ours > 5.0 * rule, "{link}: {ours} against {rule} tokens/s");
    }
}

#[test]
fn links_between_others_count() {
    let (plan, ours, rule) = placed(&[
        device("desk", "mini-pc", "ethernet", "home", 3),
        device("shed", "mini-pc", "ethernet", "home", 10),
        device("office-1", "mini-pc", "ethernet", "office", 12),
        device("office-2", "mini-pc", "ethernet", "office", 9),
    ]);
    let sites: Vec<bool> = plan.iter().map(|(node, _)| *node > 1).collect();
    let crossings = sites.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let ends = usize::from(sites[0]) + usize::from(sites[sites.len() - 1]);
    assert_eq!(crossings + ends, 2, "to the office and back, once: {plan:?}");
    assert!(ours > 1.5 * rule, "{ours} against {rule} tokens/s");
}

#[test]
fn a_node_that_is_fastest_alone_stays_alone() {
    let all = |profile| {
        [
            device("desk", "mini-pc", "ethernet", "home", 30),
            device("shed", profile, "ethernet", "home", 40),
        ]
    };
    let (plan, ..) = placed(&all("mini-pc"));
    assert_eq!(plan, [(0, 30)]);
    let (plan, ours, rule) = placed(&all("workstation"));
    assert_eq!(plan, [(1, 30)], "a node four times as fast is worth a millisecond on the way");
    assert!(ours > 1.5 * rule, "{ours} against {rule} tokens/s");
}
