//! `atoll plan`: which layers would go where, on devices that need not be here or in the mesh that
//! runs here.

mod mesh;
mod report;

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;

use atoll_model::{ChatTemplate, Manifest, ModelError};
use atoll_plan::{
    Codec, Fleet, FleetFile, Layer, Model, Objective, Pin, PlanError, Policy, Query, Variant,
    conflict, explain, plan, ribbon,
};

use self::report::Report;
use crate::args::{PlanArgs, PlanObjective};
use crate::exit::Failure;
use crate::local;
use crate::output;
use crate::settings::Settings;
use crate::source;

/// Bytes of a fleet file: a thousand devices with a thousand links of their own take 200 kB.
const FILE_BYTES_MAX: u64 = 16 << 20;

pub(crate) fn run(settings: &Settings, args: &PlanArgs) -> Result<(), Failure> {
    let (file, served) = match &args.fleet {
        Some(path) => (read(path)?, None),
        None => mesh::fleet(settings, args.api)?,
    };
    let asked = Asked::new(settings, args.model.as_ref().or(served.as_ref()), &file)?;
    let policy = policy(args, &file, &asked.fleet)?;
    let query = Query { fleet: &asked.fleet, model: &asked.model, policy: &policy };
    let found = plan(&query).map_err(|error| in_the_way(&query, error))?;
    let left_out = explain::left_out(&query, &found, args.explain);
    if let Some(path) = &args.svg {
        let svg = ribbon::svg(&query, &found);
        fs::write(path, svg).map_err(|error| Failure::io("write", path, &error))?;
    }
    let mut report = Report::new(&query, &found, &left_out);
    if args.explain && args.users > 1 {
        let objective = match policy.objective {
            Objective::Latency => Objective::Throughput,
            Objective::Throughput => Objective::Latency,
        };
        let policy = Policy { objective, ..policy.clone() };
        let other = plan(&Query { policy: &policy, ..query })?;
        report.compare(&Report::new(&Query { policy: &policy, ..query }, &other, &[]));
    }
    if settings.json { output::json(&report) } else { output::line_out(&report.text(args.explain)) }
}

fn read(path: &Path) -> Result<FleetFile, Failure> {
    let io = |error| Failure::io("read", path, &error);
    let mut text = String::new();
    let limit = FILE_BYTES_MAX + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_string(&mut text)
    } else {
        fs::File::open(path).and_then(|file| file.take(limit).read_to_string(&mut text))
    };
    if read.map_err(io)? as u64 > FILE_BYTES_MAX {
        let what = format!("{} is no fleet file", path.display());
        return Err(Failure::usage(what).because(format!("more than {FILE_BYTES_MAX} bytes")));
    }
    toml::from_str(&text).map_err(|error| {
        Failure::usage(format!("cannot read {}", path.display()))
            .because(error)
            .hint("origin = \"a\" and for each device [[node]] with name, memory_bytes, layer_s")
    })
}

/// What is to be placed, and where.
struct Asked {
    model: Model,
    fleet: Fleet,
}

impl Asked {
    fn new(
        settings: &Settings,
        model_name: Option<&String>,
        file: &FleetFile,
    ) -> Result<Self, Failure> {
        let Some(name) = model_name else {
            let entry = file.model.as_ref().ok_or_else(|| {
                Failure::usage("no model is named")
                    .because("neither on the command line nor as [model] in the fleet file")
                    .hint("atoll plan smollm2:135m --fleet FILE")
            })?;
            let kv_bytes = entry.kv_bytes_per_position;
            let fleet = file.resolve(entry.layer_bytes, entry.head_bytes, kv_bytes)?;
            return Ok(Self { model: entry.resolve()?, fleet });
        };
        let found = source::present(&settings.library(), name)?;
        let opened = local::open(&found.path)?;
        let template = opened.template.as_ref().map(ChatTemplate::source);
        let (source, tokenizer) = (&opened.source, &opened.tokenizer);
        let cut = Manifest::split(&found.name, source, tokenizer, template, &mut |_, _, _| {
            Ok::<_, ModelError>(())
        });
        let manifest = cut.map_err(|error| Failure::from(error).in_file(&found.path))?;
        let model = model(&manifest);
        let all: u64 = manifest.layers.iter().map(|layer| layer.bytes).sum();
        // A tied head reads the embedding's matrix.
        let head_bytes = manifest.head.bytes.max(manifest.embed.bytes);
        let layer_bytes = all / manifest.layers.len().max(1) as u64;
        let fleet = file.resolve(layer_bytes, head_bytes, model.kv_bytes_per_position)?;
        Ok(Self { model, fleet })
    }
}

