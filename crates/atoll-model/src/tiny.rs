//! Tiny random models, made on the fly: for tests, for the examples, and for trying a mesh out.
//!
//! The files are real GGUF that llama.cpp opens too; only their weights say nothing.

mod folder;

use atoll_kernels::{BlockType, RopeStyle};

use crate::config::{Architecture, ModelConfig, RopeConfig, RopeScaling};
use crate::gguf::{GgufFile, GgufWriter, Value};
use crate::tensor::TensorInfo;
#[cfg(test)]
pub(crate) use folder::config_json;
pub use folder::random_folder;

/// Tokens that every tiny model has: 256 bytes, some merges, and the special ones.
pub const VOCAB_MIN: usize = 320;

/// Merges of the tiny tokenizer, best first, in the byte-level alphabet (Ġ is a space).
const MERGES: [&str; 12] =
    ["Ġ t", "h e", "Ġ a", "i n", "r e", "Ġt he", "o n", "Ġ s", "e r", "Ġ w", "n d", "Ġa nd"];

const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

const TEMPLATE: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' \
+ message['content'] + '<|im_end|>\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// A configuration of the given family: 4 layers, width 64, 4 heads over 2 of key and value.
///
/// # Panics
/// For an encoder.
#[must_use]
pub fn config(architecture: Architecture) -> ModelConfig {
    let style = match architecture {
        Architecture::Llama => RopeStyle::Norm,
        Architecture::Qwen2 | Architecture::Qwen3 => RopeStyle::Neox,
        Architecture::Bert => panic!("tiny models are decoders"),
    };
    ModelConfig {
        architecture,
        n_layers: 4,
        dim: 64,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        ffn_dim: 128,
        ffn_dims: Vec::new(),
        vocab_size: VOCAB_MIN,
        norm_eps: 1e-5,
        context_max: 512,
        rope: RopeConfig { theta: 10_000.0, n_dims: 16, scaling: RopeScaling::None, style },
        qkv_bias: architecture == Architecture::Qwen2,
        qk_norm: architecture == Architecture::Qwen3,
        tied: architecture == Architecture::Llama,
        encoder: None,
    }
}

/// The same file with these keys besides, or with other values of them.
///
/// # Panics
/// If it lacks a tensor of its configuration.
#[must_use]
pub fn with_keys<'a>(file: &GgufFile, keys: impl IntoIterator<Item = (&'a str, Value)>) -> Vec<u8> {
    let mut writer = GgufWriter::new();
    for (key, value) in file.metadata().iter() {
        writer.key(key, value.clone());
    }
    for (key, value) in keys {
        writer.key(key, value);
    }
    for spec in file.config().all_tensors() {
        let tensor = file.tensor(&spec.name).expect("a whole model");
        writer.tensor(tensor.info.clone(), tensor.bytes.to_vec());
    }
    writer.to_bytes()
}

/// A GGUF file with random weights for `config`, the same bytes for the same arguments. Matrices
/// are stored as `dtype`, vectors as f32.
///
/// # Panics
/// If `config` is not legal, has fewer than [`VOCAB_MIN`] tokens, or has a width that is not a
/// multiple of the block of `dtype`.
#[must_use]
pub fn random_model(config: &ModelConfig, dtype: BlockType, seed: u64) -> Vec<u8> {
    config.validate().expect("the configuration is legal");
    assert!(config.vocab_size >= VOCAB_MIN, "the tiny tokenizer has {VOCAB_MIN} tokens");
    let mut random = Random(seed);
    let mut writer = GgufWriter::new();
    put_config(&mut writer, config);
    put_tokenizer(&mut writer, config.vocab_size);
    for spec in config.all_tensors() {
        let dtype = if spec.rows == 1 { BlockType::F32 } else { dtype };
        let info = TensorInfo { name: spec.name, dtype, rows: spec.rows, cols: spec.cols };
        let bytes = if !info.name.ends_with("norm.weight") {
            random_blocks(&mut random, &info)
        } else {
            let scales = (0..info.cols).map(|_| 1.0 + 0.1 * random.f32());
            scales.flat_map(f32::to_le_bytes).collect()
        };
        writer.tensor(info, bytes);
    }
    if let RopeScaling::Factors { factors } = &config.rope.scaling {
        let name = "rope_freqs.weight".to_owned();
        let info = TensorInfo { name, dtype: BlockType::F32, rows: 1, cols: factors.len() };
        writer.tensor(info, factors.iter().flat_map(|f| f.to_le_bytes()).collect::<Vec<_>>());
    }
    writer.to_bytes()
}

