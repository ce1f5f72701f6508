//! A placement rule of your own beside ours, on the same scenario: equal parts for everybody asked.

use atoll_sim::proto::plan::{LayerRange, ModelInfo, PlanError, PlanPolicy, Stage};
use atoll_sim::proto::planner::Candidate;
use atoll_sim::{Report, Scenario, Study};

const SCENARIO: &str = r#"
name = "unequal"
about = "A laptop and boards of a quarter of its speed."
lasts_s = 60
model = "smollm2:135m"
serve = { at_s = 2, stages = 3, sessions = 4, spares = 0 }
device = [
  { name = "laptop", profile = "laptop", link = "ethernet" },
  { name = "pi", profile = "pi4", link = "ethernet", count = 4 },
]
requests = [{ count = 4, from_s = 20, every_s = 8, prompt_tokens = 30, new_tokens = 60 }]
"#;

/// As many layers on each, in the order in which nodes are named.
fn equal_parts(
    model: &ModelInfo,
    policy: &PlanPolicy,
    owner: Candidate,
    others: &[Candidate],
) -> Result<Vec<Stage>, PlanError> {
    let wanted = policy.stages.unwrap_or(1).max(1);
    let n = u16::try_from(model.layer_bytes.len()).unwrap_or(u16::MAX);
    let nodes = [owner].into_iter().chain(others.iter().copied()).take(wanted.into());
    let part = |(i, node): (u16, Candidate)| {
        let layers = LayerRange { start: n * i / wanted, end: n * (i + 1) / wanted };
        Stage { node: node.node, layers }
    };
    Ok((0..).zip(nodes).map(part).collect())
}

#[expect(clippy::print_stdout, reason = "an example")]
pub(crate) fn main() {
    let scenario = Scenario::parse(SCENARIO).expect("it can be read");
    let schedule = scenario.schedule(1).expect("these devices hold the model");
    let speed = |report: &Report| {
        assert_eq!(report.violations, []);
        scenario.judge(report).0.tokens_per_s_p50
    };
    let ours = speed(&Study::of(&schedule).run());
    let equal = speed(&Study::of(&schedule).place_by(equal_parts).run());
    println!("tokens/s: {ours:.1} by the planner, {equal:.1} in equal parts");
    assert!(ours > 1.2 * equal, "layers follow speed: {ours} against {equal}");
}
