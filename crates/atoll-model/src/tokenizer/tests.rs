#![expect(clippy::unwrap_used, reason = "tests")]

use quickcheck::quickcheck;

use super::*;
use crate::config::Architecture;
use crate::gguf::{GgufFile, GgufWriter, Value};
use crate::{BlockType, tiny};

fn tiny_tokenizer() -> Tokenizer {
    let bytes = tiny::random_model(&tiny::config(Architecture::Llama), BlockType::Q8_0, 1);
    Tokenizer::from_gguf(GgufFile::parse(bytes).unwrap().metadata()).unwrap()
}

fn metadata(keys: Vec<(&str, Value)>) -> Metadata {
    let mut writer = GgufWriter::new();
    for (key, value) in keys {
        writer.key(&format!("tokenizer.ggml.{key}"), value);
    }
    Metadata::parse(&writer.to_bytes()).unwrap()
}

fn strings(texts: &[&str]) -> Value {
    Value::Strings(texts.iter().collect())
}

/// A SentencePiece vocabulary: `<unk>`, `<s>`, `</s>`, the bytes, then `pieces` with scores.
fn sentence(pieces: &[(&str, f32)]) -> Tokenizer {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    let mut kinds = vec![2, 3, 3];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    kinds.resize(tokens.len(), 6);
    let mut scores = vec![0.0; tokens.len()];
    for (piece, score) in pieces {
        tokens.push((*piece).to_owned());
        kinds.push(1);
        scores.push(*score);
    }
    let keys = vec![
        ("model", Value::String("llama".to_owned())),
        ("tokens", Value::Strings(tokens.into_iter().collect())),
        ("token_type", Value::Ints(kinds)),
        ("scores", Value::Floats(scores)),
    ];
    Tokenizer::from_gguf(&metadata(keys)).unwrap()
}

fn texts(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, false).unwrap();
    ids.iter().map(|&id| tokenizer.token(id).unwrap().to_owned()).collect()
}

#[test]
fn merges_apply_within_pre_tokens() {
    let check =
        |text: &str, expected: &[&str]| assert_eq!(texts(&tiny_tokenizer(), text), expected);
    check("", &[]);
    check(" the", &["Ġthe"]);
    check("the", &["t", "he"]);
    check("in the end", &["in", "Ġthe", "Ġ", "e", "nd"]);
    check("12", &["1", "2"]);
    check("  a", &["Ġ", "Ġa"]);
    check("é", &["Ã", "©"]);
}

quickcheck! {
    /// Any merges over four letters, any word of them.
    fn merging_is_the_librarys(pairs: Vec<(u8, u8)>, word: Vec<u8>, whole: bool) -> bool {
        use tokenizers::Model as _;
        let mut tokens: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).into();
        let mut merges = Vec::new();
        for (left, right) in pairs.into_iter().take(40) {
            let part = |at: u8| tokens[usize::from(at) % tokens.len()].clone();
            let (left, right) = (part(left), part(right));
            let both = format!("{left}{right}");
            if both.len() <= 8 && !merges.contains(&(left.clone(), right.clone())) {
                merges.push((left, right));
                if !tokens.contains(&both) {
                    tokens.push(both);
                }
            }
        }
        let word: String = word.iter().map(|at| char::from(b'a' + at % 4)).collect();
        let texts = merges.iter().map(|(left, right)| format!("{left} {right}"));
        let keys = vec![
            ("model", Value::String("gpt2".to_owned())),
            ("pre", Value::String(if whole { "llama-bpe" } else { "gpt-2" }.to_owned())),
            ("token_type", Value::Ints(vec![1; tokens.len()])),
            ("tokens", Value::Strings(tokens.iter().collect())),
            ("merges", Value::Strings(texts.collect())),
            ("add_bos_token", Value::Bool(false)),
        ];
        let ours = Tokenizer::from_gguf(&metadata(keys)).unwrap().encode(&word, false).unwrap();
        let vocab: tokenizers::models::bpe::Vocab = tokens.into_iter().zip(0..).collect();
        let library = tokenizers::models::bpe::BPE::builder().vocab_and_merges(vocab, merges);
        let library = library.ignore_merges(whole).build().unwrap().tokenize(&word).unwrap();
        ours == library.iter().map(|token| token.id).collect::<Vec<_>>()
    }
}

#[test]
fn special_tokens_are_found_in_text() {
    let check =
        |text: &str, expected: &[&str]| assert_eq!(texts(&tiny_tokenizer(), text), expected);
    check("<|im_start|>a<|im_end|>", &["<|im_start|>", "a", "<|im_end|>"]);
    check("<|im_end|><|im_end|>", &["<|im_end|>", "<|im_end|>"]);
    check("<|im_en", &["<", "|", "i", "m", "_", "e", "n"]);
    check("<<|im_end|>>", &["<", "<|im_end|>", ">"]);
    let tokenizer = tiny_tokenizer();
    let end = tokenizer.id("<|im_end|>").unwrap();
    assert!(tokenizer.is_end(end) && tokenizer.is_end(tokenizer.id("<|endoftext|>").unwrap()));
    assert!(!tokenizer.is_end(tokenizer.id("<|im_start|>").unwrap()));
    assert_eq!(tokenizer.eos(), Some(end));
    assert_eq!(tokenizer.decode(&[end, tokenizer.id("Ġthe").unwrap(), end]), " the");
}

