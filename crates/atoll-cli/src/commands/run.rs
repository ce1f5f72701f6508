//! `atoll run`: one prompt, one answer.

use std::time::Duration;

use atoll_node::{GenerateRequest, NodeError, ServePolicy, StageView};

use crate::answer::{Answer, Ask, CONTEXT_DEFAULT, Listener};
use crate::args::RunArgs;
use crate::events::{self, Audience, Teller};
use crate::exit::{Exit, Failure};
use crate::interrupt::Stop;
use crate::local;
use crate::mesh::{Computing, LoopbackMesh};
use crate::output;
use crate::prompt;
use crate::settings::Settings;
use crate::source::{self, LocalModel};

/// No node will join a mesh of one machine's own that has met.
const ALL_ARE_HERE: Duration = Duration::from_secs(2);

pub(crate) async fn run(settings: &Settings, args: RunArgs, stop: &Stop) -> Result<(), Failure> {
    let typed = args.prompt.clone();
    let prompt = stop.race(super::blocking(move || prompt::read(typed.as_deref()))).await?;
    let (library, name) = (settings.library().cancelled_by(stop.flag()), args.model.clone());
    let model = stop.race(super::blocking(move || source::obtain(&library, &name))).await?;
    let ask = Ask::new(prompt, &args.generation);
    let answer = match args.stages {
        None => {
            let compute = settings.compute(&args.compute)?;
            let (json, flag, width) = (settings.json, stop.flag(), args.width.clone());
            let work = super::blocking(move || {
                let loaded = local::load(&model, &width, compute)?;
                local::answer(&loaded, &ask, &flag, &mut |text| shown(json, text))
            });
            stop.race(work).await?
        }
        Some(n) => {
            let kernels = settings.kernels_name(&args.compute);
            let threads = settings.threads(&args.compute);
            let computing = Computing { threads, kernels: kernels.as_deref() };
            let mut mesh = stop.race(LoopbackMesh::start(settings, n, computing)).await?;
            let mut show = |text: &str| shown(settings.json, text);
            let work = async {
                place(&mut mesh, n, &model, &ask).await?;
                ask_mesh(&mut mesh, &model, &ask, &mut show).await
            };
            let answer = stop.race(work).await;
            mesh.end().await;
            answer?
        }
    };
    answer.show(settings.json)
}

/// Serves `model` on `mesh` as `n` stages; says where each is.
pub(crate) async fn place(
    mesh: &mut LoopbackMesh,
    n: u16,
    model: &LocalModel,
    ask: &Ask,
) -> Result<Vec<StageView>, Failure> {
    let policy = ServePolicy {
        stages: Some(n),
        context: ask.context.unwrap_or(CONTEXT_DEFAULT),
        wait: ALL_ARE_HERE,
        ..ServePolicy::default()
    };
    let node = mesh.node.clone();
    let teller = Teller::new(Audience::Waiting, Some(&model.name));
    tokio::select! {
        served = node.serve(&model.name, &model.path, policy) => Ok(served?.stages),
        failure = mesh.broken() => Err(failure),
        told = events::follow(teller, &node) => {
            Err(told.err().unwrap_or_else(|| NodeError::Stopped.into()))
        }
    }
}

/// Asks the model that [`place`] has placed.
pub(crate) async fn ask_mesh(
    mesh: &mut LoopbackMesh,
    model: &LocalModel,
    ask: &Ask,
    show: &mut (dyn FnMut(&str) -> Result<(), Failure> + Send),
) -> Result<Answer, Failure> {
    let request = GenerateRequest {
        model: model.name.clone(),
        prompt: ask.prompt.clone(),
        sampler: ask.sampler.clone(),
        max_tokens: Some(ask.max_tokens),
        stop: ask.stop.clone(),
        prefill_chunk: Some(ask.chunk),
        deadline: None,
    };
    let mut events = mesh.node.generate(request).await?;
    let mut listener = Listener::new(Answer::empty(&model.name, ask), show);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            failure = mesh.broken() => return Err(failure),
        };
        let event = event
            .ok_or_else(|| Failure::new(Exit::Failure, "the answer broke off without a reason"))?;
        if listener.hear(event)? {
            return Ok(listener.answer);
        }
    }
}

/// Streams text to people; JSON readers get it whole at the end.
fn shown(json: bool, text: &str) -> Result<(), Failure> {
    if json { Ok(()) } else { output::write_out(text) }
}
