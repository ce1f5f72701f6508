//! `atoll eval`: how well a model predicts a text, and how far it is from another.

use std::sync::Arc;

use atoll_model::perplexity::{Perplexity, PerplexityOptions, perplexity};
use serde::Serialize;

use crate::args::EvalArgs;
use crate::exit::Failure;
use crate::interrupt::Stop;
use crate::local::{self, Loaded};
use crate::output;
use crate::progress::{Task, Unit};
use crate::prompt;
use crate::settings::Settings;
use crate::source;

/// `atoll.eval/1`
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    #[serde(flatten)]
    found: Perplexity,
    model_bytes: u64,
}

pub(crate) async fn run(settings: &Settings, args: EvalArgs, stop: &Stop) -> Result<(), Failure> {
    let library = settings.library().cancelled_by(stop.flag());
    let compute = settings.compute_with_kv(&args.compute, args.kv)?;
    let work = super::blocking(move || {
        let text = prompt::text_file(&args.text)?;
        let load = |name: &str, width: &[f32]| {
            let model = source::obtain(&library, name)?;
            local::load(&model, width, Arc::clone(&compute))
        };
        let model = load(&args.model, &args.width)?;
        let against = args.against.as_deref().map(|name| load(name, &[])).transpose()?;
        score(&args, &text, &model, against.as_ref())
    });
    let report = stop.race(work).await?;
    if settings.json { output::json(&report) } else { output::line_out(&text_of(&report)) }
}

fn score(
    args: &EvalArgs,
    text: &str,
    model: &Loaded,
    against: Option<&Loaded>,
) -> Result<Report, Failure> {
    let tokens = model.tokenizer.encode(text, true)?;
    let begins = model.tokenizer.encode("", true)?.first().copied();
    let options = PerplexityOptions {
        context: args.ctx as usize,
        chunks_max: args.chunks.map_or(usize::MAX, |chunks| chunks as usize),
        bos: begins.filter(|&token| Some(token) == model.tokenizer.bos()),
    };
    let mut task = Task::new("chunks", Unit::Items, None);
    let mut progress = |done: usize, total: usize, ppl: f64| {
        task.rename(&format!("perplexity {ppl:.3}, chunks"));
        task.set_total(Some(total as u64));
        task.at(done as u64);
    };
    let base = against.map(|loaded| &*loaded.stage);
    let found = perplexity(&model.stage, base, &tokens, options, &mut progress)?;
    task.finish();
    Ok(Report {
        schema: "atoll.eval/1",
        model: model.name.clone(),
        found,
        model_bytes: model.stored_bytes,
    })
}

fn text_of(report: &Report) -> String {
    let found = &report.found;
    let mut lines = vec![format!(
        "perplexity     {:.4} ± {:.4} over {} tokens in {} chunks",
        found.ppl, found.ppl_error, found.tokens, found.chunks
    )];
    if let Some(divergence) = &found.divergence {
        lines.push(format!(
            "divergence     {:.5} nats on average, {:.5} at the 99th percentile",
            divergence.kl_mean, divergence.kl_p99
        ));
        lines.push(format!("same top       {:.2} %", divergence.top1_agreement * 100.0));
    }
    lines.join("\n")
}