quickcheck! {
    fn byte_level_round_trips(text: String) -> bool {
        let tokenizer = tiny_tokenizer();
        let ids = tokenizer.encode(&text, true).unwrap();
        tokenizer.decode(&ids) == text
    }

    fn sentence_round_trips(text: String) -> bool {
        let tokenizer = sentence(&[("▁", -1.0), ("a", -2.0)]);
        // The space symbol itself is read as a space.
        let text = text.replace('▁', " ");
        tokenizer.decode(&tokenizer.encode(&text, true).unwrap()) == text
    }

    fn stream_equals_decode(text: String, noise: Vec<u32>) -> bool {
        let tokenizer = tiny_tokenizer();
        let mut ids = tokenizer.encode(&text, false).unwrap();
        ids.extend(noise.iter().map(|id| id % 400));
        ids.extend(tokenizer.encode(&text, false).unwrap());
        let mut stream = tokenizer.stream();
        let mut streamed: String = ids.iter().map(|&id| stream.push(id)).collect();
        streamed.push_str(&stream.finish());
        streamed == tokenizer.decode(&ids)
    }
}

#[test]
fn stream_holds_back_what_is_not_whole() {
    let tokenizer = tiny_tokenizer();
    let ids = tokenizer.encode("a€b", false).unwrap();
    let mut stream = tokenizer.stream();
    let pieces: Vec<_> = ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(pieces, ["a", "", "", "€", "b"]);
    assert_eq!(stream.push(ids[1]), "");
    assert_eq!(stream.push(ids[0]), "\u{FFFD}a");
    assert_eq!(stream.push(ids[1]), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
}

#[test]
fn sentence_joins_by_score_then_from_the_left() {
    let pieces = [("▁", -9.0), ("a", -9.0), ("b", -9.0), ("aa", -1.0), ("ab", -0.5), ("▁a", -3.0)];
    let tokenizer = sentence(&pieces);
    let check = |text: &str, expected: &[&str]| assert_eq!(texts(&tokenizer, text), expected);
    check("aaa", &["▁", "aa", "a"]);
    check("aab", &["▁a", "ab"]);
    check("€", &["▁", "<0xE2>", "<0x82>", "<0xAC>"]);
    check("a</s>a", &["▁a", "</s>", "▁a"]);
    assert_eq!(tokenizer.encode("", true).unwrap(), [1]);
    assert!(tokenizer.encode("", false).unwrap().is_empty());
    assert_eq!(tokenizer.decode(&tokenizer.encode(" x y", true).unwrap()), " x y");
}

#[test]
fn blob_gives_the_same_tokenizer() {
    for tokenizer in [tiny_tokenizer(), sentence(&[("▁", -0.1), ("▁a", 1e-30)])] {
        let blob = tokenizer.to_blob();
        assert!(blob.starts_with(br#"{"version":1,"#));
        let again = Tokenizer::from_blob(&blob).unwrap();
        assert_eq!(again.to_blob(), blob);
        let text = "In the end, <|im_end|> 3.14 is π";
        assert_eq!(again.encode(text, true).unwrap(), tokenizer.encode(text, true).unwrap());
    }
}

#[test]
fn bad_blobs_are_errors() {
    let blob = String::from_utf8(tiny_tokenizer().to_blob()).unwrap();
    let check = |from: &str, to: &str, expected: &str| {
        let spoilt = blob.replacen(from, to, 1);
        assert_ne!(spoilt, blob);
        let error = Tokenizer::from_blob(spoilt.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("\"version\":1", "\"version\":2", "unsupported tokenizer version 2");
    check("\"eos\":270", "\"eos\":320", "special token 320 is not among 320 tokens");
    check("\"smollm\"", "\"klingon\"", "klingon");
    check("\"kinds\":[1,", "\"kinds\":[", "320 tokens have 319 kinds");
    check("\"kinds\":[1,", "\"kinds\":[99,", "token kind 99");
    check("\"Ġ t\"", "\"Ġt\"", "does not have two parts");
    check("\"Ġthe\"", "\"in\"", "are both \"in\"");
    for len in (0..blob.len()).step_by(101) {
        assert!(Tokenizer::from_blob(&blob.as_bytes()[..len]).is_err());
    }
}

#[test]
fn unsupported_tokenizers_are_named() {
    let check = |keys, expected: &str| {
        let error = Tokenizer::from_gguf(&metadata(keys)).unwrap_err().to_string();
        assert_eq!(error, expected);
    };
    let model = |name: &str| ("model", Value::String(name.to_owned()));
    let tokens = || ("tokens", strings(&["a"]));
    check(vec![model("gpt2")], "missing metadata key tokenizer.ggml.tokens");
    check(vec![tokens(), model("t5")], "unsupported tokenizer: t5");
    check(vec![tokens(), model("bert")], "missing metadata key tokenizer.ggml.cls_token_id");
    check(
        vec![tokens(), model("gpt2"), ("pre", Value::String("tekken".to_owned()))],
        "unsupported pre-tokenizer: tekken",
    );
    check(
        vec![tokens(), model("gpt2")],
        "unsupported pre-tokenizer: none is named; convert the model again",
    );
}

/// The tiny vocabulary as a `tokenizer.json`.
fn tiny_json(pre_tokenizer: &str, normalizer: &str) -> Vec<u8> {
    let tokenizer = tiny_tokenizer();
    let definition = tokenizer.vocabulary.definition();
    let Model::ByteLevel { merges, .. } = &definition.model else { panic!("byte-level") };
    let vocab: serde_json::Map<_, _> = (0_u32..)
        .zip(definition.tokens.iter())
        .take(268)
        .map(|(id, token)| (token.to_owned(), id.into()))
        .collect();
    let added: Vec<_> = (268..271)
        .map(|id| {
            let content = definition.tokens.get(id);
            serde_json::json!({"id": id, "content": content, "special": true})
        })
        .collect();
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    serde_json::to_vec(&serde_json::json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": parse(normalizer),
        "pre_tokenizer": parse(pre_tokenizer),
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }))
    .unwrap()
}

const SMOLLM: &str = r#"{"type": "Sequence", "pretokenizers": [
    {"type": "Digits", "individual_digits": true},
    {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]}"#;

#[test]
fn tokenizer_json_gives_the_same_ids() {
    let config = br#"{"eos_token": "<|im_end|>", "bos_token": {"content": "<|endoftext|>"}}"#;
    let tokenizer = Tokenizer::from_json(&tiny_json(SMOLLM, "null"), Some(config)).unwrap();
    let reference = tiny_tokenizer();
    for text in ["In the end, 3.14", "<|im_start|> a\n\n b<|im_end|>", "naïve  \t café 🦀"] {
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(ids, reference.encode(text, true).unwrap(), "{text}");
    }
    assert_eq!(tokenizer.eos(), reference.eos());
}

#[test]
fn tokenizer_json_is_normalized_where_it_says_so() {
    let tokenizer = Tokenizer::from_json(&tiny_json(SMOLLM, r#"{"type": "NFC"}"#), None).unwrap();
    assert_eq!(texts(&tokenizer, "e\u{301}"), ["Ã", "©"]);
}

#[test]
fn unsupported_tokenizer_json_is_named() {
    let check = |json: Vec<u8>, expected: &str| {
        let error = Tokenizer::from_json(&json, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(tiny_json(SMOLLM, r#"{"type": "NFKC"}"#), "unsupported normalizer: NFKC");
    check(tiny_json(r#"{"type": "Whitespace"}"#, "null"), "unsupported pre-tokenizer");
    check(
        br#"{"model": {"type": "Unigram", "vocab": {}}}"#.to_vec(),
        "unsupported tokenizer: Unigram in tokenizer.json",
    );
    check(b"{".to_vec(), "malformed tokenizer.json");
}

#[test]
fn long_runs_are_cut_in_bounded_time() {
    let tokenizer = tiny_tokenizer();
    for unit in [" ", "\n", "a", "'", "1", " \n", "é"] {
        let text = unit.repeat(100_000);
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text, false).unwrap()), text);
    }
}

/// Needs real models: `ATOLL_TEST_MODELS` names a folder that holds them.
#[test]
fn golden_prompts_give_llama_cpps_ids() {
    for name in ["smollm2-135m", "qwen2.5-coder-0.5b"] {
        let Some(folder) = std::env::var_os("ATOLL_TEST_MODELS") else {
            #[expect(clippy::print_stderr, reason = "a test that does not run must say so")]
            {
                eprintln!("SKIPPED for {name}: ATOLL_TEST_MODELS names no folder with {name}.gguf");
            }
            continue;
        };
        let path = std::path::Path::new(&folder).join(format!("{name}.gguf"));
        let tokenizer = Tokenizer::from_gguf(GgufFile::open(&path).unwrap().metadata()).unwrap();
        let golden = format!("{}/../../tests/data/golden-{name}.json", env!("CARGO_MANIFEST_DIR"));
        let golden: serde_json::Value =
            serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            let ids = tokenizer.encode(case["prompt"].as_str().unwrap(), true).unwrap();
            assert_eq!(serde_json::json!(ids), case["prompt_ids"], "{}", case["prompt"]);
            assert_eq!(tokenizer.decode(&ids), case["prompt"]);
        }
    }
}
