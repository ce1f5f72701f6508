//! `atoll serve`: a node with a model and the OpenAI interface.

use std::time::Duration;

use atoll_node::ServePolicy;
use serde_json::json;

use super::up::{Api, RunningNode};
use crate::answer::CONTEXT_DEFAULT;
use crate::args::ServeArgs;
use crate::events;
use crate::exit::Failure;
use crate::interrupt::Stop;
use crate::settings::Settings;
use crate::source;

pub(crate) async fn run(settings: &Settings, args: ServeArgs, stop: &Stop) -> Result<(), Failure> {
    let api = Api::bind(settings.api(args.api)?).await?;
    let (library, name) = (settings.library().cancelled_by(stop.flag()), args.model.clone());
    let model = stop.race(super::blocking(move || source::obtain(&library, &name))).await?;
    let options = settings.node(&args.node, &args.compute)?;
    let node = stop.race(async { Ok(atoll_node::start(options).await?) }).await?;
    let running = RunningNode::new(settings, node, api)?;
    let policy = ServePolicy {
        stages: args.stages,
        context: args.ctx.unwrap_or(CONTEXT_DEFAULT),
        wait: Duration::from_secs(args.wait.into()),
        loss_max: args.max_loss,
        ..ServePolicy::default()
    };
    let serving = async {
        let served = running.node.serve(&model.name, &model.path, policy).await?;
        let mut text = format!("serving {}: {}", served.name, events::stages_text(&served.stages));
        if !served.widths.is_empty() {
            let narrower = served.widths.iter().filter(|width| **width < 1.0).count();
            text += &format!(
                "\n{narrower} of {} layers are narrower, {:.4} nats away from the model as given; \
                 the same here: --width {}",
                served.widths.len(),
                served.loss_nats,
                events::widths_text(&served.widths)
            );
        }
        let event = json!({
            "event": "serving",
            "model": served.name,
            "stages": served.stages,
            "widths": served.widths,
            "loss_nats": served.loss_nats,
        });
        events::tell(settings.json, &event, &text)?;
        std::future::pending().await
    };
    let ended = tokio::select! {
        failed = serving => failed,
        told = running.follow(settings, Some(&model.name)) => told,
        failure = stop.asked() => Err(failure),
    };
    running.end().await;
    ended
}
