//! `atoll compress`: a smaller model of a model.

mod svg;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use atoll_compress::{
    Forecast, Options, Progress, SEQUENCE, Target, Work, compress, foresee, forget, write_text,
};
use atoll_model::gguf::{Value, encoder_keys};
use atoll_model::{Compute, ModelFiles, TensorSource};
use serde::Serialize;

use crate::args::CompressArgs;
use crate::exit::{Exit, Failure};
use crate::interrupt::Stop;
use crate::local;
use crate::output;
use crate::progress::{Task, Unit};
use crate::prompt;
use crate::settings::Settings;
use crate::source::{self, Library, write_whole};

/// What a command made.
enum Made {
    Model(Box<Report>),
    /// Nothing yet: what it would.
    Forecast(Foreseen),
}

/// `atoll.compress-dry-run/1`
#[derive(Debug, Serialize)]
struct Foreseen {
    schema: &'static str,
    #[serde(flatten)]
    forecast: Forecast,
}

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
    let work = super::blocking(move || make(&args, &library, &compute));
    match (stop.race(work).await?, settings.json) {
        (Made::Model(report), true) => output::json(&report),
        (Made::Model(report), false) => output::line_out(&text_of(&report)),
        (Made::Forecast(foreseen), true) => output::json(&foreseen),
        (Made::Forecast(foreseen), false) => output::line_out(&foreseen_text(&foreseen.forecast)),
    }
}

/// Makes the smaller model and writes it, or says what it would be.
fn make(args: &CompressArgs, library: &Library, compute: &Arc<Compute>) -> Result<Made, Failure> {
    let clock = Instant::now();
    let model = source::obtain(library, &args.model)?;
    let opened = local::open_any(&model.path)?;
    let made_keys = made_keys(&opened).map_err(|failure| failure.in_file(&model.path))?;
    let keys: Box<dyn Iterator<Item = (&str, &Value)>> = match &opened.source {
        TensorSource::Gguf(file) => Box::new(file.metadata().iter()),
        TensorSource::Safetensors(_) | TensorSource::Shards(_) => {
            Box::new(made_keys.iter().map(|(key, value)| (key.as_str(), value)))
        }
    };
    let mut options = Options {
        target: target(args, &opened.source),
        pruning: args.pruning()?,
        widths: args.widths.clone(),
        calibration: tokens_of(args.calib.as_deref(), &opened)?,
        judged_by: tokens_of(args.judge.as_deref(), &opened)?,
        ends: [opened.tokenizer.bos(), opened.tokenizer.eos()],
        sequences_max: args.sequences as usize,
        own_sequences: args.own_text as usize,
        // What a forecast looks at: no token of it.
        written: args.writer.as_ref().map(|_| vec![0; args.own_text as usize * SEQUENCE]),
        resume: Some(work_folder(&args.out)),
    };
    if args.dry_run {
        let forecast = foresee(&opened.source, keys, &options)?;
        return Ok(Made::Forecast(Foreseen { schema: "atoll.compress-dry-run/1", forecast }));
    }
    if let Some(writer) = &args.writer {
        // What cannot be is refused before minutes are spent on writing.
        foresee(&opened.source, std::iter::empty(), &options)?;
        let text = written(writer, args.own_text as usize, library, compute)?;
        options.written = Some(opened.tokenizer.encode(&text, false)?);
    }
    let mut task = Task::new("compressing, layers", Unit::Items, None);
    let mut progress = |at: Progress| {
        task.rename(match at.work {
            Work::Writing => "the model writes a text, sequences",
            Work::Measuring => "measuring what layers cost",
            Work::Compressing => "compressing, layers",
            Work::Judging => "judging widths",
        });
        task.set_total(Some(at.layers as u64));
        task.at(at.layers_done as u64);
    };
    let (writer, done) = compress(&opened.source, keys, &options, compute, &mut progress)?;
    task.finish();
    let file_bytes = write_whole(&args.out, |mut file| writer.write_to(&mut file))?;
    if let Some(folder) = &options.resume {
        forget(folder).map_err(|error| Failure::io("remove", folder, &error))?;
    }
    if let Some(path) = &args.report {
        let svg = svg::layers(&done.layers);
        write_whole(path, |file| file.write_all(svg.as_bytes()))?;
    }
    let seconds = clock.elapsed().as_secs_f64();
    let schema = "atoll.compress/1";
    Ok(Made::Model(Box::new(Report { schema, done, file_bytes, seconds })))
}

