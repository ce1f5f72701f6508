#![expect(clippy::unwrap_used, reason = "tests")]

use quickcheck::{Gen, QuickCheck};

use super::*;
use crate::config::{Architecture, RopeScaling};
use crate::tiny;

const ARCHITECTURES: [Architecture; 3] =
    [Architecture::Llama, Architecture::Qwen2, Architecture::Qwen3];

fn tiny_bytes() -> Vec<u8> {
    tiny::random_model(&tiny::config(Architecture::Llama), BlockType::Q8_0, 7)
}

/// Parses `bytes`, which must fail with a message that contains `expected`.
fn check_refused(bytes: Vec<u8>, expected: &str) {
    let error = GgufFile::parse(bytes).unwrap_err().to_string();
    assert!(error.contains(expected), "{error:?} does not say {expected:?}");
}

#[test]
fn reads_what_was_written() {
    for architecture in ARCHITECTURES {
        let config = tiny::config(architecture);
        let file = GgufFile::parse(tiny::random_model(&config, BlockType::Q4_0, 1)).unwrap();
        assert_eq!(file.config(), &config);
        let tensor = file.tensor("blk.3.ffn_down.weight").unwrap();
        assert_eq!((tensor.info.rows, tensor.info.cols), (64, 128));
        assert_eq!(tensor.bytes.len(), 64 * 4 * 18);
        assert!(tensor.to_floats().is_err());
        let norm = file.tensor("output_norm.weight").unwrap().to_floats().unwrap();
        assert!(norm.len() == 64 && norm.iter().all(|x| (0.8..1.2).contains(x)));
        assert!(file.tensor("blk.4.ffn_down.weight").is_none());
    }
}

#[test]
fn layers_may_differ_in_width() {
    let mut config = tiny::config(Architecture::Qwen2);
    config.ffn_dims = vec![64, 128, 96, 128];
    let file = GgufFile::parse(tiny::random_model(&config, BlockType::Q8_0, 1)).unwrap();
    assert_eq!(file.config(), &config);
    assert_eq!(file.tensor("blk.2.ffn_up.weight").unwrap().info.rows, 96);
    assert!(matches!(file.narrowed(&[64; 4]), Err(ModelError::InvalidInput { .. })));
    let with_widths = |widths: Vec<i64>| {
        let mut writer = GgufWriter::new();
        for (key, value) in file.metadata().iter() {
            writer.key(key, value.clone());
        }
        writer.key("qwen2.feed_forward_length", Value::Ints(widths));
        for info in file.tensors() {
            writer.tensor(info.clone(), file.tensor(&info.name).unwrap().bytes.to_vec());
        }
        writer.to_bytes()
    };
    assert!(GgufFile::parse(with_widths(vec![64, 128, 96, 128])).is_ok());
    check_refused(with_widths(vec![64, 128, 96]), "3 feed-forward widths for 4 layers");
    check_refused(with_widths(vec![64, -1, 96, 128]), "it is negative");
    check_refused(with_widths(vec![64, 128, 0, 128]), "a feed-forward width is 0");
    check_refused(with_widths(vec![64, 128, 64, 128]), "blk.2.ffn_gate.weight has 96 rows");
    check_refused(with_widths(vec![64, 1 << 40, 96, 128]), "feed-forward width is 1099511627776");
}

#[test]
fn reads_every_rope_scaling() {
    for scaling in [
        RopeScaling::Linear { factor: 4.0 },
        RopeScaling::Factors { factors: vec![1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0] },
        RopeScaling::Yarn {
            factor: 4.0,
            original_context: 128,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 0.1 * libm::log(4.0) + 1.0,
        },
    ] {
        let mut config = tiny::config(Architecture::Llama);
        config.rope.scaling = scaling;
        let file = GgufFile::parse(tiny::random_model(&config, BlockType::F32, 1)).unwrap();
        assert_eq!(file.config(), &config);
    }
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = tiny_bytes();
    // Every length up to the end of the header, then steps through the tensors.
    for len in (0..20_000).chain((20_000..bytes.len()).step_by(997)) {
        assert!(GgufFile::parse(bytes[..len].to_vec()).is_err(), "cut at {len}");
    }
}

