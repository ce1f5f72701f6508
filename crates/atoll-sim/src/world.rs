//! The network, the devices, and one run of a seed.

use std::collections::{BTreeMap, BTreeSet};

use atoll_proto::io::{Activation, JobInput, WireType};
use atoll_proto::plan::{ModelInfo, PlanPolicy, Profile};
use atoll_proto::{
    Command, Computed, Epoch, Event, Input, Job, Limits, ModelId, Node, NodeConfig, NodeId, Output,
    Request, RequestId, SessionId, Time,
};

use crate::Random;
use crate::hash_model::{LAYERS, head, layer, mix, oracle};

/// Virtual time of one run, µs: well past the last request's deadline.
const HORIZON_US: u64 = 12_000_000;
/// Tokens of one request.
const TOKENS: u32 = 16;
/// Requests of one run.
const REQUESTS: u64 = 4;

/// What a run, or several together, showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Inputs handled.
    pub events: u64,
    /// Nodes that left or died.
    pub faults: u64,
    /// Tokens emitted.
    pub tokens: u64,
    /// Requests with all their tokens.
    pub completed: u64,
    /// Requests that ended with an error.
    pub failed: u64,
    /// What broke an invariant.
    pub violations: Vec<String>,
    /// Digest over every event in order.
    pub trace: u64,
}

struct World {
    now: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), (usize, Input)>,
    nodes: Vec<Node>,
    alive: Vec<bool>,
    busy: Vec<u64>,
    connected: BTreeSet<(usize, usize)>,
    arrivals: BTreeMap<(usize, usize), u64>,
    delays: Random,
    kv: BTreeMap<(usize, SessionId), (Epoch, Vec<u64>)>,
    prompts: BTreeMap<RequestId, Vec<u32>>,
    got: BTreeMap<RequestId, Vec<u32>>,
    ended: BTreeSet<RequestId>,
    report: Report,
}

fn id(index: usize) -> NodeId {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&(index as u64).to_be_bytes());
    NodeId(bytes)
}

fn index(id: NodeId) -> usize {
    let bytes = *id.0.first_chunk().expect("32 bytes");
    usize::try_from(u64::from_be_bytes(bytes)).expect("an index")
}

/// Runs one seed with `n` nodes and reports what it showed.
#[must_use]
pub fn run(seed: u64, n: usize) -> Report {
    let mut world = World {
        now: 0,
        sequence: 0,
        queue: BTreeMap::new(),
        nodes: (0..n)
            .map(|i| {
                let (id, limits) = (id(i), Limits::default());
                Node::new(NodeConfig { id, name: format!("n{i}"), limits })
            })
            .collect(),
        alive: vec![true; n],
        busy: vec![0; n],
        connected: BTreeSet::new(),
        arrivals: BTreeMap::new(),
        delays: Random::new(seed, 1),
        kv: BTreeMap::new(),
        prompts: BTreeMap::new(),
        got: BTreeMap::new(),
        ended: BTreeSet::new(),
        report: Report::default(),
    };
    world.schedule(seed, n);
    while let Some(((at, _), (node, input))) = world.queue.pop_first() {
        if at > HORIZON_US {
            break;
        }
        world.now = at;
        world.step(node, input);
    }
    for request in world.prompts.keys().filter(|request| !world.ended.contains(request)) {
        world.report.violations.push(format!("request {} never ended", request.0));
    }
    world.report
}

impl World {
    fn schedule(&mut self, seed: u64, n: usize) {
        let (mut joins, mut leaves) = (Random::new(seed, 2), Random::new(seed, 3));
        let mut work = Random::new(seed, 4);
        for i in 0..n {
            let profile =
                Profile { memory_bytes: 1 << 20, weight_bytes_per_s: 1 + work.below(1_000_000) };
            self.push(0, i, Input::Command(Command::Measured(profile)));
            let at = joins.below(2_000_000);
            for peer in (0..i).map(id) {
                self.push(at, i, Input::Discovered { peer });
            }
            if i > 0 && leaves.below(20) == 0 {
                self.push(1_000_000 + leaves.below(4_000_000), i, Input::Command(Command::Leave));
            }
        }
        let model = ModelInfo {
            id: ModelId([9; 32]),
            name: "hash".into(),
            layer_bytes: vec![100; usize::from(LAYERS)],
            embed_bytes: 10,
            head_bytes: 10,
            kv_bytes_per_position: 1,
            row_values: 1,
            context_max: 256,
        };
        let policy = PlanPolicy { stages: Some(4), context: 128, sessions: 4, wait_us: 5_000_000 };
        self.push(1_500_000, 0, Input::Command(Command::Serve { model, policy }));
        for i in 0..REQUESTS {
            let prompt: Vec<u32> = (0..1 + work.below(40))
                .map(|_| u32::try_from(work.below(9999)).unwrap_or(0))
                .collect();
            self.prompts.insert(RequestId(i), prompt.clone());
            let request = Request {
                id: RequestId(i),
                model: ModelId([9; 32]),
                session: SessionId(u128::from(mix(&[seed, i]))),
                prompt,
                max_tokens: TOKENS,
                stop_tokens: Vec::new(),
                prefill_chunk: 7,
                sampling: Vec::new(),
                deadline_us: 6_000_000,
            };
            let at = 2_000_000 + work.below(2_000_000);
            self.push(at, 0, Input::Command(Command::Generate(request)));
        }
    }