fn put_config(writer: &mut GgufWriter<'_>, config: &ModelConfig) {
    let architecture = config.architecture.name();
    writer.key("general.architecture", Value::String(architecture.to_owned()));
    writer.key("general.name", Value::String("tiny".to_owned()));
    let mut key = |suffix: &str, value| {
        writer.key(&format!("{architecture}.{suffix}"), value);
    };
    for (suffix, value) in [
        ("block_count", config.n_layers),
        ("context_length", config.context_max),
        ("embedding_length", config.dim),
        ("feed_forward_length", config.ffn_dim),
        ("attention.head_count", config.n_heads),
        ("attention.head_count_kv", config.n_kv_heads),
        ("attention.key_length", config.head_dim),
        ("attention.value_length", config.head_dim),
        ("rope.dimension_count", config.rope.n_dims),
        ("vocab_size", config.vocab_size),
    ] {
        key(suffix, Value::Uint(value as u64));
    }
    if !config.ffn_dims.is_empty() {
        let dims = config.ffn_dims.iter().map(|&dim| i64::try_from(dim).expect("a width"));
        key("feed_forward_length", Value::Ints(dims.collect()));
    }
    key("attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps));
    #[expect(clippy::cast_possible_truncation, reason = "GGUF stores single precision")]
    let float = |value: f64| Value::F32(value as f32);
    key("rope.freq_base", float(config.rope.theta));
    match &config.rope.scaling {
        RopeScaling::None | RopeScaling::Factors { .. } => {}
        RopeScaling::Linear { factor } => {
            key("rope.scaling.type", Value::String("linear".to_owned()));
            key("rope.scaling.factor", float(*factor));
        }
        RopeScaling::Yarn { factor, original_context, .. } => {
            key("rope.scaling.type", Value::String("yarn".to_owned()));
            key("rope.scaling.factor", float(*factor));
            let original = Value::Uint(*original_context as u64);
            key("rope.scaling.original_context_length", original);
        }
        RopeScaling::Llama3 { .. } => panic!("GGUF stores llama3 scaling as factors"),
    }
}

fn put_tokenizer(writer: &mut GgufWriter<'_>, vocab_size: usize) {
    let mut tokens: Vec<String> =
        (0..=255_u8).map(|byte| crate::tokenizer::byte_char(byte).to_string()).collect();
    tokens.extend(MERGES.iter().map(|merge| merge.replace(' ', "")));
    let mut types = vec![1; tokens.len()];
    let special = tokens.len() as u64;
    tokens.extend(SPECIALS.iter().map(|&token| token.to_owned()));
    types.resize(tokens.len(), 3);
    tokens.extend((tokens.len()..vocab_size).map(|id| format!("<|unused_{id}|>")));
    types.resize(tokens.len(), 5);
    writer
        .key("tokenizer.ggml.model", Value::String("gpt2".to_owned()))
        .key("tokenizer.ggml.pre", Value::String("smollm".to_owned()))
        .key("tokenizer.ggml.tokens", Value::Strings(tokens.into_iter().collect()))
        .key("tokenizer.ggml.token_type", Value::Ints(types))
        .key("tokenizer.ggml.merges", Value::Strings(MERGES.into_iter().collect()))
        .key("tokenizer.ggml.bos_token_id", Value::Uint(special))
        .key("tokenizer.ggml.eos_token_id", Value::Uint(special + 2))
        .key("tokenizer.ggml.add_bos_token", Value::Bool(false))
        .key("tokenizer.chat_template", Value::String(TEMPLATE.to_owned()));
}

/// Random stored blocks whose numbers have a deviation of about `1 / sqrt(cols)`.
fn random_blocks(random: &mut Random, info: &TensorInfo) -> Vec<u8> {
    #[expect(clippy::cast_precision_loss, reason = "a width is below 2^16")]
    let deviation = libm::sqrtf(1.0 / info.cols as f32);
    let count = info.rows * info.cols;
    let uniform = |random: &mut Random| random.f32() * deviation * 1.73;
    // Where a block's scales lie (f16, or a byte of our own types), and the deviation of its whole
    // numbers.
    let (scales, spread): (&[usize], f32) = match info.dtype {
        BlockType::F32 => {
            return (0..count).flat_map(|_| uniform(random).to_le_bytes()).collect();
        }
        BlockType::F16 => {
            let half = |_| half::f16::from_f32(uniform(random)).to_le_bytes();
            return (0..count).flat_map(half).collect();
        }
        BlockType::BF16 => {
            let half = |_| half::bf16::from_f32(uniform(random)).to_le_bytes();
            return (0..count).flat_map(half).collect();
        }
        BlockType::Q4_0 => (&[0], 4.6),
        BlockType::Q4_1 => (&[0, 2], 8.0),
        BlockType::Q5_0 => (&[0], 9.2),
        BlockType::Q5_1 => (&[0, 2], 16.0),
        BlockType::Q8_0 => (&[0], 74.0),
        BlockType::Q2K => (&[80, 82], 14.0),
        BlockType::Q3K => (&[108], 40.0),
        BlockType::Q4K => (&[0, 2], 280.0),
        BlockType::Q5K => (&[0, 2], 560.0),
        BlockType::Q6K => (&[208], 1300.0),
        BlockType::IQ4NL => (&[0], 70.0),
        BlockType::IQ4XS => (&[0], 1300.0),
        BlockType::E3 | BlockType::E4 | BlockType::E5 => (&[0], 60.0),
        BlockType::E6 => (&[0], 18.0),
    };
    let block_bytes = info.dtype.block_bytes();
    let mut bytes: Vec<u8> = (0..count / info.dtype.block_len() * block_bytes)
        .map(|_| random.next().to_le_bytes()[0])
        .collect();
    let offset_sign =
        if info.dtype == BlockType::Q4_1 || info.dtype == BlockType::Q5_1 { -spread } else { 1.0 };
    for block in bytes.chunks_exact_mut(block_bytes) {
        let scale = deviation / spread * (1.0 + 0.5 * random.f32());
        for (idx, at) in scales.iter().enumerate() {
            let value = if idx == 0 { scale } else { scale * offset_sign };
            if info.dtype.is_own() {
                block[*at] = atoll_kernels::byte_of_scale(value);
                continue;
            }
            block[*at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
        }
    }
    bytes
}

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        crate::sampler::mix(self.0)
    }

    /// Uniform over [-1, 1).
    fn f32(&mut self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "24 bits fit an f32")]
        let unit = (self.next() >> 40) as f32 / 8_388_608.0;
        unit - 1.0
    }
}
