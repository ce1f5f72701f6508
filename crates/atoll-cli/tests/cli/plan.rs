//! `atoll plan` on fleets that are not here.

use std::fs;

use atoll_model::{Architecture, BlockType, tiny};

use crate::atoll::{Atoll, Finished};

/// The desk has room for half of the model; the shelf is slow and near, the attic fast and far.
const FLEET: &str = r#"
origin = "desk"
defaults = { link_latency_s = 0.0004, link_bandwidth_bytes_per_s = 110e6 }
node = [
  { name = "desk", memory_bytes = 1_500_000_000, layer_s = 0.002, labels = ["site=home"] },
  { name = "shelf", memory_bytes = 4_000_000_000, layer_s = 0.008, labels = ["site=home"] },
  { name = "attic", memory_bytes = 4_000_000_000, layer_s = 0.001 },
]
link = [
  { from = "desk", to = "attic", latency_s = 0.2, bandwidth_bytes_per_s = 1e6 },
  { from = "attic", to = "desk", latency_s = 0.2, bandwidth_bytes_per_s = 1e6 },
]
[model]
name = "eight"
layers = 20
layer_bytes = 100_000_000
row_values = 4096
kv_bytes_per_position = 4096
embed_bytes = 100_000_000
head_bytes = 100_000_000
variant = [{ name = "light", layer_bytes = 50_000_000, loss_nats = 0.001 }]
"#;

fn plan(fleet: &str, more: &[&str]) -> Finished {
    let atoll = Atoll::new();
    let path = atoll.dir.path().join("fleet.toml");
    fs::write(&path, fleet).unwrap();
    let mut args = vec!["plan", "--fleet", path.to_str().unwrap()];
    args.extend(more);
    atoll.run(&args)
}

#[test]
fn rows_of_a_prompt_are_as_fast_as_the_fleet_says() {
    let first_s = |more: &str| {
        let fleet = FLEET.replace("layer_s = 0.001", &format!("layer_s = 0.001{more}"));
        let fleet = fleet.replace("layer_s = 0.002", &format!("layer_s = 0.002{more}"));
        plan(&fleet, &["--json"]).json()["predicted"]["ttft_s"].as_f64().unwrap()
    };
    let (usual, slow) = (first_s(""), first_s(", prefill_bytes_per_s = 1e9"));
    // 100 MB a layer: 0.1 s a row instead of 0.5 ms at most.
    assert!(slow > 50.0 * usual, "{slow} s, {usual} s");
    let finished =
        plan(&FLEET.replace("layer_s = 0.001", "layer_s = 0.001, prefill_bytes_per_s = 0"), &[]);
    finished.expect(2, "prefill_bytes_per_s of attic");
}

#[test]
fn without_a_fleet_a_node_is_asked() {
    let done = Atoll::new().run(&["plan"]);
    done.expect(4, "no node");
}

#[test]
fn a_plan_as_json_adds_up() {
    let json = plan(FLEET, &["--json", "--explain"]).expect(0, "").json();
    assert_eq!((&json["schema"], &json["origin"]), (&"atoll.plan/1".into(), &"desk".into()));
    assert_eq!(json["stages"][0]["node"], "desk");
    assert_eq!(json["stages"][1]["node"], "shelf");
    assert_eq!(json["stages"][1]["layers"][1], 20);
    let sum = |key: &str| {
        let parts = json[key].as_array().unwrap();
        parts.iter().map(|part| part["predicted_s"].as_f64().unwrap()).sum::<f64>()
    };
    let ends = json["predicted"]["ends_s"].as_f64().unwrap();
    let token_s = json["predicted"]["tpot_s"].as_f64().unwrap();
    assert!((sum("stages") + sum("hops") + ends - token_s).abs() < 1e-9, "{json}");
    // A hop is its latency and its frame's bytes; inside the desk it is free.
    assert_eq!(json["hops"][0]["predicted_s"], 0.0);
    let hop = &json["hops"][1];
    let expected = 0.0004 + hop["frame_bytes"].as_f64().unwrap() / 110e6;
    assert!((hop["predicted_s"].as_f64().unwrap() - expected).abs() < 1e-8, "{hop}");
    assert!(hop["frame_bytes"].as_u64().unwrap() > 4 * 4096);
    let left = &json["left_out"][0];
    assert_eq!(left["node"], "attic");
    assert!(left["why"].as_str().unwrap().contains("hops would add 21"), "{left}");
    assert!(left["change"].as_str().unwrap().contains("latency of"), "{left}");
}

