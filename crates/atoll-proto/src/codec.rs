//! One message, one frame: version, header, raw activation bytes, checksum.
//!
//! ```text
//! u16 version | u32 header length | header (bincode) | activation data | BLAKE3, 16 bytes
//! ```
//! All little-endian; the checksum covers everything before it. Decoding checks the checksum
//! first, then reads the header under a byte limit, then holds every field against its own limit,
//! and refuses trailing bytes. This is the only file that names bincode.

use bincode::config::Configuration;
use serde::de::DeserializeOwned;

use crate::io::Activation;
use crate::limits::{
    CAUSE_BYTES_MAX, FILLER_BYTES_MAX, HOLDERS_MAX, HOPS_MAX, LAYERS_MAX, Limits,
    MODEL_NAME_BYTES_MAX, NAME_BYTES_MAX, ROW_VALUES_MAX, STAGES_MAX, SURVEYED_MAX,
};
use crate::message::{Frame, Message, Open, Survey};
use crate::plan::{ModelInfo, Plan, Stage};

/// The format's version: first in every frame.
pub const VERSION: u16 = 4;
/// Bytes of a header: the largest is an `Assign` of 1024 layers over 64 stages, under 20 KiB.
pub const HEADER_BYTES_MAX: usize = 32 << 10;
/// Bytes before the header.
const PREFIX_BYTES: usize = 6;
/// Bytes of the checksum: damage, not forgery, is what it must find; the transport authenticates.
const CHECKSUM_BYTES: usize = 16;

type Header = Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<HEADER_BYTES_MAX>,
>;
const HEADER: Header = bincode::config::standard().with_limit::<HEADER_BYTES_MAX>();

/// Why bytes are not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Shorter than the parts it names.
    #[error("frame of {len} bytes is cut short, {needed} are needed")]
    Short {
        /// Bytes there.
        len: usize,
        /// Bytes that it would take.
        needed: usize,
    },
    /// Another version of the format.
    #[error("frame version {theirs}, this node speaks {VERSION}")]
    Version {
        /// What the frame says.
        theirs: u16,
    },
    /// A field is beyond its limit.
    #[error("{field} is {value}, the limit is {max}")]
    Limit {
        /// Which field.
        field: &'static str,
        /// What it says.
        value: u64,
        /// What is allowed.
        max: u64,
    },
    /// The bytes were damaged on their way.
    #[error("checksum does not match")]
    Checksum,
    /// The header is no message.
    #[error("header: {0}")]
    Header(String),
    /// Bytes that belong to nothing.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A plan or a ring that is none.
    #[error("{0}")]
    Invalid(&'static str),
}

/// Bytes of the longest frame under `limits`: what a transport must be ready to take, and no more.
#[must_use]
pub const fn frame_bytes_max(limits: &Limits) -> usize {
    let data = limits.chunk_rows_max as usize * ROW_VALUES_MAX as usize * 8;
    PREFIX_BYTES + HEADER_BYTES_MAX + data + CHECKSUM_BYTES
}

/// The frame of a message.
///
/// # Panics
/// If the message's header is beyond [`HEADER_BYTES_MAX`], which a `Node` never says.
#[must_use]
pub fn encode(message: &Message) -> Vec<u8> {
    let data = data_of(message);
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + 256 + data.len() + CHECKSUM_BYTES);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bincode::serde::encode_into_std_write(message, &mut bytes, HEADER)
        .expect("messages are plain data and a Vec takes all");
    let header_len = bytes.len() - PREFIX_BYTES;
    assert!(header_len <= HEADER_BYTES_MAX, "a node's messages fit the header limit");
    let len = u32::try_from(header_len).expect("checked just above");
    bytes[2..PREFIX_BYTES].copy_from_slice(&len.to_le_bytes());
    bytes.extend_from_slice(data);
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum);
    bytes
}

/// The message of a frame, every field within its limit.
///
/// # Errors
/// [`CodecError`] if it is anything but exactly one valid frame.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Message, CodecError> {
    let short = |needed| CodecError::Short { len: bytes.len(), needed };
    let (prefix, _) =
        bytes.split_first_chunk::<PREFIX_BYTES>().ok_or(short(PREFIX_BYTES + CHECKSUM_BYTES))?;
    let [v0, v1, l0, l1, l2, l3] = *prefix;
    let version = u16::from_le_bytes([v0, v1]);
    if version != VERSION {
        return Err(CodecError::Version { theirs: version });
    }
    at_most("frame bytes", bytes.len() as u64, frame_bytes_max(limits) as u64)?;
    let header_len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    at_most("header bytes", header_len as u64, HEADER_BYTES_MAX as u64)?;
    let needed = PREFIX_BYTES + header_len + CHECKSUM_BYTES;
    if bytes.len() < needed {
        return Err(short(needed));
    }
    let (body, sum) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    if checksum(body) != sum {
        return Err(CodecError::Checksum);
    }
    let (header, data) = body[PREFIX_BYTES..].split_at(header_len);
    let mut message: Message = read_header(header)?;
    check(&message, limits)?;
    let expected = match &mut message {
        Message::Frame(frame) => {
            let expected = data_len(&frame.activation);
            if data.len() == expected {
                frame.activation.data = data.to_vec();
            }
            expected
        }
        Message::Hello { .. }
        | Message::Heartbeat { .. }
        | Message::Presence(_)
        | Message::Survey(_)
        | Message::Leave
        | Message::Assign(_)
        | Message::AssignProgress { .. }
        | Message::Assigned { .. }
        | Message::Unassign { .. }
        | Message::Open(_)
        | Message::Opened { .. }
        | Message::Passed { .. }
        | Message::Nack { .. }
        | Message::Reject { .. }
        | Message::Close { .. }
        | Message::Keep { .. } => 0,
    };
    match data.len().cmp(&expected) {
        std::cmp::Ordering::Less => Err(short(bytes.len() - data.len() + expected)),
        std::cmp::Ordering::Equal => Ok(message),
        std::cmp::Ordering::Greater => Err(CodecError::Trailing(data.len() - expected)),
    }
}