fn foreseen_text(forecast: &Forecast) -> String {
    [
        format!("file                       {}", output::bytes_text(forecast.file_bytes)),
        format!("neurons after over before  {:.3}", forecast.neurons_after_over_before),
        format!("weights after over before  {:.3}", forecast.weights_after_over_before),
        format!("tokens to calibrate on     {}", forecast.calibration_tokens),
        format!("memory                     about {}", output::bytes_text(forecast.memory_bytes)),
    ]
    .join("\n")
}

/// The keys of the result, where they do not stand in the model's file.
fn made_keys(opened: &ModelFiles) -> Result<Vec<(String, Value)>, Failure> {
    let config = opened.source.config();
    match opened.source {
        TensorSource::Gguf(_) => Ok(Vec::new()),
        TensorSource::Safetensors(_) | TensorSource::Shards(_) if config.encoder.is_some() => {
            Ok(encoder_keys(config, &opened.tokenizer)?)
        }
        TensorSource::Safetensors(_) | TensorSource::Shards(_) => {
            let what = "of decoders, only GGUF files can be compressed so far";
            Err(Failure::new(Exit::Failure, what).because("it is a folder of safetensors"))
        }
    }
}

/// Where is kept what is done, beside the result.
fn work_folder(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(".work");
    out.with_file_name(name)
}

/// What decides how each matrix is stored.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of bytes")]
fn target(args: &CompressArgs, source: &TensorSource) -> Target {
    let weights: usize = source.infos().iter().map(|info| info.rows * info.cols).sum();
    let of_bits = |bits: f64| (bits * weights as f64 / 8.0) as u64;
    match (args.bytes.or_else(|| args.bits.map(of_bits)), args.ty) {
        (Some(bytes), _) => Target::Bytes(bytes),
        (None, Some(ty)) => Target::Type(ty),
        (None, None) => Target::AsGiven,
    }
}

/// The tokens of a text, if one is named.
fn tokens_of(path: Option<&Path>, opened: &ModelFiles) -> Result<Vec<u32>, Failure> {
    let Some(path) = path else { return Ok(Vec::new()) };
    let text = prompt::text_file(path)?;
    let tokens = opened.tokenizer.encode(&text, false)?;
    if tokens.is_empty() {
        return Err(Failure::usage(format!("{} is empty", path.display()))
            .because("at least 512 tokens are needed"));
    }
    Ok(tokens)
}

/// A text of `sequences` sequences that the model called `writer` writes.
fn written(
    writer: &str,
    sequences: usize,
    library: &Library,
    compute: &Arc<Compute>,
) -> Result<String, Failure> {
    let writer = source::obtain(library, writer)?;
    let ModelFiles { source, tokenizer, .. } = local::open_any(&writer.path)?;
    let mut task = Task::new("writing a text, sequences", Unit::Items, Some(sequences as u64));
    let mut progress = |at: Progress| task.at(at.layers_done as u64);
    let text = write_text(&source, &tokenizer, sequences, compute, &mut progress)?;
    task.finish();
    Ok(text)
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
    if let Some(expected) = done.cosine_expected {
        lines.push(format!("cosine expected            {expected:.4}"));
    }
    lines.push(format!("{:<6}{:>10}{:>12}{:>12}", "layer", "neurons", "bytes", "lost"));
    for (idx, layer) in done.layers.iter().enumerate() {
        let lost = layer.lost_by_pruning.map_or_else(String::new, |lost| format!("{lost:.4}"));
        let bytes = output::bytes_text(layer.bytes);
        lines.push(format!("{idx:<6}{:>10}{bytes:>12}{lost:>12}", layer.neurons));
    }
    for width in &done.widths {
        lines.push(format!(
            "width {:>6}  {:>9} read per token, {:.4} nats from the model as given",
            width.neurons,
            output::bytes_text(width.weight_bytes_per_token),
            width.kl_mean
        ));
    }
    let (tokens, seconds) = (done.calibration_tokens, report.seconds);
    lines.push(format!("calibrated on {tokens} tokens, {seconds:.0} s"));
    lines.join("\n")
}
