//! What the compute thread keeps of a session.

use atoll_model::{KvCache, SamplerConfig};
use atoll_proto::io::Job;
use atoll_proto::plan::LayerRange;
use atoll_proto::{Epoch, ModelId};

use super::Loaded;

/// One session in one epoch at this node's part of its model.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) model: ModelId,
    pub(super) epoch: Epoch,
    /// The layers that its cache is of.
    pub(super) layers: Option<LayerRange>,
    pub(super) kv: KvCache,
    /// The sampler's settings as they came, and what they mean; the same for every token.
    sampler: Option<(Vec<u8>, SamplerConfig)>,
}

impl Session {
    /// An empty cache for a session whose first job is `job`.
    pub(super) fn new(job: &Job, loaded: &Loaded) -> Self {
        Self {
            model: job.model,
            epoch: job.epoch,
            layers: loaded.part.layers,
            kv: loaded.stage.new_kv_cache(job.positions_max as usize),
            sampler: None,
        }
    }

    /// The sampler's settings, parsed once.
    pub(super) fn sampler(&mut self, settings: &[u8]) -> Result<&SamplerConfig, String> {
        let known = self.sampler.as_ref().is_some_and(|(bytes, _)| bytes == settings);
        if !known {
            let config = serde_json::from_slice(settings)
                .map_err(|error| format!("sampling settings: {error}"))?;
            self.sampler = Some((settings.to_vec(), config));
        }
        Ok(&self.sampler.as_ref().expect("set just now or before").1)
    }
}
