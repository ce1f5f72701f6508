//! Loads a GGUF file and generates in this process, without any network:
//! `cargo run --release -p atoll-examples --example local -- MODEL.gguf "Why is the sky blue?"`.
//! Without arguments it makes a tiny random model, whose answers mean nothing.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for people to read")]

use std::env;
use std::io::{Write, stdout};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use atoll_model::{
    Architecture, BlockType, ChatMessage, ChatTemplate, Compute, GenerateOptions, Generator,
    GgufFile, Isa, Part, Sampled, Stage, TensorSource, Tokenizer, tiny,
};

fn main() -> anyhow::Result<()> {
    let mut args = env::args().skip(1);
    let file = match args.next() {
        Some(path) => GgufFile::open(Path::new(&path))?,
        None => {
            let config = tiny::config(Architecture::Llama);
            GgufFile::parse(tiny::random_model(&config, BlockType::Q8_0, 1))?
        }
    };
    let question = args.next().unwrap_or_else(|| "Why is the sky blue?".to_owned());

    // The file describes its own tokenizer and how a conversation is written out for it.
    let tokenizer = Tokenizer::from_gguf(file.metadata())?;
    let template = ChatTemplate::from_gguf(file.metadata(), &tokenizer)?;
    let template = template.context("this model has no chat template")?;
    let message = ChatMessage { role: "user".to_owned(), content: question };
    let prompt = tokenizer.encode(&template.render(&[message], true)?, false)?;

    // A part of a model is what a node holds; here it is the whole.
    let compute = Arc::new(Compute::new(Isa::detect(), 2)?);
    let part = Part::whole(file.config());
    let context = file.config().context_max.min(2048);
    let stage = Stage::load(&TensorSource::Gguf(file), &part, &compute, &mut |_progress| {})?;

    let mut generator = Generator::new(Arc::new(stage), context)?;
    let mut text = tokenizer.stream();
    let options = GenerateOptions { tokens_max: 64, ..GenerateOptions::default() };
    let generated = generator.generate(
        &prompt,
        &options,
        &|token| tokenizer.is_end(token),
        &AtomicBool::new(false),
        &mut |sampled: &Sampled| {
            print!("{}", text.push(sampled.token));
            // A terminal that is gone is a reason to stop.
            if stdout().flush().is_ok() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        },
    )?;
    println!("{}", text.finish());
    eprintln!(
        "{} prompt tokens, {} generated at {:.1} tokens/s",
        prompt.len(),
        generated.tokens.len(),
        generated.timings.decode_tokens_per_s()
    );
    Ok(())
}
