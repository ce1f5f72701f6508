//! `atoll bench`: how fast a model runs here.

use atoll_model::bench::{BenchOptions, BenchReport, bench};
use serde::Serialize;

use crate::args::BenchArgs;
use crate::exit::Failure;
use crate::interrupt::Stop;
use crate::local;
use crate::output;
use crate::settings::Settings;
use crate::source;

/// `atoll.bench/1`
#[derive(Debug, Serialize)]
struct Report {
    schema: &'static str,
    model: String,
    kernels: &'static str,
    prefill_tokens: u32,
    decode_tokens: u32,
    #[serde(flatten)]
    found: BenchReport,
}

pub(crate) async fn run(settings: &Settings, args: BenchArgs, stop: &Stop) -> Result<(), Failure> {
    let (library, compute) =
        (settings.library().cancelled_by(stop.flag()), settings.compute(&args.compute)?);
    let work = super::blocking(move || {
        let model = source::obtain(&library, &args.model)?;
        let kernels = compute.kernels.isa().name();
        let loaded = local::load(&model, compute)?;
        let options = BenchOptions {
            prefill_tokens: args.pp as usize,
            decode_tokens: args.tg as usize,
            repeat: args.repeat as usize,
        };
        Ok(Report {
            schema: "atoll.bench/1",
            model: loaded.name,
            kernels,
            prefill_tokens: args.pp,
            decode_tokens: args.tg,
            found: bench(&loaded.stage, options)?,
        })
    });
    let report = stop.race(work).await?;
    if settings.json { output::json(&report) } else { output::line_out(&text(&report)) }
}

fn text(report: &Report) -> String {
    let found = &report.found;
    let (prefill, decode) =
        (median(&found.prefill_tokens_per_s), median(&found.decode_tokens_per_s));
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let read = found.weight_bytes_per_token as f64 * decode;
    format!(
        "prefill    {prefill:.1} tokens/s ({} tokens, {} kernels, {} threads)\n\
         decode     {decode:.1} tokens/s ({} tokens)\n\
         reading    {:.1} GB/s of weights, {:.0} % of this memory's {:.1} GB/s",
        report.prefill_tokens,
        report.kernels,
        found.threads,
        report.decode_tokens,
        read / 1e9,
        read / found.read_bandwidth_bytes_per_s * 100.0,
        found.read_bandwidth_bytes_per_s / 1e9,
    )
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_middle_value() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[]), 0.0);
    }
}
