//! `atoll show`: what a model is made of.

use std::collections::BTreeMap;

use atoll_model::{
    ChatTemplate, Manifest, ModelConfig, ModelError, TensorInfo, TensorSource, gguf,
};
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
    /// The widths that the file can run at, the whole one first.
    widths: Vec<Width>,
    /// The order in which layers become narrower where there is no room for them.
    steps: Vec<Step>,
}

/// A layer at a narrower width.
#[derive(Debug, Serialize)]
struct Step {
    layer: usize,
    /// Its feed-forward neurons then.
    neurons: usize,
    /// Mean divergence, in nats, with all steps before it, as measured when the file was made.
    kl_mean: f32,
}

/// A width that a file can run at.
#[derive(Debug, Serialize)]
struct Width {
    /// Of the whole.
    share: f64,
    /// Feed-forward neurons of each layer.
    neurons: usize,
    /// Bytes of each layer's tensors.
    layers: Vec<u64>,
    /// Bytes of all tensors.
    bytes: u64,
    /// Mean divergence from the model that the file was made of, in nats, as measured then.
    kl_mean: f32,
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
        widths: widths(source)?,
        steps: steps(source),
    };
    if settings.json {
        output::json(&report)
    } else {
        output::line_out(&text(&report, args.layers))
    }
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

/// What each width reads.
fn widths(source: &TensorSource) -> Result<Vec<Width>, Failure> {
    let TensorSource::Gguf(file) = source else { return Ok(Vec::new()) };
    let found = file.widths().into_iter().map(|width| {
        let gguf::Width { neurons, kl_mean } = width;
        let narrow = vec![neurons; file.config().n_layers];
        let narrow = TensorSource::Gguf(file.narrowed(&narrow)?);
        let config = narrow.config();
        let layer = |idx: usize| -> Result<u64, ModelError> {
            let bytes = config.layer_tensors(idx).into_iter();
            bytes.map(|spec| Ok(narrow.require(&spec.name)?.bytes.len() as u64)).sum()
        };
        let layers = (0..config.n_layers).map(layer).collect::<Result<_, _>>()?;
        #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
        let share = neurons as f64 / file.config().ffn_dim as f64;
        Ok(Width { share, neurons, layers, bytes: narrow.stored_bytes()?, kl_mean })
    });
    found.collect()
}

fn steps(source: &TensorSource) -> Vec<Step> {
    let TensorSource::Gguf(file) = source else { return Vec::new() };
    let (widths, steps) = (file.widths(), file.steps().into_iter());
    let step = |gguf::Step { layer, width, kl_mean }| Step {
        layer,
        neurons: widths[width].neurons,
        kl_mean,
    };
    steps.map(step).collect()
}

/// Each layer's bytes, at every width that there is.
fn layer_lines(report: &Report<'_>) -> Vec<String> {
    let row = |name: &str, cells: &mut dyn Iterator<Item = String>| {
        format!("{name:<10}{}", cells.map(|cell| format!("{cell:>18}")).collect::<String>())
    };
    let bytes = |bytes: u64| output::bytes_text(bytes);
    let (widths, mut lines) = (&report.widths, vec![String::new()]);
    if widths.is_empty() {
        lines.push(row("layer", &mut ["bytes".to_owned()].into_iter()));
        let layers = report.layers.iter().enumerate();
        lines
            .extend(layers.map(|(idx, b)| row(&idx.to_string(), &mut Some(bytes(*b)).into_iter())));
        return lines;
    }
    lines.push(row("width", &mut widths.iter().map(|w| format!("{:.3}", w.share))));
    lines.push(row("neurons", &mut widths.iter().map(|w| w.neurons.to_string())));
    for idx in 0..report.layers.len() {
        let step = |w: &Width| {
            let steps = &report.steps;
            steps.iter().find(|step| step.layer == idx && step.neurons == w.neurons)
        };
        let nats = |w: &Width| step(w).map_or_else(String::new, |s| format!("{:.4}", s.kl_mean));
        let cell = |w: &Width| format!("{} {:>7}", bytes(w.layers[idx]), nats(w));
        lines.push(row(&format!("layer {idx}"), &mut widths.iter().map(cell)));
    }
    lines.push(row("all", &mut widths.iter().map(|w| bytes(w.bytes))));
    lines.push(row("nats", &mut widths.iter().map(|w| format!("{:.4}", w.kl_mean))));
    lines
}

fn text(report: &Report<'_>, with_layers: bool) -> String {
    let config = report.config;
    let mut lines = vec![
        format!("model         {}", report.model),
        format!("file          {}", report.path),
        format!("id            {}", report.id),
        format!("architecture  {:?}", config.architecture),
        format!("layers        {}", config.n_layers),
        match config.ffn_dims.iter().min() {
            None => format!("width         {}, feed-forward {}", config.dim, config.ffn_dim),
            Some(least) => {
                format!("width         {}, feed-forward {least} to {}", config.dim, config.ffn_dim)
            }
        },
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
    if with_layers {
        lines.extend(layer_lines(report));
    }
    lines.join("\n")
}
