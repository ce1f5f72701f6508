//! Three nodes in one program: they meet on loopback, share a model's layers, and answer together.
//! `cargo run --release -p atoll-examples --example three_nodes -- MODEL.gguf`. Without an
//! argument it makes a tiny random model, whose answers mean nothing.
#![expect(clippy::print_stdout, reason = "a program for people to read")]

use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use atoll_model::{Architecture, BlockType, tiny};
use atoll_node::{GenerateEvent, GenerateRequest, NodeOptions, Prompt, SamplerConfig, ServePolicy};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let home = env::temp_dir().join(format!("atoll-three-nodes-{}", std::process::id()));
    fs::create_dir_all(&home)?;
    let model = match env::args().nth(1) {
        Some(path) => PathBuf::from(path),
        None => {
            let bytes = tiny::random_model(&tiny::config(Architecture::Llama), BlockType::Q8_0, 1);
            fs::write(home.join("tiny.gguf"), bytes)?;
            home.join("tiny.gguf")
        }
    };

    // The first node is the one that the others ask to be let in; the default is loopback only.
    let first = atoll_node::start(NodeOptions::new(home.join("a"))).await?;
    let mut others = Vec::new();
    for name in ["b", "c"] {
        let mut options = NodeOptions::new(home.join(name));
        options.bootstrap = first.addresses();
        others.push(atoll_node::start(options).await?);
    }

    // Waits until three nodes are here, then each fetches its layers.
    let policy = ServePolicy { stages: Some(3), context: 512, ..ServePolicy::default() };
    let served = first.serve("model", &model, policy).await?;
    for stage in &served.stages {
        println!("layers {}..{} on {}", stage.layers[0], stage.layers[1], stage.node);
    }

    let request = GenerateRequest {
        model: "model".to_owned(),
        prompt: Prompt::Text("Once upon a time".to_owned()),
        sampler: SamplerConfig { temperature: 0.0, ..SamplerConfig::default() },
        max_tokens: Some(32),
        stop: Vec::new(),
        prefill_chunk: None,
        deadline: Some(Duration::from_secs(60)),
    };
    let mut events = first.generate(request).await?;
    while let Some(event) = events.next().await {
        match event {
            GenerateEvent::Token { text, .. } => print!("{text}"),
            GenerateEvent::Done { text, decode_tokens_per_s, .. } => {
                println!("{text}\n{decode_tokens_per_s:.1} tokens/s on three nodes");
            }
            GenerateEvent::Failed(error) => bail!(error),
            GenerateEvent::Started { .. } | GenerateEvent::Prefilled { .. } => {}
        }
    }
    for node in others.into_iter().chain([first]) {
        node.shutdown().await;
    }
    Ok(fs::remove_dir_all(home)?)
}