/// `rows * cols` values in bytes; the factors were checked, so the product fits.
fn data_len(activation: &Activation) -> usize {
    activation.rows as usize * activation.cols as usize * activation.dtype.bytes()
}

fn data_of(message: &Message) -> &[u8] {
    if let Message::Frame(frame) = message { &frame.activation.data } else { &[] }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    *hash.as_bytes().first_chunk().expect("a hash has 32 bytes")
}

fn read_header<T: DeserializeOwned>(header: &[u8]) -> Result<T, CodecError> {
    let (message, read) = bincode::serde::decode_from_slice(header, HEADER)
        .map_err(|error| CodecError::Header(error.to_string()))?;
    if read < header.len() {
        return Err(CodecError::Trailing(header.len() - read));
    }
    Ok(message)
}

const fn at_most(field: &'static str, value: u64, max: u64) -> Result<(), CodecError> {
    if value > max { Err(CodecError::Limit { field, value, max }) } else { Ok(()) }
}

fn cause_fits(cause: &str) -> Result<(), CodecError> {
    at_most("cause bytes", cause.len() as u64, CAUSE_BYTES_MAX as u64)
}

fn check(message: &Message, limits: &Limits) -> Result<(), CodecError> {
    match message {
        Message::Hello { name, .. } => {
            at_most("name bytes", name.len() as u64, NAME_BYTES_MAX as u64)
        }
        Message::Assign(assign) => {
            at_most("holders", assign.holders.len() as u64, HOLDERS_MAX as u64)?;
            check_model(&assign.model)?;
            check_plan(&assign.plan, &assign.model)
        }
        Message::Assigned { result: Err(cause), .. } | Message::Reject { cause, .. } => {
            cause_fits(cause)
        }
        Message::Open(open) => check_open(open),
        Message::Frame(frame) => check_frame(frame, limits),
        Message::Survey(Survey::Probe { filler, .. }) => {
            at_most("filler bytes", filler.len() as u64, FILLER_BYTES_MAX as u64)
        }
        Message::Survey(Survey::Ask { nodes, .. }) => {
            at_most("surveyed nodes", nodes.len() as u64, SURVEYED_MAX as u64)
        }
        Message::Survey(Survey::Told { reaches, .. }) => {
            at_most("surveyed nodes", reaches.len() as u64, SURVEYED_MAX as u64)
        }
        Message::Passed { hops, .. } => at_most("hops", hops.len() as u64, HOPS_MAX as u64),
        Message::Keep { layers, .. } => at_most("layer", layers.end.into(), LAYERS_MAX as u64),
        Message::Assigned { result: Ok(()), .. }
        | Message::Heartbeat { .. }
        | Message::Presence(_)
        | Message::Survey(Survey::Echo(_))
        | Message::Leave
        | Message::AssignProgress { .. }
        | Message::Unassign { .. }
        | Message::Opened { .. }
        | Message::Nack { .. }
        | Message::Close { .. } => Ok(()),
    }
}

fn check_model(model: &ModelInfo) -> Result<(), CodecError> {
    at_most("model name bytes", model.name.len() as u64, MODEL_NAME_BYTES_MAX as u64)?;
    at_most("layers", model.layer_bytes.len() as u64, LAYERS_MAX as u64)?;
    at_most("row values", model.row_values.into(), ROW_VALUES_MAX.into())
}

fn check_stages(stages: &[Stage]) -> Result<(), CodecError> {
    at_most("stages", stages.len() as u64, STAGES_MAX as u64)?;
    let end = stages.iter().map(|stage| stage.layers.end).max().unwrap_or(0);
    at_most("layer", end.into(), LAYERS_MAX as u64)
}

fn check_plan(plan: &Plan, model: &ModelInfo) -> Result<(), CodecError> {
    check_stages(&plan.stages)?;
    check_stages(&plan.spares)?;
    if plan.model != model.id || !plan.covers(model.layer_bytes.len()) {
        return Err(CodecError::Invalid("the plan does not place each layer once, in order"));
    }
    Ok(())
}

fn check_open(open: &Open) -> Result<(), CodecError> {
    check_stages(&open.stages)?;
    if usize::from(open.hop) >= open.stages.len() {
        return Err(CodecError::Invalid("the opening is for no stage of its ring"));
    }
    Ok(())
}

fn check_frame(frame: &Frame, limits: &Limits) -> Result<(), CodecError> {
    let Activation { rows, cols, .. } = frame.activation;
    at_most("hops", frame.hops.len() as u64, HOPS_MAX as u64)?;
    at_most("hop", frame.hop.into(), STAGES_MAX as u64)?;
    at_most("rows", rows.into(), limits.chunk_rows_max.into())?;
    at_most("row values", cols.into(), ROW_VALUES_MAX.into())?;
    if rows == 0 || cols == 0 || frame.from_pos.checked_add(rows).is_none() {
        return Err(CodecError::Invalid("the frame has no rows or ends beyond all positions"));
    }
    Ok(())
}

/// An activation without its data, for the header.
pub(crate) mod activation_header {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::io::{Activation, WireType};

    pub(crate) fn serialize<S: Serializer>(
        activation: &Activation,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        (activation.dtype, activation.rows, activation.cols).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Activation, D::Error> {
        let (dtype, rows, cols) = <(WireType, u32, u32)>::deserialize(deserializer)?;
        Ok(Activation { dtype, rows, cols, data: Vec::new() })
    }
}

#[cfg(test)]
mod tests;
