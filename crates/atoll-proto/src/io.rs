//! What goes into a `Node` and what comes out.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, JobId, ModelId, NodeId, PlanEpoch, RequestId, SessionId};
use crate::message::Message;
use crate::plan::{LayerRange, ModelInfo, Plan, PlanError, PlanPolicy, Profile};

/// Something that happened. The driver feeds these to `Node::handle`.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// The deadline that `Node::deadline` named has come.
    Tick,
    /// The user of this node wants something.
    Command(Command),
    /// Somebody may be there: a hint from mDNS, Kademlia or a bootstrap address.
    Discovered {
        /// Who.
        peer: NodeId,
    },
    /// A first connection to the peer stands.
    Connected {
        /// Who.
        peer: NodeId,
    },
    /// The last connection to the peer is gone.
    Disconnected {
        /// Who.
        peer: NodeId,
        /// In the transport's words.
        cause: String,
    },
    /// A message arrived whole and decoded.
    Received {
        /// From whom (authenticated by the transport).
        from: NodeId,
        /// What.
        message: Message,
    },
    /// `Output::Prepare` has got so far.
    PrepareProgress {
        /// Which model.
        model: ModelId,
        /// Which plan of it.
        plan_epoch: PlanEpoch,
        /// Bytes present.
        bytes_done: u64,
        /// Bytes needed.
        bytes_total: u64,
    },
    /// `Output::Prepare` ended.
    Prepared {
        /// Which model.
        model: ModelId,
        /// Which plan of it.
        plan_epoch: PlanEpoch,
        /// Ready to compute, or why not.
        result: Result<(), String>,
    },
    /// `Output::Compute` ended.
    Computed {
        /// Which job.
        job: JobId,
        /// Its output, or why there is none.
        result: Result<Computed, String>,
        /// Time spent computing, queueing not counted.
        compute_us: u64,
    },
}

/// What the user of this node can ask.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Own a model: plan it over the members and keep it ready. Answers with `Event::Plan…`.
    Serve {
        /// What is to be served; this node's store holds all of it.
        model: ModelInfo,
        /// How it is to be placed.
        policy: PlanPolicy,
    },
    /// Stop serving a model; its sessions end with an error.
    Unserve {
        /// Which.
        model: ModelId,
    },
    /// Generate tokens with a model that this node serves. Waits while its plan is in the making.
    Generate(Request),
    /// End a request now, and free what it holds at every stage.
    Cancel {
        /// Which.
        request: RequestId,
    },
    /// This node's profile was measured (again).
    Measured(Profile),
    /// Say goodbye to all peers; nothing is accepted afterwards.
    Leave,
}

/// A sequence to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The asker's name for it.
    pub id: RequestId,
    /// With which model.
    pub model: ModelId,
    /// The session's id: fresh and random, from the driver (the core has no randomness).
    pub session: SessionId,
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// Tokens to generate at most.
    pub max_tokens: u32,
    /// Generation ends when one of these is sampled; it is emitted, too.
    pub stop_tokens: Vec<u32>,
    /// Prompt tokens per prefill frame, at least 1.
    pub prefill_chunk: u32,
    /// The sampler's settings, opaque here.
    pub sampling: Vec<u8>,
    /// The request ends with an error after this long, whatever happens.
    pub deadline_us: u64,
}

