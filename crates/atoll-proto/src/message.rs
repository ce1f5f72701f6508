//! What nodes say to each other.

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, ModelId, NodeId, PlanEpoch, SessionId};
use crate::io::{Activation, HopTime, Part};
use crate::plan::{LayerRange, ModelInfo, Plan, Profile, Stage};

/// Everything that travels between two nodes, except blobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// First on every connection; nothing else is heard before it. Said again when the profile
    /// has changed.
    Hello {
        /// The speaker's chosen name, at most 64 bytes.
        name: String,
        /// What it can carry.
        profile: Profile,
    },
    /// I am here, and will say so again in time.
    Heartbeat {
        /// Within so long.
        again_ms: u32,
    },
    /// The speaker goes; do not wait for it.
    Leave,
    /// Owner to stage: get ready for this part.
    Assign(Box<Assign>),
    /// Stage to owner: still fetching.
    AssignProgress {
        /// Of which model.
        model: ModelId,
        /// Which plan.
        plan_epoch: PlanEpoch,
        /// Bytes present.
        bytes_done: u64,
        /// Bytes needed.
        bytes_total: u64,
    },
    /// Stage to owner: ready, or why not.
    Assigned {
        /// Of which model.
        model: ModelId,
        /// Which plan.
        plan_epoch: PlanEpoch,
        /// The outcome.
        result: Result<(), String>,
    },
    /// Owner to stage: the model is no longer served.
    Unassign {
        /// Which.
        model: ModelId,
    },
    /// Begins a session (or a new epoch of one). Travels the ring ahead of the first frame.
    Open(Open),
    /// Stage to origin: this epoch of the session is open here.
    Opened {
        /// Whose.
        session: SessionId,
        /// Which epoch.
        epoch: Epoch,
        /// Which stage.
        hop: u16,
    },
    /// Activations for the next stage.
    Frame(Frame),
    /// Last stage to origin: a prefill chunk that needs no head has passed.
    Passed {
        /// Whose.
        session: SessionId,
        /// In which epoch.
        epoch: Epoch,
        /// Positions `0..to_pos` are in every stage's KV cache.
        to_pos: u32,
        /// What each hop took.
        hops: Vec<HopTime>,
    },
    /// Stage to the stage before it, or to the origin: its KV cache ends at `len`, what follows is
    /// wanted.
    Nack {
        /// Whose.
        session: SessionId,
        /// In which epoch.
        epoch: Epoch,
        /// Positions that the stage has.
        len: u32,
    },
    /// Stage to origin: this epoch of the session cannot go on here.
    Reject {
        /// Whose.
        session: SessionId,
        /// Which epoch is refused; the origin heeds this only while it is its current one.
        epoch: Epoch,
        /// What may help.
        why: Refused,
        /// In its words.
        cause: String,
    },
    /// Origin to every stage: free what the session holds.
    Close {
        /// Whose.
        session: SessionId,
    },
    /// Who is heard, and who is not.
    Presence(Presence),
    /// How far nodes are from each other.
    Survey(Survey),
    /// Owner to stage: of what it holds of the model keep this range, let go of any other.
    Keep {
        /// Of which model.
        model: ModelId,
        /// Which layers.
        layers: LayerRange,
    },
}

/// What a member asks and says about being there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// Are you there? Answered by a heartbeat.
    Ping,
    /// Do you hear this member? Answered by a heartbeat at once, then `Heard` or `Unheard`.
    Ask(NodeId),
    /// This member, for which you asked, has been heard.
    Heard(NodeId),
    /// It has not.
    Unheard(NodeId),
    /// I suspect this member: look for yourself.
    Silent(NodeId),
}

