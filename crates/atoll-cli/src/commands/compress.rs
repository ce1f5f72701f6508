//! `atoll compress`: a smaller model of a model.

use std::time::Instant;

use atoll_compress::{Options, Progress, Target, Work, compress};
use atoll_model::{ModelFiles, TensorSource};
use serde::Serialize;

use crate::args::CompressArgs;
use crate::exit::{Exit, Failure};
use crate::interrupt::Stop;
use crate::local;
use crate::output;
use crate::progress::{Task, Unit};
use crate::prompt;
use crate::settings::Settings;
use crate::source::{self, write_whole};

/// `atoll.compress/1`
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    #[serde(flatten)]
    done: atoll_compress::Report,
    /// Bytes of the file.
    file_bytes: u64,
    seconds: f64,
}

pub(crate) async fn run(
    settings: &Settings,
    args: CompressArgs,
    stop: &Stop,
) -> Result<(), Failure> {
    let (library, compute) =
        (settings.library().cancelled_by(stop.flag()), settings.compute(&args.compute)?);
    let work = super::blocking(move || {
        let clock = Instant::now();
        let model = source::obtain(&library, &args.model)?;
        let opened = local::open(&model.path)?;
        let TensorSource::Gguf(file) = &opened.source else {
            return Err(Failure::new(Exit::Failure, "only GGUF files can be compressed so far")
                .because(format!("{} is a folder of safetensors", model.path.display())));
        };
        let options = Options {
            target: match (args.bytes, args.ty) {
                (Some(bytes), _) => Target::Bytes(bytes),
                (None, Some(ty)) => Target::Type(ty),
                (None, None) => return Err(Failure::usage("--type or --bytes is needed")),
            },
            prune_neurons: args.prune_neurons,
            method: args.method.into(),
            calibration: calibration(&args, &opened)?,
            sequences_max: args.sequences as usize,
        };
        let mut task = Task::new("compressing, layers", Unit::Items, None);
        let mut progress = |at: Progress| {
            task.rename(match at.work {
                Work::Measuring => "measuring what layers cost",
                Work::Compressing => "compressing, layers",
            });
            task.set_total(Some(at.layers as u64));
            task.at(at.layers_done as u64);
        };
        let keys = file.metadata().iter();
        let (writer, done) = compress(&opened.source, keys, &options, &compute, &mut progress)?;
        task.finish();
        let file_bytes = write_whole(&args.out, |mut file| writer.write_to(&mut file))?;
        let seconds = clock.elapsed().as_secs_f64();
        Ok(Report { schema: "atoll.compress/1", done, file_bytes, seconds })
    });
    let report = stop.race(work).await?;
    if settings.json { output::json(&report) } else { output::line_out(&text_of(&report)) }
}

/// The tokens of the calibration text.
fn calibration(args: &CompressArgs, opened: &ModelFiles) -> Result<Vec<u32>, Failure> {
    let Some(path) = &args.calib else { return Ok(Vec::new()) };
    let text = prompt::text_file(path)?;
    let tokens = opened.tokenizer.encode(&text, false)?;
    if tokens.is_empty() {
        return Err(Failure::usage(format!("{} is empty", path.display()))
            .because("at least 512 tokens are needed"));
    }
    Ok(tokens)
}

fn text_of(report: &Report) -> String {
    let done = &report.done;
    let mut lines = vec![
        format!(
            "{}: {:.2} bits per weight (before: {:.2})",
            output::bytes_text(report.file_bytes),
            done.bits_after,
            done.bits_before
        ),
        format!("neurons after over before  {:.3}", done.neurons_after_over_before),
        format!("weights after over before  {:.3}", done.weights_after_over_before),
    ];
    for (name, matrices) in &done.matrices {
        lines.push(format!("  {name:<9} {matrices:>4} matrices"));
    }
    if done.is_tied_anew {
        lines.push("the head's matrix serves as the embedding, too".to_owned());
    }
    if let Some(expected) = done.divergence_expected {
        lines.push(format!("divergence expected        {expected:.4} nats"));
    }
    let (tokens, seconds) = (done.calibration_tokens, report.seconds);
    lines.push(format!("calibrated on {tokens} tokens, {seconds:.0} s"));
    lines.join("\n")
}
