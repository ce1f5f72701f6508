#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::tiny;

#[test]
fn unknown_architecture_is_named() {
    let error = Architecture::parse("mamba").unwrap_err();
    assert_eq!(error.to_string(), "unsupported architecture: mamba");
}

#[test]
fn json_round_trips_exactly() {
    for (theta, eps) in [(10_000.0, 1e-5_f32), (1_000_000.0, 9.999_999e-7), (0.1 + 0.2, 0.1)] {
        let mut config = tiny::config(Architecture::Qwen3);
        config.rope.theta = theta;
        config.norm_eps = eps;
        config.rope.scaling = RopeScaling::Factors { factors: vec![1.000_000_1; 8] };
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<ModelConfig>(&json).unwrap(), config);
    }
}

#[test]
fn every_tensor_of_a_layer_is_listed_once() {
    let config = tiny::config(Architecture::Qwen2);
    let names: Vec<_> = config.all_tensors().map(|spec| spec.name).collect();
    let unique: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(unique.len(), names.len());
    assert_eq!(names.len(), 1 + 4 * 12 + 2);
}

#[test]
fn illegal_configurations_are_refused() {
    let check = |change: fn(&mut ModelConfig), expected: &str| {
        let mut config = tiny::config(Architecture::Llama);
        change(&mut config);
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(|config| config.n_layers = 0, "number of layers is 0");
    check(|config| config.n_layers = usize::MAX, "number of layers is");
    check(|config| config.n_kv_heads = 3, "4 heads cannot share 3");
    check(|config| config.ffn_dims = vec![128; 4], "they need no list");
    check(|config| config.ffn_dims = vec![64, 64, 96, 64], "the widest");
    check(|config| config.norm_eps = f32::NAN, "epsilon");
    check(|config| config.rope.n_dims = 15, "15 of 16 dimensions");
    check(|config| config.rope.n_dims = 18, "18 of 16 dimensions");
    check(|config| config.rope.theta = 0.0, "theta is 0");
    check(
        |config| config.rope.scaling = RopeScaling::Factors { factors: vec![1.0; 7] },
        "illegal scaling",
    );
    check(|config| config.rope.scaling = RopeScaling::Linear { factor: 0.0 }, "illegal scaling");
}
