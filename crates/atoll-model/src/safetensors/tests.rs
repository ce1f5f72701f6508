#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::HashMap as Map;

use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::config::{Architecture, RopeScaling};
use crate::gguf::GgufFile;
use crate::{RopeStyle, tiny};

/// Writes a model's tensors as safetensors, in `n_files` files; returns the folder.
fn write(model: &GgufFile, config: &Value, n_files: usize) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    put("config.json", config.to_string().as_bytes());
    let mut files: Vec<Map<String, TensorView<'_>>> = vec![Map::new(); n_files];
    let mut index = serde_json::Map::new();
    for (i, info) in model.tensors().iter().enumerate() {
        let shape = if info.rows == 1 { vec![info.cols] } else { vec![info.rows, info.cols] };
        let bytes = model.tensor(&info.name).unwrap().bytes;
        let name = their_name(&info.name).unwrap();
        index.insert(name.clone(), format!("part-{}.safetensors", i % n_files).into());
        files[i % n_files].insert(name, TensorView::new(Dtype::F32, shape, bytes).unwrap());
    }
    for (i, file) in files.iter().enumerate() {
        let bytes = safetensors::serialize(file, None).unwrap();
        if n_files == 1 {
            put("model.safetensors", &bytes);
        } else {
            put(&format!("part-{i}.safetensors"), &bytes);
        }
    }
    if n_files > 1 {
        put(INDEX, json!({"weight_map": index}).to_string().as_bytes());
    }
    folder
}

fn tiny_model(architecture: Architecture) -> (GgufFile, Value) {
    let config = tiny::config(architecture);
    let json = tiny::config_json(&config);
    (GgufFile::parse(tiny::random_model(&config, BlockType::F32, 2)).unwrap(), json)
}

#[test]
fn folder_gives_the_tensors_under_ggufs_names() {
    for architecture in [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3] {
        for n_files in [1, 3] {
            let (model, json) = tiny_model(architecture);
            let folder = write(&model, &json, n_files);
            let read = SafetensorsFolder::open(folder.path()).unwrap();
            let mut expected = model.config().clone();
            expected.rope.style = RopeStyle::Neox;
            assert_eq!(read.config(), &expected);
            for info in model.tensors() {
                let (ours, theirs) = (read.tensor(&info.name), model.tensor(&info.name));
                assert_eq!(ours.unwrap().info, info);
                assert_eq!(ours.unwrap().bytes, theirs.unwrap().bytes);
            }
        }
    }
}

/// Changes `config.json` of a tiny Llama and opens it.
fn open_with(name: &str, value: Value) -> Result<ModelConfig, ModelError> {
    let (model, mut json) = tiny_model(Architecture::Llama);
    json[name] = value;
    let folder = write(&model, &json, 1);
    SafetensorsFolder::open(folder.path()).map(|read| read.config().clone())
}

#[test]
fn every_rope_scaling_is_read() {
    let check = |value: Value, expected: RopeScaling| {
        assert_eq!(open_with("rope_scaling", value).unwrap().rope.scaling, expected);
    };
    check(Value::Null, RopeScaling::None);
    check(json!({"rope_type": "default"}), RopeScaling::None);
    check(json!({"type": "linear", "factor": 2}), RopeScaling::Linear { factor: 2.0 });
    check(
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 128}),
        RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 128,
        },
    );
    check(
        json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}),
        RopeScaling::Yarn {
            factor: 4.0,
            original_context: 128,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 0.1 * libm::log(4.0) + 1.0,
        },
    );
    let rope = open_with("rope_parameters", json!({"rope_theta": 5e5, "rope_type": "default"}));
    assert_eq!(rope.unwrap().rope.theta.to_bits(), 5e5_f64.to_bits());
}

#[test]
fn what_is_not_supported_is_named() {
    let check = |name: &str, value: Value, expected: &str| {
        let error = open_with(name, value).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("model_type", json!("gemma2"), "unsupported architecture: gemma2");
    check("architectures", json!(["LlamaForTokenClassification"]), "LlamaForTokenClassification");
    check("hidden_act", json!("gelu"), "unsupported activation: gelu");
    check("use_sliding_window", json!(true), "unsupported attention: sliding window");
    check("quantization_config", json!({"quant_method": "awq"}), "unsupported quantization: awq");
    check("rope_scaling", json!({"type": "dynamic", "factor": 2}), "RoPE scaling: dynamic");
    check("rope_scaling", json!({"type": "linear"}), "missing metadata key factor");
    check("hidden_size", json!(-1), "config.json, hidden_size: it is not a count");
    check("hidden_size", json!(65), "tensor token_embd.weight has 320 rows of 64 columns");
    check("num_hidden_layers", json!(3), "unsupported tensor: blk.3.");
    check("num_hidden_layers", json!(5), "missing tensor blk.4.attn_norm.weight");
    check("attention_bias", json!(true), "missing tensor blk.0.attn_q.bias");
    check("tie_word_embeddings", json!(false), "missing tensor output.weight");
}

#[test]
fn spoilt_files_are_errors() {
    let (model, json) = tiny_model(Architecture::Llama);
    let folder = write(&model, &json, 1);
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let check = |spoilt: &[u8], expected: &str| {
        std::fs::write(&path, spoilt).unwrap();
        let error = SafetensorsFolder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&[], "length of the header");
    check(&[0xFF; 64], "length of the header is 18446744073709551615");
    check(&bytes[..bytes.len() - 1], "malformed model.safetensors");
    check(&bytes[..100], "malformed model.safetensors");
    let mut random = tiny::Random(9);
    for _ in 0..300 {
        let mut spoilt = bytes.clone();
        let at = usize::try_from(random.next() % 4000).unwrap();
        spoilt[at] = random.next().to_le_bytes()[0];
        std::fs::write(&path, spoilt).unwrap();
        // Whatever comes: no panic.
        let _ = SafetensorsFolder::open(folder.path());
    }
}

#[test]
fn index_does_not_reach_outside() {
    let (model, json) = tiny_model(Architecture::Llama);
    let folder = write(&model, &json, 2);
    let index = json!({"weight_map": {"a": "../model.safetensors"}});
    std::fs::write(folder.path().join(INDEX), index.to_string()).unwrap();
    let error = SafetensorsFolder::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("is no file name"), "{error}");
}
