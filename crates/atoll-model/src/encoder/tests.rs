#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;

use atoll_kernels::{BlockType, Isa};

use super::*;
use crate::files::ModelFiles;
use crate::gguf::{GgufFile, GgufWriter, Value, encoder_keys};
use crate::manifest::Manifest;
use crate::stage::Stage;
use crate::tensor::TensorInfo;
use crate::tiny;
use crate::weights::Part;

/// A tiny random encoder and what PyTorch makes of three texts (`tests/peers/encoder.py tiny`).
fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/encoder"))
}

fn files() -> ModelFiles {
    ModelFiles::open_any(&folder()).unwrap()
}

fn encoder(source: &TensorSource, isa: Isa, threads: usize) -> Result<Encoder, ModelError> {
    Encoder::load(source, &Arc::new(Compute::new(isa, threads).unwrap()), &mut |_| {})
}

fn expected() -> Vec<(String, Vec<u32>, Vec<f32>)> {
    let json = std::fs::read(folder().join("expected.json")).unwrap();
    let root: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let cases = root["cases"].as_array().unwrap().iter().map(|case| {
        let text = case["text"].as_str().unwrap().to_owned();
        let ids = serde_json::from_value(case["ids"].clone()).unwrap();
        (text, ids, serde_json::from_value(case["embedding"].clone()).unwrap())
    });
    cases.collect()
}

/// The same model as GGUF, its matrices in `dtype`.
fn as_gguf(files: &ModelFiles, dtype: BlockType) -> GgufFile {
    let mut writer = GgufWriter::new();
    for (key, value) in encoder_keys(files.source.config(), &files.tokenizer).unwrap() {
        writer.key(&key, value);
    }
    for spec in files.source.config().all_tensors() {
        let tensor = files.source.require(&spec.name).unwrap();
        let is_rounded = spec.rows > 1 && dtype == BlockType::F16;
        let info = TensorInfo {
            dtype: if is_rounded { dtype } else { BlockType::F32 },
            ..tensor.info.clone()
        };
        let half = |value: f32| half::f16::from_f32(value).to_le_bytes();
        let bytes = match is_rounded {
            true => tensor.dequantize().into_iter().flat_map(half).collect(),
            false => tensor.bytes.to_vec(),
        };
        writer.tensor(info, bytes);
    }
    GgufFile::parse(writer.to_bytes()).unwrap()
}

#[test]
fn embeddings_are_those_of_torch() {
    let (files, cases) = (files(), expected());
    let encoder = encoder(&files.source, Isa::detect(), 2).unwrap();
    assert_eq!(cases.len(), 3);
    for (text, ids, want) in cases {
        let found = encoder.embed_text(&files.tokenizer, &text).unwrap();
        assert_eq!(found.tokens, ids.len(), "{text}");
        assert_eq!(found.is_cut, ids.len() == 20, "{text}");
        let off = found.values.iter().zip(&want).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0.0, f32::max) < 1e-6, "{text}: {:?} not {want:?}", found.values);
        assert_eq!(encoder.embed(&ids).unwrap(), found.values, "{text}");
    }
}

#[test]
fn every_instruction_set_and_number_of_threads_gives_the_same_bits() {
    let files = files();
    let bits = |isa, threads| {
        let encoder = encoder(&files.source, isa, threads).unwrap();
        let all = expected().into_iter().flat_map(|(_, ids, _)| encoder.embed(&ids).unwrap());
        all.map(f32::to_bits).collect::<Vec<_>>()
    };
    let want = bits(Isa::Generic, 1);
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        for threads in [1, 3] {
            assert_eq!(bits(isa, threads), want, "{} {threads}", isa.name());
        }
    }
}

/// The second layer with the first 32 of its 64 neurons, and with the others saying nothing.
#[test]
fn a_layer_may_be_narrower_than_others() {
    let files = files();
    let model = |is_narrow: bool| {
        let mut writer = GgufWriter::new();
        for (key, value) in encoder_keys(files.source.config(), &files.tokenizer).unwrap() {
            let is_width = is_narrow && key.ends_with("feed_forward_length");
            writer.key(&key, if is_width { Value::Ints(vec![64, 32]) } else { value });
        }
        for spec in files.source.config().all_tensors() {
            let tensor = files.source.require(&spec.name).unwrap();
            let mut values = tensor.dequantize();
            let mut info = TensorInfo { dtype: BlockType::F32, ..tensor.info.clone() };
            let is_up = spec.name.starts_with("blk.1.ffn_up");
            if is_up && is_narrow {
                values.truncate(values.len() / 2);
                *(if info.rows == 1 { &mut info.cols } else { &mut info.rows }) = 32;
            } else if is_up {
                let half = values.len() / 2;
                values[half..].fill(0.0);
            } else if spec.name == "blk.1.ffn_down.weight" && is_narrow {
                values = values.chunks(64).flat_map(|row| &row[..32]).copied().collect();
                info.cols = 32;
            }
            writer.tensor(info, values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<_>>());
        }
        GgufFile::parse(writer.to_bytes()).unwrap()
    };
    let [narrow, zeroed] = [true, false].map(model);
    assert_eq!(narrow.config().ffn_dims, [64, 32]);
    let embed = |file| {
        let encoder = encoder(&TensorSource::Gguf(file), Isa::detect(), 2).unwrap();
        encoder.embed_text(&files.tokenizer, "a boat in the lagoon").unwrap().values
    };
    let (found, want) = (embed(narrow), embed(zeroed));
    let off = found.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off < 1e-6, "{off}");
}

