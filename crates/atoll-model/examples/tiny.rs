//! Writes a small random model to a file: `tiny FILE [SEED]`, 25 MB. Its answers mean nothing, but
//! they are the same everywhere: for trying a mesh out.

use std::error::Error;

use atoll_model::{Architecture, BlockType, ModelConfig, RopeConfig, tiny};

fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args().nth(1).ok_or("usage: tiny FILE [SEED]")?;
    let seed = std::env::args().nth(2).map_or(Ok(2), |seed| seed.parse())?;
    let config = ModelConfig {
        n_layers: 8,
        context_max: 1024,
        dim: 512,
        n_heads: 8,
        head_dim: 64,
        ffn_dim: 1536,
        rope: RopeConfig { n_dims: 64, ..tiny::config(Architecture::Llama).rope },
        ..tiny::config(Architecture::Llama)
    };
    std::fs::write(file, tiny::random_model(&config, BlockType::Q8_0, seed))?;
    Ok(())
}