#[test]
fn wrong_beginnings_are_named() {
    check_refused(Vec::new(), "not a GGUF file");
    check_refused(b"PK\x03\x04".to_vec(), "not a GGUF file");
    check_refused(b"GGUF".to_vec(), "truncated: version");
    let with_version = |version: u32| [b"GGUF".to_vec(), version.to_le_bytes().to_vec()].concat();
    check_refused(with_version(1), "unsupported GGUF version 1 (supported: 2 and 3)");
    check_refused(with_version(4), "unsupported GGUF version 4");
    check_refused(with_version(3_u32.swap_bytes()), "big-endian");
}

#[test]
fn huge_counts_are_refused_before_allocation() {
    let mut bytes = tiny_bytes();
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    check_refused(bytes, "number of tensors is 18446744073709551615, the limit is 16384");
    let mut bytes = tiny_bytes();
    bytes[16..24].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    check_refused(bytes, "number of metadata keys is");
    let mut bytes = tiny_bytes();
    bytes[24..32].copy_from_slice(&(1_u64 << 40).to_le_bytes());
    check_refused(bytes, "length of the metadata key is");
    // An array of four thousand million texts in a file of 64 bytes.
    let mut bytes = [b"GGUF".to_vec(), 3_u32.to_le_bytes().to_vec()].concat();
    bytes.extend([0_u64, 1, 1].iter().flat_map(|value| value.to_le_bytes()));
    bytes.push(b'k');
    bytes.extend([9_u32, 8].iter().flat_map(|value| value.to_le_bytes()));
    let array = bytes.len();
    bytes.extend((1_u64 << 32).to_le_bytes());
    check_refused(bytes.clone(), "number of elements of k is");
    bytes[array..].copy_from_slice(&(1_u64 << 20).to_le_bytes());
    check_refused(bytes, "truncated: array k");
}

#[test]
fn deep_nesting_is_refused() {
    let mut bytes = [b"GGUF".to_vec(), 3_u32.to_le_bytes().to_vec()].concat();
    bytes.extend([0_u64, 1, 1].iter().flat_map(|value| value.to_le_bytes()));
    bytes.push(b'k');
    bytes.extend(9_u32.to_le_bytes());
    for _ in 0..5_000 {
        bytes.extend(9_u32.to_le_bytes());
        bytes.extend(1_u64.to_le_bytes());
    }
    check_refused(bytes, "nesting of k is 5");
}

