//! `atoll demo`: three nodes on this machine answer one prompt together.

use std::time::Instant;

use crate::answer::{Answer, Ask, ring_text};
use crate::args::{DemoArgs, GenerationArgs};
use crate::exit::Failure;
use crate::interrupt::Stop;
use crate::mesh::{Computing, LoopbackMesh};
use crate::output;
use crate::settings::Settings;
use crate::source::{self, DEFAULT_MODEL, LocalModel};

/// This process and two children.
const NODES: u16 = 3;

pub(crate) async fn run(settings: &Settings, args: DemoArgs, stop: &Stop) -> Result<(), Failure> {
    let began = Instant::now();
    let library = settings.library().cancelled_by(stop.flag());
    let model = stop.race(super::blocking(move || source::obtain(&library, DEFAULT_MODEL))).await?;
    let kernels = settings.kernels_name(&args.compute);
    let computing =
        Computing { threads: settings.threads(&args.compute), kernels: kernels.as_deref() };
    let mut mesh = stop.race(LoopbackMesh::start(settings, NODES, computing)).await?;
    let answered = stop.race(answer(settings, &args, &mut mesh, &model, began)).await;
    mesh.end().await;
    let answer = answered?;
    if settings.json { output::json(&answer) } else { figures(&answer) }
}

async fn answer(
    settings: &Settings,
    args: &DemoArgs,
    mesh: &mut LoopbackMesh,
    model: &LocalModel,
    began: Instant,
) -> Result<Answer, Failure> {
    let typed = GenerationArgs { max_tokens: Some(args.max_tokens), ..GenerationArgs::default() };
    let ask = Ask::new(args.prompt.clone(), &typed);
    let stages = super::run::place(mesh, NODES, model, &ask).await?;
    if !settings.json {
        output::note(&picture(&model.name, &stages));
    }
    let mut first = true;
    let mut show = |text: &str| {
        if settings.json {
            return Ok(());
        }
        if std::mem::take(&mut first) {
            let seconds = began.elapsed().as_secs_f64();
            output::note(&format!("first token {seconds:.2} s after the start\n"));
        }
        output::write_out(text)
    };
    super::run::ask_mesh(mesh, model, &ask, &mut show).await
}

/// The placement, as a ring.
fn picture(model: &str, stages: &[atoll_node::StageView]) -> String {
    let widest = stages.iter().map(|stage| stage.node.len()).max().unwrap_or(0);
    let last = stages.iter().map(|stage| stage.layers[1]).max().unwrap_or(0);
    let mut lines = vec![format!("{model}: {last} layers on {} nodes", stages.len())];
    for (idx, stage) in stages.iter().enumerate() {
        let [start, end] = stage.layers;
        let bar: String =
            (0..last).map(|layer| if (start..end).contains(&layer) { '█' } else { '·' }).collect();
        let arrow = if idx + 1 < stages.len() { "↓" } else { "↺" };
        let node = &stage.node;
        lines.push(format!("  {arrow} {node:<widest$}  {bar}  layers {start}..{end}"));
    }
    lines.join("\n")
}

/// What was measured, hop by hop.
fn figures(answer: &Answer) -> Result<(), Failure> {
    output::line_out("")?;
    let mut lines = vec![
        String::new(),
        format!(
            "{} tokens; first after {:.2} s, then {:.1} tokens/s",
            answer.tokens.len(),
            answer.ttft_s,
            answer.decode_tokens_per_s
        ),
        format!("{:<10} {:>12} {:>13}", "per token", "computing", "waiting"),
    ];
    for hop in &answer.hops {
        let compute_ms = hop.compute_s * 1e3;
        let waiting_ms = (hop.held_s - hop.compute_s).max(0.0) * 1e3;
        lines.push(format!("{:<10} {compute_ms:>9.2} ms {waiting_ms:>10.3} ms", hop.node));
    }
    lines.extend(answer.ring.as_ref().map(ring_text));
    output::note(&lines.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use atoll_node::StageView;

    use super::*;

    #[test]
    fn the_picture_covers_every_layer_once() {
        let stage = |node: &str, layers| StageView { node: node.into(), layers };
        let picture = picture("m", &[stage("node-1", [0, 3]), stage("b", [3, 5])]);
        let expected = "m: 5 layers on 2 nodes\n  ↓ node-1  ███··  layers 0..3\n  \
                        ↺ b       ···██  layers 3..5";
        assert_eq!(picture, expected);
    }
}