/// An effect for the driver to carry out, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Send a message. Order is kept per peer. To a peer that is gone: dropped.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Connect to a discovered peer, if not connected.
    Dial {
        /// To whom.
        peer: NodeId,
    },
    /// Close every connection to a peer.
    Disconnect {
        /// To whom.
        peer: NodeId,
        /// For the log.
        cause: String,
    },
    /// Fetch what is missing of a part of a model, verify it, and load it for computing. Answered
    /// by `Input::PrepareProgress` (any number) and one `Input::Prepared`. A newer plan epoch of
    /// the same model replaces what was loaded before, or stands beside it.
    Prepare {
        /// Which model.
        model: ModelId,
        /// Which plan of it.
        plan_epoch: PlanEpoch,
        /// What of it.
        part: Part,
        /// Who has the blobs, best first.
        holders: Vec<NodeId>,
        /// What is loaded of the model stays and computes on, until [`Output::Keep`].
        is_beside: bool,
    },
    /// Free what is loaded of a model but the part with these layers, and give up what is being
    /// prepared of it.
    Keep {
        /// Which model.
        model: ModelId,
        /// The layers of the part that stays.
        layers: Option<LayerRange>,
    },
    /// Free a model's loaded parts (its blobs stay on disk).
    Unload {
        /// Which.
        model: ModelId,
    },
    /// Compute. Jobs of one session run in the order given. Answered by one `Input::Computed`,
    /// except after `Release` of its session.
    Compute(Job),
    /// Free a session's KV cache and drop its queued jobs.
    Release {
        /// Which.
        session: SessionId,
    },
    /// Tell the user of this node.
    Emit(Event),
}

/// What of a model a node holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The layers, if any.
    pub layers: Option<LayerRange>,
    /// The token embedding.
    pub embed: bool,
    /// The final norm and the vocabulary product.
    pub head: bool,
}

/// Some positions of one session to take through a part of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its name in `Input::Computed`.
    pub id: JobId,
    /// Whose KV cache.
    pub session: SessionId,
    /// The epoch in which the sequence began: a job of a newer one starts with an empty KV cache.
    pub epoch: Epoch,
    /// Which model.
    pub model: ModelId,
    /// Position of the first row; equals the KV length when the job runs.
    pub from_pos: u32,
    /// Positions that the session may reach (bounds its KV cache).
    pub positions_max: u32,
    /// The rows: tokens if the part begins with the embedding, else activations.
    pub input: JobInput,
    /// What to run: embedding, then layers, then head, whichever are set.
    pub part: Part,
    /// With a head: how to sample the token after the last row. `None` with `part.head`: the head
    /// is skipped (a prefill chunk that is not the last).
    pub sample: Option<SampleWork>,
    /// Without a head: return the last row only (the head wants no other).
    pub last_row_only: bool,
}

/// A job's rows.
#[derive(Clone, Debug, PartialEq)]
pub enum JobInput {
    /// Token ids.
    Tokens(Vec<u32>),
    /// Activations from the stage before.
    Activation(Activation),
}

/// What the head needs to choose a token.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleWork {
    /// The sampler's settings, opaque here (`Request::sampling`).
    pub sampling: Vec<u8>,
    /// The sequence's latest tokens, oldest first, at most [`RECENT_TOKENS_MAX`], for penalties.
    pub recent: Vec<u32>,
    /// The position that the sampled token will take.
    pub pos: u32,
}

/// Tokens of history that a sampler may look at: bounds what each job carries.
pub const RECENT_TOKENS_MAX: usize = 256;

/// What a job gave.
#[derive(Clone, Debug, PartialEq)]
pub enum Computed {
    /// Rows for the next stage.
    Activation(Activation),
    /// A token was sampled. `detail` is the sampler's report (log-probabilities), opaque here.
    Token {
        /// Its id.
        token: u32,
        /// Opaque, at most 16 KiB.
        detail: Vec<u8>,
    },
    /// The KV cache has grown and nothing else was asked.
    Nothing,
}

/// Rows of activations as opaque bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// How `data` is encoded.
    pub dtype: WireType,
    /// Positions.
    pub rows: u32,
    /// Values per row.
    pub cols: u32,
    /// `rows * cols` values, row-major, little-endian.
    pub data: Vec<u8>,
}

/// The codecs of activations on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WireType {
    /// 32-bit floats: lossless, the default.
    F32,
    /// One `u64` digest per row: the simulator's hash model.
    Digest,
}

impl WireType {
    /// Bytes of one value.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Digest => 8,
        }
    }
}