/// A one-tensor file whose tensor header can be spoilt.
fn tensor_file(dims: &[u64], ggml_type: u32, offset: u64) -> Vec<u8> {
    let mut bytes = [b"GGUF".to_vec(), 3_u32.to_le_bytes().to_vec()].concat();
    bytes.extend([1_u64, 0, 1].iter().flat_map(|value| value.to_le_bytes()));
    bytes.push(b't');
    bytes.extend(u32::try_from(dims.len()).unwrap().to_le_bytes());
    bytes.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
    bytes.extend(ggml_type.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.resize(bytes.len() + 4096, 0);
    bytes
}

#[test]
fn bad_tensor_headers_are_named() {
    check_refused(tensor_file(&[32, 1], 9999, 0), "block type: ggml type 9999 of tensor t");
    check_refused(tensor_file(&[33], 8, 0), "33 columns are not a multiple of the block of Q8_0");
    check_refused(tensor_file(&[0], 0, 0), "malformed tensor t: it is empty");
    check_refused(tensor_file(&[32, 1 << 62, 8], 0, 0), "its dimensions overflow");
    check_refused(tensor_file(&[1 << 62, 2], 0, 0), "its size overflows");
    check_refused(tensor_file(&[1; 5], 0, 0), "number of dimensions of tensor t is 5");
    check_refused(tensor_file(&[32], 0, 16), "offset 16 is not a multiple of 32");
    check_refused(tensor_file(&[32], 0, 1 << 40), "truncated: tensor t");
    check_refused(tensor_file(&[32], 0, u64::MAX - 31), "overflow");
    check_refused(tensor_file(&[32], 0, 0), "missing metadata key general.architecture");
}

/// A file with the tensors of `config` and one change to the writer's input.
fn rebuilt(change: impl Fn(&mut Vec<(TensorInfo, Vec<u8>)>)) -> Vec<u8> {
    let file = GgufFile::parse(tiny_bytes()).unwrap();
    let mut tensors: Vec<_> = file
        .tensors()
        .iter()
        .map(|info| (info.clone(), file.tensor(&info.name).unwrap().bytes.to_vec()))
        .collect();
    change(&mut tensors);
    let mut writer = GgufWriter::new();
    for (key, value) in file.metadata().iter() {
        writer.key(key, value.clone());
    }
    for (info, bytes) in tensors {
        writer.tensor(info, bytes);
    }
    writer.to_bytes()
}

#[test]
fn tensors_must_be_those_of_the_configuration() {
    assert!(GgufFile::parse(rebuilt(|_| {})).is_ok());
    check_refused(
        rebuilt(|tensors| tensors.retain(|(info, _)| info.name != "blk.2.ffn_up.weight")),
        "missing tensor blk.2.ffn_up.weight",
    );
    check_refused(
        rebuilt(|tensors| tensors[1].0.name = "blk.0.attn_qkv.weight".to_owned()),
        "missing tensor blk.0.attn_norm.weight",
    );
    check_refused(
        rebuilt(|tensors| {
            let mut extra = tensors[1].clone();
            extra.0.name = "blk.0.ffn_up.bias".to_owned();
            tensors.push(extra);
        }),
        "unsupported tensor: blk.0.ffn_up.bias",
    );
    check_refused(
        rebuilt(|tensors| {
            let twice = tensors[1].clone();
            tensors.push(twice);
        }),
        "it is there twice",
    );
    check_refused(
        rebuilt(|tensors| {
            for (info, _) in tensors.iter_mut().filter(|(info, _)| info.rows == 128) {
                (info.rows, info.cols) = (info.rows / 2, info.cols * 2);
            }
        }),
        "has 64 rows of 128 columns, the configuration says 128 rows of 64",
    );
}

#[test]
fn overlapping_tensors_are_refused() {
    let bytes = tiny_bytes();
    // The second tensor's offset is moved onto the first one.
    let name = b"blk.0.attn_norm.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
    let offset = at + name.len() + 4 + 8 + 4;
    let mut spoilt = bytes;
    spoilt[offset..offset + 8].fill(0);
    check_refused(spoilt, "its bytes overlap those of");
}

#[test]
fn mutated_files_never_panic() {
    fn property(seed: u64, mutations: u8) -> bool {
        let mut bytes = small_header_file();
        let mut random = tiny::Random(seed);
        for _ in 0..=mutations % 8 {
            let len = bytes.len() as u64;
            let at = usize::try_from(random.next() % len).unwrap();
            match random.next() % 4 {
                0 => bytes[at] ^= 1 << (random.next() % 8),
                1 => bytes[at] = random.next().to_le_bytes()[0],
                2 => bytes.truncate(at.max(1)),
                _ => {
                    let end = (at + 8).min(bytes.len());
                    bytes[at..end].fill(if random.next().is_multiple_of(2) { 0xFF } else { 0 });
                }
            }
        }
        // Whatever the outcome: no panic, and what parses is whole.
        match GgufFile::parse(bytes) {
            Ok(file) => file.config().validate().is_ok(),
            Err(error) => !error.to_string().is_empty(),
        }
    }
    let seed = std::env::var("ATOLL_SEED").map_or(0xA701, |text| text.parse().unwrap());
    #[expect(clippy::print_stdout, reason = "the line that replays a failure")]
    {
        println!("ATOLL_SEED={seed}");
    }
    QuickCheck::new()
        .rng(Gen::from_size_and_seed(100, seed))
        .tests(4_000)
        .quickcheck(property as fn(u64, u8) -> bool);
}

/// A file with few tokens and one layer, so that most mutations hit the header.
fn small_header_file() -> Vec<u8> {
    static FILE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    FILE.get_or_init(|| {
        let mut config = tiny::config(Architecture::Qwen3);
        (config.n_layers, config.dim, config.ffn_dim) = (1, 32, 32);
        (config.n_heads, config.n_kv_heads, config.head_dim) = (1, 1, 32);
        tiny::random_model(&config, BlockType::Q4_0, 3)
    })
    .clone()
}
