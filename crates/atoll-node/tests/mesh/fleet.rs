//! Nodes for a test, a tiny model, and what one process alone makes of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_model::{
    Architecture, BlockType, Compute, GgufFile, Isa, ModelConfig, Part, SamplerConfig, Stage,
    StageInput, TensorSource, Tokenizer, sample, tiny,
};
use atoll_node::{
    GenerateEvent, GenerateRequest, GenerateStream, NodeHandle, NodeOptions, Prompt, ServePolicy,
};
use tempfile::TempDir;

pub(crate) const TCP: &str = "/ip4/127.0.0.1/tcp/0";
pub(crate) const QUIC: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// Nodes and their data directories, which go with it.
pub(crate) struct Fleet {
    pub(crate) dir: TempDir,
    pub(crate) nodes: Vec<NodeHandle>,
}

/// A model file of `n_layers` layers.
pub(crate) fn model_file(dir: &TempDir, n_layers: usize, dim_factor: usize) -> PathBuf {
    let path = dir.path().join(format!("tiny-{n_layers}-{dim_factor}.gguf"));
    std::fs::write(&path, tiny::random_model(&config(n_layers, dim_factor), BlockType::Q8_0, 7))
        .unwrap();
    path
}

pub(crate) fn config(n_layers: usize, dim_factor: usize) -> ModelConfig {
    let small = tiny::config(Architecture::Llama);
    ModelConfig { n_layers, ffn_dim: small.ffn_dim * dim_factor, ..small }
}

pub(crate) fn options(
    dir: &TempDir,
    name: &str,
    listen: &str,
    bootstrap: &[String],
) -> NodeOptions {
    NodeOptions {
        name: Some(name.to_owned()),
        listen: vec![listen.to_owned()],
        bootstrap: bootstrap.to_vec(),
        memory_bytes: Some(1 << 30),
        ..NodeOptions::new(dir.path().join(name))
    }
}

impl Fleet {
    /// `n` nodes that all know each other; only the first one's address is given to the others.
    pub(crate) async fn start(n: usize, listen: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = atoll_node::start(options(&dir, "node-1", listen, &[])).await.unwrap();
        let bootstrap = first.addresses();
        let mut nodes = vec![first];
        for k in 2..=n {
            let options = options(&dir, &format!("node-{k}"), listen, &bootstrap);
            nodes.push(atoll_node::start(options).await.unwrap());
        }
        let fleet = Self { dir, nodes };
        for node in &fleet.nodes {
            until("all nodes meet", || node.status().peers.len() + 1 >= n).await;
        }
        fleet
    }

    pub(crate) async fn stop(self) {
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}

/// Waits for a condition, at most ten seconds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(10), "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn policy(stages: u16) -> ServePolicy {
    let wait = Duration::from_secs(10);
    ServePolicy { stages: Some(stages), context: 256, sessions: 8, spares: 1, wait, loss_max: 0.0 }
}

pub(crate) fn greedy() -> SamplerConfig {
    SamplerConfig { temperature: 0.0, ..SamplerConfig::default() }
}

pub(crate) fn request(prompt: &[u32], max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        sampler: greedy(),
        max_tokens: Some(max_tokens),
        prefill_chunk: Some(7),
        deadline: Some(Duration::from_secs(60)),
        ..GenerateRequest::new("tiny", Prompt::Tokens(prompt.to_vec()))
    }
}

/// Reads a stream to its end: tokens and text.
pub(crate) async fn collect(mut stream: GenerateStream) -> (Vec<u32>, String) {
    let (mut tokens, mut answer) = (Vec::new(), String::new());
    loop {
        let event = tokio::time::timeout(Duration::from_secs(60), stream.next()).await;
        match event.expect("an event in time").expect("no end without Done or Failed") {
            GenerateEvent::Token { id, text, .. } => {
                tokens.push(id);
                answer += &text;
            }
            GenerateEvent::Done { text, .. } => return (tokens, answer + &text),
            GenerateEvent::Failed(error) => panic!("failed: {error}"),
            GenerateEvent::Started { .. } | GenerateEvent::Prefilled { .. } => {}
        }
    }
}

/// What this process alone generates, without any node.
pub(crate) fn alone(
    n_layers: usize,
    dim_factor: usize,
    prompt: &[u32],
    max_tokens: usize,
) -> Vec<u32> {
    let config = config(n_layers, dim_factor);
    let bytes = tiny::random_model(&config, BlockType::Q8_0, 7);
    alone_of(GgufFile::parse(bytes).unwrap(), prompt, max_tokens)
}

/// The same of another model.
pub(crate) fn alone_of(file: GgufFile, prompt: &[u32], max_tokens: usize) -> Vec<u32> {
    let tokenizer = Tokenizer::from_gguf(file.metadata()).unwrap();
    let source = TensorSource::Gguf(file);
    let compute = Arc::new(Compute::new(Isa::detect(), 1).unwrap());
    let stage = Stage::load(&source, &Part::whole(source.config()), &compute, &mut |_| {}).unwrap();
    let mut kv = stage.new_kv_cache(256);
    let mut tokens = prompt.to_vec();
    let mut done = 0;
    while tokens.len() < prompt.len() + max_tokens {
        let rows = stage.forward(&mut kv, StageInput::Tokens(&tokens[done..]), done).unwrap();
        done = tokens.len();
        let mut logits = stage.logits(rows.row(rows.nrows() - 1)).unwrap();
        let pos = u32::try_from(done).unwrap();
        tokens.push(sample(&greedy(), &mut logits, &tokens, pos).token);
        if tokenizer.is_end(tokens[done]) {
            tokens.pop();
            break;
        }
    }
    tokens.split_off(prompt.len())
}