/// News for the user of this node.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A member said hello.
    PeerJoined {
        /// Who.
        peer: NodeId,
        /// Its chosen name.
        name: String,
    },
    /// A member is silent: others may do its work. Nothing is taken from it, and one word of it
    /// makes all as before.
    PeerSuspected {
        /// Who.
        peer: NodeId,
    },
    /// A member left or was lost.
    PeerLeft {
        /// Who.
        peer: NodeId,
        /// How we know.
        cause: String,
    },
    /// A plan was made and its stages are fetching and loading.
    PlanProgress {
        /// The plan.
        plan: Plan,
        /// Which node reports.
        node: NodeId,
        /// Bytes it has.
        bytes_done: u64,
        /// Bytes it needs.
        bytes_total: u64,
    },
    /// The model can be used.
    PlanReady {
        /// The plan in force.
        plan: Plan,
    },
    /// The model cannot be placed (any more).
    PlanFailed {
        /// Which model.
        model: ModelId,
        /// What is missing.
        error: PlanError,
    },
    /// Prompt positions that the whole ring has taken in.
    Prefilled {
        /// Whose.
        request: RequestId,
        /// Positions done.
        done: u32,
        /// Positions in the prompt.
        total: u32,
    },
    /// A token was emitted: it is in the origin's log.
    Token {
        /// Whose.
        request: RequestId,
        /// Its index among the generated, from 0, without gaps.
        index: u32,
        /// Its id.
        token: u32,
        /// The sampler's report.
        detail: Vec<u8>,
        /// What each hop of the ring took for it.
        hops: Vec<HopTime>,
        /// From sending its input into the ring to having it.
        round_us: u64,
    },
    /// A stage of a request is gone and no plan without it is in force: no token comes until one
    /// is, and what was emitted stays.
    Parked {
        /// Whose.
        request: RequestId,
    },
    /// A request ended with all its tokens.
    Finished {
        /// Whose.
        request: RequestId,
        /// Why no more follow.
        reason: FinishReason,
    },
    /// A request ended early; what was emitted stays valid.
    Failed {
        /// Whose.
        request: RequestId,
        /// What broke.
        error: RequestError,
    },
}

/// One node's share of a token's way around the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HopTime {
    /// Which node.
    pub node: NodeId,
    /// Frame received to output sent, in that node's own clock.
    pub held_us: u32,
    /// Of that, computing.
    pub compute_us: u32,
}

/// Why a finished request has no more tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FinishReason {
    /// A stop token was sampled.
    Stop,
    /// `max_tokens` or the context's end was reached.
    Length,
}

/// Why a request ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No such model is served here.
    #[error("model {0} is not served by this node")]
    UnknownModel(ModelId),
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The prompt does not fit.
    #[error("the prompt has {prompt} tokens, the context holds {context}")]
    PromptTooLong {
        /// Tokens in the prompt.
        prompt: u32,
        /// Tokens that the plan has room for.
        context: u32,
    },
    /// The id is in use.
    #[error("a request or session with this id is already running")]
    Duplicate,
    /// More requests than the node takes at once.
    #[error("{0} requests are running or waiting, which is the limit")]
    TooMany(u32),
    /// The model cannot be placed.
    #[error("no plan for the model: {0}")]
    NoPlan(PlanError),
    /// A stage's node is gone.
    #[error("node {node} holding layers {layers} was lost: {cause}")]
    NodeLost {
        /// Which node.
        node: NodeId,
        /// What it held.
        layers: LayerRange,
        /// How we know.
        cause: String,
    },
    /// A stage refused or could not compute.
    #[error("node {node} failed: {cause}")]
    StageFailed {
        /// Which node.
        node: NodeId,
        /// In its words.
        cause: String,
    },
    /// The request's own deadline.
    #[error("no end within {after_us} µs")]
    DeadlineExceeded {
        /// The deadline.
        after_us: u64,
    },
    /// The user cancelled it, or the node is leaving.
    #[error("cancelled")]
    Cancelled,
}
