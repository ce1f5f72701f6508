//! A virtual device: what it has loaded, its KV caches, and how long it computes.

use std::collections::BTreeMap;

use atoll_proto::io::{Activation, JobInput, Part, WireType};
use atoll_proto::plan::LayerRange;
use atoll_proto::{Computed, Epoch, Job, JobId, ModelId, SessionId};

use crate::cost::{Cores, Model, Quota, Speed, Work, sending_us, standard_job_us};
use crate::hash_model::{head, layer};
use crate::schedule;

/// Least time that a part takes to be made ready, µs.
const LOOK_US: u64 = 2_000;

/// What a device holds and does.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) memory_bytes: u64,
    weight_bytes_per_s: u64,
    speed: Option<Speed>,
    quota: Option<Quota>,
    model: Model,
    parts: BTreeMap<ModelId, Vec<Part>>,
    /// Parts being fetched, and whether what is loaded stays.
    wanted: BTreeMap<ModelId, (Part, bool)>,
    caches: BTreeMap<SessionId, Cache>,
    jobs: BTreeMap<JobId, SessionId>,
    busy_until: u64,
}

/// A session's KV cache.
#[derive(Debug)]
struct Cache {
    epoch: Epoch,
    /// The layers that it is of.
    layers: Option<LayerRange>,
    len: u32,
    digests: Vec<u64>,
    bytes: u64,
}

/// What became of a job, and when.
pub(crate) struct Done {
    pub(crate) at: u64,
    pub(crate) compute_us: u64,
    pub(crate) result: Result<Computed, String>,
    /// Length of the KV cache that the job found.
    pub(crate) kv_len: u32,
}

impl Device {
    pub(crate) fn new(device: &schedule::Device, model: &Model) -> Self {
        Self {
            memory_bytes: device.memory_bytes,
            weight_bytes_per_s: device.weight_bytes_per_s,
            speed: device.speed.clone(),
            quota: device.cpu_permille.map(Quota::new),
            model: model.clone(),
            parts: BTreeMap::new(),
            wanted: BTreeMap::new(),
            caches: BTreeMap::new(),
            jobs: BTreeMap::new(),
            busy_until: 0,
        }
    }

    /// A part is to be fetched; `is_beside`: and what is loaded is to stay.
    pub(crate) fn prepare(&mut self, model: ModelId, part: Part, is_beside: bool) {
        self.wanted.insert(model, (part, is_beside));
    }

    /// What was fetched takes the place of what was loaded, or stands beside it.
    pub(crate) fn load(&mut self, model: ModelId) {
        if let Some((part, is_beside)) = self.wanted.remove(&model) {
            self.keep_where(model, |layers| is_beside && layers != part.layers);
            self.parts.entry(model).or_default().push(part);
        }
    }

    /// Frees all parts of a model but the one with these layers.
    pub(crate) fn keep(&mut self, model: ModelId, layers: Option<LayerRange>) {
        self.wanted.remove(&model);
        self.keep_where(model, |other| other == layers);
    }

    fn keep_where(&mut self, model: ModelId, stays: impl Fn(Option<LayerRange>) -> bool) {
        if let Some(parts) = self.parts.get_mut(&model) {
            parts.retain(|part| stays(part.layers));
        }
        self.caches.retain(|_, cache| stays(cache.layers));
    }

    /// Frees a model's part. There is one model, so its sessions' caches are all there are.
    pub(crate) fn unload(&mut self, model: ModelId) {
        self.parts.remove(&model);
        self.caches.clear();
    }

    pub(crate) fn release(&mut self, session: SessionId) {
        self.caches.remove(&session);
        self.jobs.retain(|_, waiting| *waiting != session);
    }

    /// Whether these layers are loaded.
    pub(crate) fn has(&self, model: ModelId, layers: Option<LayerRange>) -> bool {
        self.part(model, layers).is_some()
    }

    fn part(&self, model: ModelId, layers: Option<LayerRange>) -> Option<&Part> {
        self.parts.get(&model)?.iter().find(|part| part.layers == layers)
    }