/// How an owner learns of the links among the nodes that it could use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Survey {
    /// Answered at once by the echo of its number.
    Probe {
        /// Its number.
        probe: u32,
        /// Of no meaning: at most [`crate::limits::FILLER_BYTES_MAX`] that have to be carried.
        filler: Vec<u8>,
    },
    /// The answer.
    Echo(u32),
    /// Owner to member: measure your links to these, and tell me.
    Ask {
        /// The question's number.
        ask: u32,
        /// At most [`crate::limits::SURVEYED_MAX`].
        nodes: Vec<NodeId>,
        /// What was measured before is in doubt.
        is_again: bool,
    },
    /// Member to owner: what it found; who did not answer is not named.
    Told {
        /// Of which question.
        ask: u32,
        /// At most [`crate::limits::SURVEYED_MAX`].
        reaches: Vec<Reach>,
    },
}

/// How far a node is from the speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reach {
    /// Which node.
    pub node: NodeId,
    /// There and back again, the median, µs.
    pub rtt_us: u32,
    /// What the way there carries; 0: not known.
    pub bytes_per_s: u64,
}

/// What an owner asks of a stage. Seldom said and larger than all else, hence the box around it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assign {
    /// The whole plan.
    pub plan: Plan,
    /// What the plan is about.
    pub model: ModelInfo,
    /// What the receiver is to hold.
    pub part: Part,
    /// Who has the blobs.
    pub holders: Vec<NodeId>,
    /// What the receiver holds of the model stays beside it, until [`Message::Keep`].
    pub is_beside: bool,
}

/// Why a stage cannot go on, by what may help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// What the stage after it misses is no longer kept: begin again at position 0.
    Forgotten,
    /// It does not hold the part: have it placed.
    Unready,
    /// Computing failed or hangs: another node may do better.
    Broken,
    /// It will not take this session, and no other node would.
    Refuses,
}

/// The start of a session, or of a new epoch of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Whose.
    pub session: SessionId,
    /// In which epoch.
    pub epoch: Epoch,
    /// The epoch in which position 0 was last sent: a KV cache with the same start stays, any
    /// other begins empty.
    pub since: Epoch,
    /// With which model.
    pub model: ModelId,
    /// Who owns prompt, log and client.
    pub origin: NodeId,
    /// The ring; the receiver is `stages[hop]`.
    pub stages: Vec<Stage>,
    /// Which stage this message is for.
    pub hop: u16,
    /// Positions that the session may reach.
    pub positions_max: u32,
}

/// Activations on their way. Serde sees the header only: the codec puts the activation's data
/// behind it, raw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// Whose.
    pub session: SessionId,
    /// In which epoch.
    pub epoch: Epoch,
    /// With which model.
    pub model: ModelId,
    /// The receiving stage; the number of stages: back at the origin.
    pub hop: u16,
    /// Position of the first row.
    pub from_pos: u32,
    /// The origin wants a token after the last row: the last stage sends that row on.
    pub want_token: bool,
    /// What each hop took so far.
    pub hops: Vec<HopTime>,
    /// The rows.
    #[serde(with = "crate::codec::activation_header")]
    pub activation: Activation,
}

impl Message {
    /// The variant's name, for traces.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Heartbeat { .. } => "heartbeat",
            Self::Leave => "leave",
            Self::Assign(_) => "assign",
            Self::AssignProgress { .. } => "assign_progress",
            Self::Assigned { .. } => "assigned",
            Self::Unassign { .. } => "unassign",
            Self::Open(_) => "open",
            Self::Opened { .. } => "opened",
            Self::Frame(_) => "frame",
            Self::Passed { .. } => "passed",
            Self::Nack { .. } => "nack",
            Self::Reject { .. } => "reject",
            Self::Close { .. } => "close",
            Self::Presence(Presence::Ping) => "ping",
            Self::Presence(Presence::Ask(_)) => "ask",
            Self::Presence(Presence::Heard(_)) => "heard",
            Self::Presence(Presence::Unheard(_)) => "unheard",
            Self::Presence(Presence::Silent(_)) => "silent",
            Self::Survey(Survey::Probe { .. }) => "probe",
            Self::Survey(Survey::Echo(_)) => "echo",
            Self::Survey(Survey::Ask { .. }) => "survey",
            Self::Survey(Survey::Told { .. }) => "surveyed",
            Self::Keep { .. } => "keep",
        }
    }
}