#[test]
fn wishes_are_heeded() {
    let nodes = |more: &[&str]| {
        let args: Vec<&str> = more.iter().copied().chain(["--json"]).collect();
        let json = plan(FLEET, &args).expect(0, "").json();
        let stages = json["stages"].as_array().unwrap().clone();
        stages.iter().map(|s| s["node"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(nodes(&["--without", "shelf"]), ["attic"]);
    assert_eq!(nodes(&["--pin", "0..20=shelf"]), ["shelf"]);
    assert_eq!(nodes(&["--label", "site=home"]), ["desk", "shelf"]);
    // With lighter variants the desk holds it all.
    assert_eq!(nodes(&["--loss", "0.02"]), ["desk"]);
}

#[test]
fn many_users_are_planned_for() {
    let users = ["--users", "16", "--ctx", "512", "--explain", "--json"];
    let json = |objective| plan(FLEET, &[&users[..], &["--objective", objective]].concat());
    let [many, one] = ["throughput", "latency"].map(|objective| {
        let json = json(objective).expect(0, "").json();
        assert_eq!(json["objective"], objective);
        json
    });
    let number = |json: &serde_json::Value, key: &str| json[key].as_f64().unwrap();
    for (better, other) in [(&many, &one), (&one, &many)] {
        for key in ["users_tpot_s", "tpot_s"] {
            let (instead, there) = (&better["instead"], &other["predicted"]);
            assert_eq!(number(instead, key), number(there, key), "{key}: {better}");
        }
    }
    let (many, one) = (&many["predicted"], &one["predicted"]);
    assert!(number(many, "users_tpot_s") < number(one, "users_tpot_s"), "{many} {one}");
    assert!(number(many, "tpot_s") >= number(one, "tpot_s"), "{many} {one}");
    let rate = 16.0 / number(many, "users_tpot_s");
    assert!((number(many, "tokens_per_s") - rate).abs() < 1e-6 * rate, "{many}");
}

#[test]
fn people_get_a_table_and_a_picture() {
    let atoll = Atoll::new();
    let svg = atoll.dir.path().join("plan.svg");
    let text = plan(FLEET, &["--explain", "--svg", svg.to_str().unwrap()]);
    text.expect(0, "");
    assert!(text.stdout.contains("shelf") && text.stdout.contains("attic is left out: its hops"));
    let svg = fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("desk: layers 0.."), "{svg}");
}

#[test]
fn a_real_model_is_planned_by_its_own_sizes() {
    let atoll = Atoll::new();
    let bytes = tiny::random_model(&tiny::config(Architecture::Llama), BlockType::Q8_0, 1);
    let (model, fleet) = (atoll.dir.path().join("tiny.gguf"), atoll.dir.path().join("f.toml"));
    fs::write(&model, bytes).unwrap();
    fs::write(&fleet, FLEET).unwrap();
    let args = ["plan", model.to_str().unwrap(), "--fleet", fleet.to_str().unwrap(), "--json"];
    let json = atoll.run(&args).expect(0, "").json();
    assert_eq!(json["model"], "tiny");
    assert_eq!(json["stages"][0]["layers"], serde_json::json!([0, 4]));
    assert_eq!(json["stages"][0]["variants"][0], "as stored");
}

#[test]
fn what_cannot_be_says_what_is_missing() {
    let check = |fleet: &str, more: &[&str], code: i32, parts: &[&str]| {
        let finished = plan(fleet, more);
        for part in parts {
            finished.expect(code, part);
        }
    };
    let small = FLEET.replace("4_000_000_000", "300_000_000");
    check(&small, &[], 6, &["the model cannot be placed", "MB more memory in all", "try: "]);
    check(FLEET, &["--ctx", "100000"], 6, &["the model needs", "try: --ctx 50000 fits"]);
    let tiny_desk = FLEET.replace("1_500_000_000", "100_000_000");
    check(&tiny_desk, &[], 6, &["embedding and head need", "another origin"]);
    check(FLEET, &["--pin", "0..2=cellar"], 2, &["no node is called cellar"]);
    check(FLEET, &["--pin", "0..21=desk"], 2, &["layers 0..21 are pinned, the model has 20"]);
    check(FLEET, &["--without", "cellar"], 2, &["no node is called cellar"]);
    let both = ["--pin", "0..2=desk", "--pin", "1..3=shelf"];
    check(FLEET, &both, 2, &["1..3 are pinned to both desk and shelf"]);
    // What else is asked for is not in the way.
    let named = "it cannot keep together: layers 0..2 on desk; layers 1..3 on shelf";
    let more = [&both[..], &["--without", "attic"]].concat();
    let refused = plan(FLEET, &more);
    refused.expect(2, named);
    assert!(!refused.stderr.contains("attic not used"), "{}", refused.stderr);
    check(&FLEET.replace("shelf", "desk"), &[], 2, &["two nodes are called desk"]);
    check(&FLEET.replace("0.002", "-0.002"), &[], 2, &["layer_s of desk is -0.002"]);
    check(&FLEET.replace("0.002", "1e9"), &[], 2, &["layer_s of desk is 1000000000"]);
    check(&FLEET.replace("0.002", "nan"), &[], 2, &["layer_s of desk is NaN"]);
    check(&FLEET.replace("layer_s = 0.002,", ""), &[], 2, &["neither is weight_bytes_per_s"]);
    let itself = FLEET.replace("to = \"attic\"", "to = \"desk\"");
    check(&itself, &[], 2, &["desk has a link to itself", "try: "]);
    let many = FLEET.replace("name = \"shelf\",", "name = \"shelf\", count = 10000,");
    check(&many, &[], 2, &["10002 nodes, at most 1024"]);
    let endless =
        FLEET.replace("name = \"shelf\",", "name = \"shelf\", count = 9000000000000000000,");
    check(&endless, &[], 2, &["at most 1024"]);
    check("origin = 3", &[], 2, &["cannot read", "try: "]);
    let unknown = FLEET.replace("origin = \"desk\"", "origin = \"moon\"");
    check(&unknown, &[], 2, &["no node is called moon"]);
    Atoll::new().run(&["plan", "--fleet", "nowhere.toml"]).expect(3, "nowhere.toml");
}
