//! Reads a JSON array of texts from stdin, writes a JSON array of their token ids.
//!
//! `cargo run -p atoll-model --example tokenize -- MODEL.gguf < texts.json`

use std::io::{Read, Write};

use atoll_model::Tokenizer;
use atoll_model::gguf::Metadata;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: tokenize MODEL.gguf < texts.json")?;
    let tokenizer = Tokenizer::from_gguf(&Metadata::open(path.as_ref())?)?;
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    let texts: Vec<String> = serde_json::from_str(&input)?;
    let ids =
        texts.iter().map(|text| tokenizer.encode(text, true)).collect::<Result<Vec<_>, _>>()?;
    std::io::stdout().write_all(&serde_json::to_vec(&ids)?)?;
    Ok(())
}