/// A model as it is: one variant of each layer, whose time is as its bytes.
fn model(manifest: &Manifest) -> Model {
    let config = &manifest.config;
    let all: u64 = manifest.layers.iter().map(|layer| layer.bytes).sum();
    let mean = (all / manifest.layers.len().max(1) as u64).max(1);
    let layers = manifest.layers.iter().map(|layer| Layer {
        variants: vec![Variant {
            name: "as stored".to_owned(),
            bytes: layer.bytes,
            time_permille: (layer.bytes * 1000).div_ceil(mean),
            loss: 0,
        }],
    });
    Model {
        name: manifest.name.clone(),
        layers: layers.collect(),
        ends_bytes: manifest.embed.bytes + manifest.head.bytes,
        kv_bytes_per_position: 2 * 2 * (config.n_kv_heads * config.head_dim) as u64,
        codecs: vec![Codec { name: "f32".to_owned(), row_bytes: 4 * config.dim as u64, loss: 0 }],
    }
}

fn policy(args: &PlanArgs, file: &FleetFile, fleet: &Fleet) -> Result<Policy, Failure> {
    let mut excluded = BTreeSet::new();
    for name in &args.without {
        excluded.insert(fleet.find(name)?);
    }
    for (node, labels) in file.labels()?.into_iter().enumerate() {
        if !args.label.iter().all(|wanted| labels.contains(wanted)) {
            excluded.insert(node);
        }
    }
    let pins = args
        .pin
        .iter()
        .map(|(layers, name)| Ok(Pin { layers: layers.clone(), node: fleet.find(name)? }));
    let pins = pins.collect::<Result<Vec<_>, PlanError>>()?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1e9")]
    let loss_max = (args.loss * 1e6).round() as u64;
    Ok(Policy {
        context: args.ctx,
        sessions: args.users,
        objective: match args.objective {
            PlanObjective::Latency => Objective::Latency,
            PlanObjective::Throughput => Objective::Throughput,
        },
        positions: args.positions.min(args.ctx),
        prompt_tokens: args.prompt.min(args.ctx),
        excluded,
        // As a mesh has it: who embeds goes on with its own layers.
        is_owner_first: args.fleet.is_none(),
        pins,
        loss_max,
        ..Policy::default()
    })
}

/// The failure, with what cannot be kept together, and the context that would do if one would.
fn in_the_way(query: &Query<'_>, error: PlanError) -> Failure {
    let no_room = matches!(error, PlanError::NoRoom { .. } | PlanError::NoOrder);
    let no_pins = matches!(error, PlanError::PinsConflict { .. } | PlanError::PinExcluded { .. });
    let cause = error.to_string();
    let mut failure = Failure::from(error);
    if no_room || no_pins {
        let wishes = conflict::conflict(query).map_or(vec![], |found| found.wishes);
        let words: Vec<String> = wishes.iter().map(|wish| wish.text(query)).collect();
        match words.as_slice() {
            [] => {}
            [one] => failure = failure.because(format!("{cause}; it cannot keep to: {one}")),
            more => {
                let more = more.join("; ");
                failure = failure.because(format!("{cause}; it cannot keep together: {more}"));
            }
        }
    }
    let mut context = query.policy.context / 2;
    while no_room && context >= 16 {
        let policy = Policy { context, ..query.policy.clone() };
        if plan(&Query { policy: &policy, ..*query }).is_ok() {
            return failure.hint(format!("--ctx {context} fits"));
        }
        context /= 2;
    }
    failure
}
