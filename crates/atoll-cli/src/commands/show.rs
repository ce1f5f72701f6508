//! `atoll show`: what a model is made of.

use std::collections::BTreeMap;

use atoll_model::{ChatTemplate, Manifest, ModelConfig, ModelError, TensorInfo};
use serde::Serialize;

use crate::args::ShowArgs;
use crate::exit::Failure;
use crate::local;
use crate::output;
use crate::settings::Settings;
use crate::source::{self, hex};

/// `atoll.show/1`
#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    path: String,
    bytes: u64,
    weights: u64,
    bits_per_weight: f64,
    /// The hash that names the model in a mesh.
    id: String,
    /// Bytes of each layer's blob.
    layers: Vec<u64>,
    embed_bytes: u64,
    head_bytes: u64,
    config: &'a ModelConfig,
    types: BTreeMap<&'static str, TypeShare>,
}

/// What one block type has of the model.
#[derive(Debug, Default, Serialize)]
struct TypeShare {
    tensors: usize,
    weights: u64,
    bytes: u64,
}

pub(crate) fn run(settings: &Settings, args: &ShowArgs) -> Result<(), Failure> {
    let model = source::present(&settings.library(), &args.model)?;
    let opened = local::open(&model.path)?;
    let types = shares(&opened.source.infos())?;
    let weights = types.values().map(|share| share.weights).sum();
    let bytes: u64 = types.values().map(|share| share.bytes).sum();
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let bits_per_weight = bytes as f64 * 8.0 / (weights as f64).max(1.0);
    let template = opened.template.as_ref().map(ChatTemplate::source);
    let (source, tokenizer) = (&opened.source, &opened.tokenizer);
    let cut = Manifest::split(&model.name, source, tokenizer, template, &mut |_, _, _| {
        Ok::<_, ModelError>(())
    });
    let manifest = cut.map_err(|error| Failure::from(error).in_file(&model.path))?;
    let report = Report {
        schema: "atoll.show/1",
        model: &model.name,
        path: model.path.display().to_string(),
        bytes,
        weights,
        bits_per_weight,
        id: hex(&manifest.id()),
        layers: manifest.layers.iter().map(|layer| layer.bytes).collect(),
        embed_bytes: manifest.embed.bytes,
        head_bytes: manifest.head.bytes,
        config: &manifest.config,
        types,
    };
    if settings.json { output::json(&report) } else { output::line_out(&text(&report)) }
}

fn shares(infos: &[&TensorInfo]) -> Result<BTreeMap<&'static str, TypeShare>, Failure> {
    let mut shares: BTreeMap<&'static str, TypeShare> = BTreeMap::new();
    for info in infos {
        let share = shares.entry(info.dtype.name()).or_default();
        share.tensors += 1;
        share.weights += (info.rows * info.cols) as u64;
        share.bytes += info.bytes_len()? as u64;
    }
    Ok(shares)
}

fn text(report: &Report<'_>) -> String {
    let config = report.config;
    let mut lines = vec![
        format!("model         {}", report.model),
        format!("file          {}", report.path),
        format!("id            {}", report.id),
        format!("architecture  {:?}", config.architecture),
        format!("layers        {}", config.n_layers),
        format!("width         {}, feed-forward {}", config.dim, config.ffn_dim),
        format!(
            "heads         {} of width {}, {} for keys and values",
            config.n_heads, config.head_dim, config.n_kv_heads
        ),
        format!("vocabulary    {}", config.vocab_size),
        format!("context       {} tokens", config.context_max),
        format!(
            "weights       {:.1} million in {}, {:.2} bits each",
            report.weights as f64 / 1e6,
            output::bytes_text(report.bytes),
            report.bits_per_weight
        ),
    ];
    for (name, share) in &report.types {
        let bytes = output::bytes_text(share.bytes);
        lines.push(format!("  {name:<10}  {:>4} tensors, {bytes}", share.tensors));
    }
    lines.join("\n")
}