    /// Sessions whose caches are held.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.caches.keys().copied()
    }

    /// Jobs of a session that wait or run.
    pub(crate) fn waiting(&self, session: SessionId) -> usize {
        self.jobs.values().filter(|waiting| **waiting == session).count()
    }

    pub(crate) fn finished(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    /// Weights and caches, as large as they may grow.
    pub(crate) fn used_bytes(&self) -> u64 {
        let weights = self.parts.values().flatten().map(|part| self.part_bytes(*part));
        let caches = self.caches.values().map(|cache| cache.bytes);
        weights.sum::<u64>() + caches.sum::<u64>()
    }

    fn part_bytes(&self, part: Part) -> u64 {
        let ends = if part.embed { self.model.embed_bytes + self.model.head_bytes } else { 0 };
        ends + part.layers.map_or(0, |layers| layers.len() as u64 * self.model.layer_bytes)
    }

    /// How long fetching and loading a part takes, µs; `noise` for a device of which nothing is
    /// known about it. Layers that are loaded already are there at once.
    pub(crate) fn load_us(&self, model: ModelId, part: Part, noise: u64) -> u64 {
        match &self.speed {
            Some(_) if self.part(model, part.layers) == Some(&part) => LOOK_US,
            Some(speed) => {
                let is_held = |layer: &u16| {
                    let mut held = self.parts.get(&model).into_iter().flatten();
                    held.any(|part| part.layers.is_some_and(|l| (l.start..l.end).contains(layer)))
                };
                let layers = part.layers.map_or(0..0, |layers| layers.start..layers.end);
                let here = layers.filter(is_held).count() as u64 * self.model.layer_bytes;
                let bytes = self.part_bytes(part) - here;
                LOOK_US + sending_us(bytes, speed.load_bytes_per_s)
            }
            None => LOOK_US + (noise + 10_000) * part.layers.map_or(0, |l| l.len() as u64),
        }
    }

    /// Computes a job that came at `now`; `slowness` in percent of the usual time, and `noise` in
    /// percent on top of it.
    pub(crate) fn compute(
        &mut self,
        now: u64,
        job: &Job,
        (noise, slowness): (u64, u64),
        cores: &mut Cores,
    ) -> Done {
        self.jobs.insert(job.id, job.session);
        let layers = job.part.layers.map_or(0..0, |layers| layers.start..layers.end);
        let n_layers = layers.len() as u64;
        let kv_bytes =
            u64::from(self.model.kv_bytes_per_position) * u64::from(job.positions_max) * n_layers;
        let model_layers = usize::from(self.model.layers);
        let fresh = || Cache {
            epoch: job.epoch,
            layers: job.part.layers,
            len: 0,
            digests: vec![0; model_layers],
            bytes: kv_bytes,
        };
        let mut rows: Vec<u64> = match &job.input {
            JobInput::Tokens(tokens) => tokens.iter().copied().map(u64::from).collect(),
            JobInput::Activation(activation) => {
                let words = activation.data.chunks_exact(8);
                words.map(|w| u64::from_le_bytes(*w.first_chunk().expect("8"))).collect()
            }
        };
        // A head alone touches no cache.
        let body = job.part.embed || job.part.layers.is_some();
        let mut kv_len = job.from_pos;
        let count = u32::try_from(rows.len()).expect("a frame is short");
        if body {
            let held = self.caches.entry(job.session).or_insert_with(fresh);
            if held.epoch < job.epoch {
                *held = fresh();
            }
            kv_len = held.len;
            for (pos, row) in (job.from_pos..).zip(&mut rows) {
                for l in layers.clone() {
                    *row = layer(l, pos, *row, &mut held.digests[usize::from(l)]);
                }
            }
            held.len = job.from_pos + count;
        }
        let loaded = self.part(job.model, job.part.layers);
        let result = match (loaded, job.part.head) {
            (None, _) if job.part.layers.is_some() => Err("these layers are not loaded".into()),
            (_, true) => {
                let token = head(rows.last().copied().unwrap_or(0));
                let token = Computed::Token { token, detail: Vec::new() };
                Ok(job.sample.as_ref().map_or(Computed::Nothing, |_| token))
            }
            (_, false) => {
                let rows = if job.last_row_only { rows.split_off(rows.len() - 1) } else { rows };
                Ok(Computed::Activation(activation(&rows)))
            }
        };
        let work = Work {
            layers: n_layers,
            rows: count.into(),
            from_pos: job.from_pos.into(),
            head: job.part.head && job.sample.is_some(),
        };
        let us = match &self.speed {
            Some(speed) => speed.job_us(&self.model, work),
            None => standard_job_us(&self.model, work, self.weight_bytes_per_s),
        };
        let us = (us * slowness / 100) * (100 + noise) / 100;
        let begin = cores.begin(self.busy_until.max(now), us);
        let ends_at = self.quota.as_mut().map_or(begin + us, |quota| quota.through(begin, us));
        let compute_us = ends_at - begin;
        self.busy_until = ends_at;
        Done { at: self.busy_until, compute_us, result, kv_len }
    }
}

fn activation(rows: &[u64]) -> Activation {
    Activation {
        dtype: WireType::Digest,
        rows: u32::try_from(rows.len()).expect("a frame is short"),
        cols: 1,
        data: rows.iter().flat_map(|row| row.to_le_bytes()).collect(),
    }
}
