//! `atoll embed`: texts as directions.

use std::sync::Arc;

use atoll_model::{Compute, Embedded, Encoder, Tokenizer};
use serde::Serialize;

use crate::args::EmbedArgs;
use crate::exit::Failure;
use crate::interrupt::Stop;
use crate::local;
use crate::output;
use crate::progress::{Task, Unit};
use crate::prompt;
use crate::settings::Settings;
use crate::source::{self, Library};

/// `atoll.embed/1`
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    /// Numbers of an embedding.
    dim: usize,
    texts: Vec<Text>,
    /// How near another model's embeddings of the same texts are.
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Against>,
}

/// A text.
#[derive(Debug, Serialize)]
struct Text {
    tokens: usize,
    /// Whether the text had more tokens than the model reads.
    is_cut: bool,
    /// Of length 1.
    embedding: Vec<f32>,
}

/// Cosines between two models' embeddings of the same text.
#[derive(Debug, Serialize)]
struct Against {
    model: String,
    cosine_mean: f64,
    cosine_min: f64,
}

/// An encoder with its tokenizer.
struct Loaded {
    name: String,
    tokenizer: Tokenizer,
    encoder: Encoder,
}

pub(crate) async fn run(settings: &Settings, args: EmbedArgs, stop: &Stop) -> Result<(), Failure> {
    let library = settings.library().cancelled_by(stop.flag());
    let compute = settings.compute(&args.compute)?;
    let json = settings.json;
    let work = super::blocking(move || {
        let texts = texts(&args)?;
        let model = load(&library, &args.model, &compute)?;
        let other = args.against.as_deref().map(|name| load(&library, name, &compute));
        report(&texts, &model, other.transpose()?.as_ref())
    });
    let report = stop.race(work).await?;
    if json { output::json(&report) } else { output::line_out(&text_of(&report)) }
}

/// What was typed, then the lines of the file that hold something.
fn texts(args: &EmbedArgs) -> Result<Vec<String>, Failure> {
    let mut texts = args.texts.clone();
    if let Some(at) = texts.iter().position(|text| text.trim().is_empty()) {
        return Err(Failure::usage(format!("text {} is empty", at + 1))
            .hint("atoll embed MODEL \"some words\""));
    }
    if let Some(path) = &args.text {
        let text = prompt::text_file(path)?;
        let before = texts.len();
        texts.extend(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned));
        if texts.len() == before {
            return Err(Failure::usage(format!("{} is empty", path.display()))
                .because("a text is a line of it that holds something"));
        }
    }
    Ok(texts)
}

fn load(library: &Library, name: &str, compute: &Arc<Compute>) -> Result<Loaded, Failure> {
    let model = source::obtain(library, name)?;
    let files = local::open_any(&model.path)?;
    let encoder =
        local::loading(&model.name, |progress| Encoder::load(&files.source, compute, progress));
    let encoder = encoder.map_err(|error| Failure::from(error).in_file(&model.path))?;
    Ok(Loaded { name: model.name.clone(), tokenizer: files.tokenizer, encoder })
}

fn report(texts: &[String], model: &Loaded, other: Option<&Loaded>) -> Result<Report, Failure> {
    let mut task = Task::new("texts", Unit::Items, Some(texts.len() as u64));
    let (mut done, mut cosines) = (Vec::with_capacity(texts.len()), Vec::new());
    let dim = model.encoder.config().dim;
    if let Some(theirs) = other.map(|other| other.encoder.config().dim).filter(|&it| it != dim) {
        return Err(Failure::usage("the two models cannot be compared")
            .because(format!("their embeddings have {dim} and {theirs} numbers")));
    }
    for text in texts {
        let Embedded { values, tokens, is_cut } =
            model.encoder.embed_text(&model.tokenizer, text)?;
        if let Some(other) = other {
            let theirs = other.encoder.embed_text(&other.tokenizer, text)?.values;
            cosines.push(cosine(&values, &theirs));
        }
        done.push(Text { tokens, is_cut, embedding: values });
        task.at(done.len() as u64);
    }
    task.finish();
    let against = other.map(|other| Against {
        model: other.name.clone(),
        cosine_mean: cosines.iter().sum::<f64>() / cosines.len().max(1) as f64,
        cosine_min: cosines.iter().copied().fold(1.0, f64::min),
    });
    let (schema, model) = ("atoll.embed/1", model.name.clone());
    Ok(Report { schema, model, dim, texts: done, against })
}

/// Of two directions of length 1.
fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

/// A line per text; of a comparison, what came of it.
fn text_of(report: &Report) -> String {
    if let Some(against) = &report.against {
        return format!(
            "cosine to {}: {:.6} on average, {:.6} at least, {} texts",
            against.model,
            against.cosine_mean,
            against.cosine_min,
            report.texts.len()
        );
    }
    let line = |text: &Text| {
        let numbers: Vec<String> = text.embedding.iter().map(f32::to_string).collect();
        numbers.join(" ")
    };
    report.texts.iter().map(line).collect::<Vec<_>>().join("\n")
}
