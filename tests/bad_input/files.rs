//! Model files that are none.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::tempdir;

use crate::atoll::{self, Run};
use crate::models::SMOLLM2;
use crate::random::Random;

/// The commands that open a model file.
const OPENERS: &[&[&str]] = &[&["show"], &["run", "Hello", "--local", "--max-tokens", "2"]];

/// Opens `bytes` as a model with every command that does; each must refuse with `words`.
fn refused(bytes: &[u8], words: &[&str]) {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    fs::write(&path, bytes).unwrap();
    for opener in OPENERS {
        let run = open(folder.path(), &path, opener);
        assert!(matches!(run.code, 1 | 9), "{opener:?}: {run}");
        run.refuses(run.code, words);
        assert!(run.stderr.contains("bad.gguf"), "does not say which file: {run}");
        assert!(run.stdout.trim().is_empty(), "output before the refusal: {run}");
    }
}

fn open(folder: &Path, path: &Path, opener: &[&str]) -> Run {
    let mut args = vec![opener[0], path.to_str().unwrap()];
    args.extend(&opener[1..]);
    let data = folder.join("data");
    atoll::run_within(atoll::command(&data, &args), Duration::from_secs(60))
}

#[test]
fn files_that_are_no_gguf_are_refused() {
    refused(b"", &["bad.gguf"]);
    refused(b"GGU", &["bad.gguf"]);
    refused(b"GGUF", &["runcated"]);
    refused(b"<!DOCTYPE html><html></html>", &["not a GGUF file"]);
    refused(b"GGUF\x63\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", &["version", "99"]);
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    let header = |tensors: u64, keys: u64| {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(keys.to_le_bytes());
        bytes
    };
    refused(&header(u64::MAX, 0), &[&u64::MAX.to_string()]);
    refused(&header(1, 1 << 60), &[&(1u64 << 60).to_string()]);
    let mut long_key = header(0, 1);
    long_key.extend((u64::MAX - 8).to_le_bytes());
    refused(&long_key, &[]);
    let mut long_array = header(0, 1);
    long_array.extend(3u64.to_le_bytes());
    long_array.extend(b"a.b\x09\0\0\0\x04\0\0\0");
    long_array.extend((1u64 << 61).to_le_bytes());
    refused(&long_array, &[]);
}

#[test]
fn cut_files_are_refused() {
    let Some(path) = SMOLLM2.path() else { return };
    let whole = fs::read(path).unwrap();
    for keep in [100, 5_000, 1_000_000, whole.len() / 2, whole.len() - 1] {
        refused(&whole[..keep], &[]);
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let Some(path) = SMOLLM2.path() else { return };
    let whole = fs::read(path).unwrap();
    let changed = |key: &[u8], from: &[u8], to: &[u8]| {
        let mut bytes = whole.clone();
        let at = find(&bytes, key, 0);
        let at = find(&bytes, from, at + key.len());
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    refused(&changed(b"general.architecture", b"llama", b"lhama"), &["lhama"]);
    refused(&changed(b"tokenizer.ggml.pre", b"smollm", b"smallm"), &["smallm"]);
    refused(&changed(b"tokenizer.ggml.model", b"gpt2", b"gptx"), &["gptx"]);
    // The tensor's name, two dimensions of eight bytes and their count, then its type: Q4_1 is 3.
    let mut unknown_type = whole.clone();
    let name = b"blk.0.attn_k.weight";
    let at = find(&unknown_type, name, 0) + name.len() + 4 + 16;
    assert_eq!(unknown_type[at..at + 4], 3u32.to_le_bytes());
    unknown_type[at..at + 4].copy_from_slice(&77u32.to_le_bytes());
    refused(&unknown_type, &["77"]);
}

fn find(bytes: &[u8], needle: &[u8], from: usize) -> usize {
    let at = bytes[from..].windows(needle.len()).position(|window| window == needle);
    from + at.expect("it is in the file")
}

/// A flipped bit is refused or harmless: never a panic, a signal or a hang.
#[test]
fn flipped_bits_do_not_hurt() {
    let Some(path) = SMOLLM2.path() else { return };
    let mut bytes = fs::read(path).unwrap();
    let folder = tempdir().unwrap();
    let bad = folder.path().join("bad.gguf");
    // Everything before the weights: counts, keys, vocabulary, shapes, offsets.
    let head = find(&bytes, b"output_norm.weight", 0) + 20_000;
    let mut random = Random::from_environment("flipped_bits_do_not_hurt");
    for _ in 0..8 {
        let places: Vec<(usize, u8)> =
            (0..1 + random.below(3)).map(|_| (random.below(head), 1 << random.below(8))).collect();
        places.iter().for_each(|(at, bit)| bytes[*at] ^= bit);
        fs::write(&bad, &bytes).unwrap();
        for opener in OPENERS {
            let run = open(folder.path(), &bad, opener);
            run.did_not_panic();
            assert!(matches!(run.code, 0 | 1 | 9), "{places:?}, {random}: {run}");
        }
        places.iter().for_each(|(at, bit)| bytes[*at] ^= bit);
    }
}

#[test]
fn a_file_that_is_not_there_is_not_found() {
    let data = tempdir().unwrap();
    for model in ["./absent.gguf", "absent:1b"] {
        let run = atoll::run_within(
            atoll::command(data.path(), &["run", model, "Hello", "--local"]),
            Duration::from_secs(20),
        );
        run.refuses(3, &["absent"]);
    }
    let folder = tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let run = atoll::run_within(
        atoll::command(data.path(), &["run", path, "Hello", "--local"]),
        Duration::from_secs(20),
    );
    assert!(run.code != 0, "{run}");
    run.refuses(run.code, &[path]);
}