    fn push(&mut self, at: u64, node: usize, input: Input) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), (node, input));
    }

    fn step(&mut self, node: usize, input: Input) {
        if !self.alive[node] {
            return;
        }
        if matches!(input, Input::Tick) && self.nodes[node].deadline() > Some(Time(self.now)) {
            return;
        }
        self.report.events += 1;
        let leaving = matches!(input, Input::Command(Command::Leave));
        let outputs = self.nodes[node].handle(Time(self.now), input);
        let words = [self.report.trace, self.now, node as u64, outputs.len() as u64];
        self.report.trace = mix(&words);
        for output in outputs {
            self.carry_out(node, output);
        }
        if leaving {
            self.report.faults += 1;
            self.alive[node] = false;
        }
        if let Some(Time(at)) = self.nodes[node].deadline() {
            self.push(at.max(self.now + 1), node, Input::Tick);
        }
    }

    fn link(&mut self, from: usize, to: usize, input: Input) {
        let at = self.now + 200 + self.delays.below(3_000);
        let last = self.arrivals.entry((from, to)).or_default();
        *last = at.max(*last + 1);
        let at = *last;
        self.push(at, to, input);
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        match output {
            Output::Send { to, message } => {
                let from = id(node);
                self.link(node, index(to), Input::Received { from, message });
            }
            Output::Dial { peer } => {
                let to = index(peer);
                if self.alive[to] && self.connected.insert((node.min(to), node.max(to))) {
                    self.link(node, to, Input::Connected { peer: id(node) });
                    self.link(to, node, Input::Connected { peer });
                }
            }
            Output::Disconnect { peer, .. } => {
                let to = index(peer);
                self.connected.remove(&(node.min(to), node.max(to)));
                let cause = "closed".into();
                self.link(node, to, Input::Disconnected { peer: id(node), cause });
            }
            Output::Prepare { model, plan_epoch, .. } => {
                let at = self.now + 1_000 + self.delays.below(100_000);
                self.push(at, node, Input::Prepared { model, plan_epoch, result: Ok(()) });
            }
            Output::Unload { .. } => {}
            Output::Compute(job) => self.compute(node, job),
            Output::Release { session } => {
                self.kv.remove(&(node, session));
            }
            Output::Emit(event) => self.emitted(event),
        }
    }

    fn compute(&mut self, node: usize, job: Job) {
        let layers = job.part.layers.map_or(0..0, |layers| layers.start..layers.end);
        let mut rows: Vec<u64> = match job.input {
            JobInput::Tokens(tokens) => tokens.into_iter().map(u64::from).collect(),
            JobInput::Activation(activation) => {
                let words = activation.data.chunks_exact(8);
                words.map(|w| u64::from_le_bytes(*w.first_chunk().expect("8"))).collect()
            }
        };
        let fresh = || (job.epoch, vec![0; usize::from(LAYERS)]);
        let held = self.kv.entry((node, job.session)).or_insert_with(fresh);
        if held.0 < job.epoch {
            *held = fresh();
        }
        for (pos, row) in (job.from_pos..).zip(&mut rows) {
            for l in layers.clone() {
                *row = layer(l, pos, *row, &mut held.1[usize::from(l)]);
            }
        }
        let result = if job.part.head {
            let token = head(rows.last().copied().unwrap_or(0));
            job.sample.map_or(Computed::Nothing, |_| Computed::Token { token, detail: Vec::new() })
        } else {
            let rows = if job.last_row_only { rows.split_off(rows.len() - 1) } else { rows };
            Computed::Activation(Activation {
                dtype: WireType::Digest,
                rows: u32::try_from(rows.len()).unwrap_or(0),
                cols: 1,
                data: rows.iter().flat_map(|row| row.to_le_bytes()).collect(),
            })
        };
        let compute_us = 100 + self.delays.below(2_000);
        self.busy[node] = self.busy[node].max(self.now) + compute_us;
        let at = self.busy[node];
        self.push(at, node, Input::Computed { job: job.id, result: Ok(result), compute_us });
    }

    fn emitted(&mut self, event: Event) {
        match event {
            Event::Token { request, index, token, .. } => {
                self.report.tokens += 1;
                let got = self.got.entry(request).or_default();
                got.push(token);
                let expected = oracle(&self.prompts[&request], got.len());
                if *got != expected || index as usize + 1 != got.len() {
                    let violation = format!("request {}: token {index} differs", request.0);
                    self.report.violations.push(violation);
                }
            }
            Event::Finished { request, .. } => {
                self.ended.insert(request);
                self.report.completed += 1;
                if self.got.get(&request).map(Vec::len) != Some(TOKENS as usize) {
                    self.report.violations.push(format!("request {} is short", request.0));
                }
            }
            Event::Failed { request, .. } => {
                self.ended.insert(request);
                self.report.failed += 1;
            }
            Event::PeerJoined { .. }
            | Event::PeerLeft { .. }
            | Event::PlanProgress { .. }
            | Event::PlanReady { .. }
            | Event::PlanFailed { .. }
            | Event::Prefilled { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::run;

    #[test]
    fn tokens_are_the_oracles_and_a_seed_repeats_itself() {
        let (mut completed, mut failed) = (0, 0);
        for seed in 0..20 {
            let report = run(seed, 12);
            assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
            assert_eq!(report, run(seed, 12), "seed {seed}");
            completed += report.completed;
            failed += report.failed;
        }
        assert!(completed >= 60, "{completed} completed, {failed} failed");
    }
}