#[test]
fn gguf_says_all_that_the_folder_says() {
    let files = files();
    let file = as_gguf(&files, BlockType::F32);
    assert_eq!(file.config(), files.source.config());
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    assert_eq!(tokenizer.to_blob(), files.tokenizer.to_blob());
    let halves = as_gguf(&files, BlockType::F16);
    let embed = |source: &TensorSource| {
        encoder(source, Isa::detect(), 1).unwrap().embed_text(&tokenizer, "a boat").unwrap().values
    };
    let want = embed(&files.source);
    assert_eq!(embed(&TensorSource::Gguf(file)), want);
    let found = embed(&TensorSource::Gguf(halves));
    let cosine: f32 = found.iter().zip(&want).map(|(a, b)| a * b).sum();
    assert!(found != want && cosine > 0.9999, "{cosine}");
}

#[test]
fn words_are_cut_as_bert_does() {
    let tokenizer = files().tokenizer;
    let tokens = |text: &str| -> Vec<String> {
        let ids = tokenizer.encode(text, true).unwrap();
        ids.into_iter().map(|id| tokenizer.token(id).unwrap().to_owned()).collect()
    };
    let check = |text: &str, want: &str| assert_eq!(tokens(text).join(" "), want, "{text}");
    check("", "[CLS] [SEP]");
    check("Boats", "[CLS] boat ##s [SEP]");
    check("boats' TIDE?!", "[CLS] boat ##s ' tide ? ! [SEP]");
    check("unbelievably", "[CLS] [UNK] [SEP]");
    check("Ca\u{301}fé\tislanded\u{0}", "[CLS] cafe island ##ed [SEP]");
    check("the\u{4e2d}tide", "[CLS] the [UNK] tide [SEP]");
    check(&"4".repeat(101), "[CLS] [UNK] [SEP]");
    assert_eq!(
        tokenizer.decode(&tokenizer.encode("Unbelievable boats", true).unwrap()),
        "unbelievable boats"
    );
}

#[test]
fn what_is_no_text_for_it_is_refused() {
    let files = files();
    let encoder = encoder(&files.source, Isa::detect(), 1).unwrap();
    let refused = |tokens: &[u32]| encoder.embed(tokens).unwrap_err().to_string();
    assert!(refused(&[]).contains("no tokens"));
    assert!(refused(&[2, 99, 3]).contains("token: 99"), "{}", refused(&[2, 99, 3]));
    assert!(refused(&[4; 21]).contains("21 tokens"), "{}", refused(&[4; 21]));
    let empty = encoder.embed_text(&files.tokenizer, " \n").unwrap_err().to_string();
    assert!(empty.contains("no word"), "{empty}");
}

#[test]
fn encoders_and_decoders_are_told_apart() {
    let source = files().source;
    let part = Part { embed: true, layers: 0..2, head: true };
    let compute = Arc::new(Compute::new(Isa::detect(), 1).unwrap());
    let as_decoder = Stage::load(&source, &part, &compute, &mut |_| {});
    assert!(matches!(as_decoder, Err(ModelError::Encoder { architecture: "bert" })));
    assert!(matches!(ModelFiles::open(&folder()), Err(ModelError::Encoder { .. })));
    let split = Manifest::split::<ModelError>(
        "encoder",
        &source,
        &files().tokenizer,
        None,
        &mut |_, _, _| Ok(()),
    );
    assert!(matches!(split, Err(ModelError::Encoder { .. })), "{split:?}");
    let config = tiny::config(crate::Architecture::Llama);
    let decoder = GgufFile::parse(tiny::random_model(&config, BlockType::F32, 1)).unwrap();
    let as_encoder = encoder(&TensorSource::Gguf(decoder), Isa::detect(), 1);
    assert!(matches!(as_encoder, Err(ModelError::NotEncoder { architecture: "llama" })));
}

#[test]
fn folders_that_would_be_computed_wrongly_are_refused() {
    let check = |file: &str, from: &str, to: &str, want: &str| {
        let dir = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(folder()).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            if name == file {
                let text = String::from_utf8(bytes).unwrap();
                assert!(text.contains(from), "{text}");
                bytes = text.replace(from, to).into_bytes();
            }
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        if from.is_empty() {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, to).unwrap();
        }
        let error = ModelFiles::open_any(dir.path()).unwrap_err().to_string();
        assert!(error.contains(want), "{error}");
    };
    check("config.json", "\"gelu\"", "\"gelu_new\"", "activation: gelu_new");
    check(
        "config.json",
        "\"num_attention_heads\": 4",
        "\"num_attention_heads\": 5",
        "5 heads of 6",
    );
    check("config.json", "\"intermediate_size\": 64", "\"intermediate_size\": 32", "32 rows");
    check("sentence_bert_config.json", "20", "25", "25 tokens has 24 positions");
    let pooling = |json| check("1_Pooling/config.json", "", json, "pooling: ");
    pooling("{\"pooling_mode_cls_token\": true, \"pooling_mode_mean_tokens\": false}");
    pooling("{\"pooling_mode_cls_token\": true}");
    pooling("{\"pooling_mode_mean_tokens\": false}");
    check("tokenizer.json", "\"lowercase\": true", "\"lowercase\": false", "normalizer");
    check("tokenizer.json", "BertPreTokenizer", "Whitespace", "pre-tokenizer");
    check("tokenizer.json", "\"##\"", "\"@@\"", "WordPiece with other marks");
}
