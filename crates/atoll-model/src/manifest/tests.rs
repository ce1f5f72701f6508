#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use super::*;
use crate::config::Architecture;
use crate::gguf::GgufFile;
use crate::tiny;

type Blobs = BTreeMap<BlobKind, Vec<u8>>;

fn split(architecture: Architecture) -> (TensorSource, Manifest, Blobs) {
    let config = tiny::config(architecture);
    let file = GgufFile::parse(tiny::random_model(&config, BlockType::Q4_0, 5)).unwrap();
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    let source = TensorSource::Gguf(file);
    let mut blobs = Blobs::new();
    let manifest = Manifest::split::<ModelError>(
        "tiny",
        &source,
        &tokenizer,
        Some("{{ messages }}"),
        &mut |kind, hash, bytes| {
            hash.verify("blob", bytes)?;
            blobs.insert(kind, bytes.to_vec());
            Ok(())
        },
    )
    .unwrap();
    (source, manifest, blobs)
}

#[test]
fn blobs_together_are_the_model() {
    for architecture in [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3] {
        let (source, manifest, blobs) = split(architecture);
        for (kind, entry) in manifest.blobs() {
            entry.blob.verify("blob", &blobs[&kind]).unwrap();
            assert_eq!(entry.bytes, blobs[&kind].len() as u64);
        }
        assert_eq!(manifest.total_bytes(), blobs.values().map(|b| b.len() as u64).sum::<u64>());
        let tokenizer = Tokenizer::from_blob(&blobs[&BlobKind::Tokenizer]).unwrap();
        assert_eq!(tokenizer.vocab_size(), manifest.config.vocab_size);
        let parts = blobs.iter().filter(|(kind, _)| **kind != BlobKind::Tokenizer);
        let parts = parts.map(|(_, bytes)| ShardBlob::parse(bytes.clone()).unwrap()).collect();
        let shards = ShardSet::new(manifest.config.clone(), parts).unwrap();
        let shards = TensorSource::Shards(shards);
        manifest.config.check_complete(&shards).unwrap();
        for spec in manifest.config.all_tensors() {
            let (ours, theirs) = (shards.tensor(&spec.name), source.tensor(&spec.name));
            assert_eq!(ours.unwrap().bytes, theirs.unwrap().bytes, "{}", spec.name);
        }
    }
}

#[test]
fn a_part_of_the_blobs_is_a_part_of_the_model() {
    let (_, manifest, blobs) = split(Architecture::Llama);
    let layer = || ShardBlob::parse(blobs[&BlobKind::Layer(2)].clone()).unwrap();
    let shards =
        TensorSource::Shards(ShardSet::new(manifest.config.clone(), vec![layer()]).unwrap());
    assert!(shards.tensor("blk.2.attn_q.weight").is_some());
    let error = shards.require("blk.1.attn_q.weight").unwrap_err().to_string();
    assert_eq!(error, "missing tensor blk.1.attn_q.weight");
    let check = |config: ModelConfig, blobs, expected: &str| {
        let error = ShardSet::new(config, blobs).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(manifest.config.clone(), vec![layer(), layer()], "it is there twice");
    let smaller = ModelConfig { n_layers: 2, ..manifest.config.clone() };
    check(smaller, vec![layer()], "unsupported tensor: blk.2.");
    let other = ModelConfig { ffn_dim: 64, ..manifest.config };
    check(other, vec![layer()], "tensor blk.2.ffn_gate.weight has 128 rows");
}

#[test]
fn json_is_canonical_and_names_the_model() {
    let (_, manifest, _) = split(Architecture::Qwen3);
    let json = manifest.to_json();
    assert!(json.starts_with(br#"{"version":1,"name":"tiny","config":{"architecture":"qwen3","#));
    let again = Manifest::parse(&json).unwrap();
    assert_eq!(again, manifest);
    assert_eq!(again.id(), BlobHash::of(&json).0);
    assert_eq!(split(Architecture::Qwen3).1.id(), manifest.id());
    let id = "5ef98d86ba58061635c089c1aa0749f9cda641b394dfc922daa462ed18a77a92";
    assert_eq!(BlobHash(manifest.id()).to_string(), id);
}

#[test]
fn spoilt_manifests_are_errors() {
    let (_, manifest, _) = split(Architecture::Llama);
    let json = String::from_utf8(manifest.to_json()).unwrap();
    let check = |from: &str, to: &str, expected: &str| {
        let spoilt = json.replacen(from, to, 1);
        assert_ne!(spoilt, json, "{from}");
        let error = Manifest::parse(spoilt.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("\"version\":1", "\"version\":9", "unsupported manifest version 9");
    check("{\"version\"", "{ \"version\"", "its JSON is not canonical");
    check("\"n_layers\":4", "\"n_layers\":5", "4 layers, the configuration says 5");
    check("\"n_layers\":4", "\"n_layers\":99999999", "number of layers is 99999999");
    check("\"tied\":true", "\"tied\":false", "head: 1 tensors instead of 2");
    check("\"ffn_dim\":128", "\"ffn_dim\":64", "layer 0: ");
    check("\"Q4_0\"", "\"Q9_9\"", "unsupported block type: Q9_9");
    check("\"blob\":\"", "\"blob\":\"x", "is no BLAKE3 hash");
    check("\"name\"", "\"path\"", "unknown field `path`");
    for len in (0..json.len()).step_by(13) {
        assert!(Manifest::parse(&json.as_bytes()[..len]).is_err());
    }
}
