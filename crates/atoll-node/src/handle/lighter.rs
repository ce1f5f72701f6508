//! Models that are served with narrower layers, where the nodes have no room for whole ones.

use std::sync::Arc;

use atoll_model::StepEntry;
use atoll_proto::plan::{PlanError, PlanPolicy};
use atoll_proto::planner::{NarrowStep, lighter};
use atoll_proto::{Command, Input};

use super::{NodeHandle, ServePolicy, ServedModel};
use crate::error::NodeError;
use crate::served::Served;

impl NodeHandle {
    /// Plans a model over the members, whole if there is room, else with layers as narrow as they
    /// have to be, if what that loses is allowed. Returns when it can be used.
    pub(super) async fn plan(
        &self,
        served: Arc<Served>,
        policy: ServePolicy,
    ) -> Result<ServedModel, NodeError> {
        let loss_max = policy.loss_max;
        let policy = PlanPolicy {
            stages: policy.stages,
            context: policy.context.min(served.info().context_max),
            sessions: policy.sessions,
            spares: policy.spares,
            wait_us: u64::try_from(policy.wait.as_micros()).unwrap_or(u64::MAX),
            rule: None,
        };
        let error = match self.placed(&served, policy.clone()).await {
            Err(NodeError::Plan(error @ PlanError::NoRoom { .. })) => error,
            placed => return placed,
        };
        let Some(narrow) = self.narrowed(&served, &policy).await? else { return Err(error.into()) };
        if narrow.loss_nats() > loss_max {
            return Err(NodeError::Lighter { error, loss_nats: narrow.loss_nats() });
        }
        self.shared.core.input(Input::Command(Command::Unserve { model: served.id }));
        tracing::info!(model = served.name, loss_nats = narrow.loss_nats(), "layers are narrower");
        self.placed(&narrow, policy).await
    }

    /// The model with layers as narrow as they have to be; `None` if the narrowest have no room,
    /// or there are none.
    async fn narrowed(
        &self,
        served: &Arc<Served>,
        policy: &PlanPolicy,
    ) -> Result<Option<Arc<Served>>, NodeError> {
        let Some(offer) = self.shared.core.offer(served.id) else { return Ok(None) };
        let (shared, served, policy) =
            (Arc::clone(&self.shared), Arc::clone(served), policy.clone());
        let making = tokio::task::spawn_blocking(move || {
            let manifest = &served.manifest;
            let step = |step: &StepEntry| NarrowStep {
                layer: step.layer,
                bytes: manifest.widths[step.width - 1].layers[step.layer].bytes,
            };
            let steps: Vec<NarrowStep> = manifest.steps.iter().map(step).collect();
            match lighter(&served.info(), &steps, &policy, &offer) {
                Ok(n) if n > 0 => {
                    served.narrowed(&shared.store, n).map(|narrow| Some(Arc::new(narrow)))
                }
                // That there is room whole now is for whoever asks again.
                Ok(_) | Err(_) => Ok(None),
            }
        });
        making.await.map_err(|_| NodeError::Stopped)?
    }
}
