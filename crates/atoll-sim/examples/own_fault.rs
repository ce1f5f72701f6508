//! A scenario, a device profile and a fault of your own: the fullest node is killed every second.

use atoll_sim::scenario::DeviceProfile;
use atoll_sim::schedule::What;
use atoll_sim::{Scenario, Study};

const SCENARIO: &str = r#"
name = "attic"
about = "Old machines under a roof."
lasts_s = 60
model = "smollm2:135m"
serve = { at_s = 2, stages = 3, sessions = 4, spares = 1 }
device = [
  { name = "desk", profile = "laptop", link = "ethernet" },
  { name = "old", profile = "attic-pc", link = "power-line", count = 6 },
]
requests = [{ count = 8, from_s = 8, every_s = 2, prompt_tokens = 30, new_tokens = 40 }]
"#;

#[expect(clippy::print_stdout, reason = "an example")]
pub(crate) fn main() {
    let mut scenario = Scenario::parse(SCENARIO).expect("it can be read");
    let profile = DeviceProfile {
        memory_bytes: 1_000_000_000,
        weight_bytes_per_s: 5_000_000_000,
        more_rows_bytes_per_s: 9_000_000_000,
        kv_bytes_per_s: None,
        more_rows_kv_bytes_per_s: None,
        job_us: 200,
        load_bytes_per_s: 80_000_000,
        source: "an estimate: two channels of DDR2".to_owned(),
    };
    scenario.device_profile.insert("attic-pc".to_owned(), profile);
    let schedule = scenario.schedule(1).expect("these devices hold the model");
    let mut killed = Vec::new();
    let report = Study::of(&schedule)
        .fault(10_000_000..14_500_000, |hands| {
            let others = (1..hands.n_nodes()).filter(|node| hands.is_up(*node));
            let fullest = others.max_by_key(|node| hands.used_bytes(*node))?;
            hands.strike(What::Kill { node: fullest, back_us: Some(3_000_000) });
            killed.push(fullest);
            Some(hands.now_us() + 1_000_000)
        })
        .run();
    assert_eq!((report.violations.len(), killed.len()), (0, 5), "{:?}", report.violations);
    let (figures, missed) = scenario.judge(&report);
    assert!(missed.is_empty(), "every request is answered: {missed:?}");
    println!("killed {killed:?}; longest wait {:.2} s", figures.gap_s_max);
}
