#![expect(clippy::unwrap_used, reason = "tests")]

use quickcheck::{Arbitrary, Gen, QuickCheck, quickcheck};

use super::*;
use crate::ids::{Epoch, ModelId, NodeId, PlanEpoch, SessionId};
use crate::io::{HopTime, Part, WireType};
use crate::message::{Assign, Presence, Reach, Refused};
use crate::plan::{LayerRange, Profile};

fn node(byte: u8) -> NodeId {
    NodeId([byte; 32])
}

fn frame(rows: u32, cols: u32) -> Frame {
    let data = (0..rows * cols * 4).map(|i| i.to_le_bytes()[0]).collect();
    Frame {
        session: SessionId(7),
        epoch: Epoch(2),
        model: ModelId([3; 32]),
        hop: 1,
        from_pos: 40,
        want_token: true,
        hops: vec![HopTime { node: node(1), held_us: 50, compute_us: 40 }],
        activation: Activation { dtype: WireType::F32, rows, cols, data },
    }
}

impl Arbitrary for Message {
    fn arbitrary(g: &mut Gen) -> Self {
        let session = SessionId(u128::arbitrary(g));
        let epoch = Epoch(u32::arbitrary(g));
        let model = ModelId([u8::arbitrary(g); 32]);
        let plan_epoch = PlanEpoch(u32::arbitrary(g));
        let n = u16::arbitrary(g) % 8 + 1;
        let stages: Vec<_> = (0..n)
            .map(|i| Stage {
                node: node(i.to_le_bytes()[0]),
                layers: LayerRange { start: i * 2, end: i * 2 + 2 },
            })
            .collect();
        let cause = limits_clip(String::arbitrary(g));
        match u8::arbitrary(g) % 25 {
            0 => Self::Hello {
                name: crate::limits::clip(String::arbitrary(g), NAME_BYTES_MAX),
                profile: Profile {
                    memory_bytes: u64::arbitrary(g),
                    weight_bytes_per_s: u64::arbitrary(g),
                    prefill_bytes_per_s: u64::arbitrary(g),
                },
            },
            1 => Self::Heartbeat { again_ms: u32::arbitrary(g) },
            2 => Self::Leave,
            3 => Self::Assign(Box::new(Assign {
                plan: Plan {
                    model,
                    epoch: plan_epoch,
                    owner: node(0),
                    spares: stages.clone(),
                    stages,
                    context: 9,
                },
                model: ModelInfo {
                    id: model,
                    name: "m".into(),
                    layer_bytes: (0..n * 2).map(|_| u64::arbitrary(g)).collect(),
                    embed_bytes: u64::arbitrary(g),
                    head_bytes: 5,
                    kv_bytes_per_position: u32::arbitrary(g),
                    row_values: 576,
                    context_max: 2048,
                },
                part: Part {
                    layers: Some(LayerRange { start: 0, end: 2 }),
                    embed: bool::arbitrary(g),
                    head: false,
                },
                holders: vec![node(0)],
                is_beside: bool::arbitrary(g),
            })),
            4 => Self::AssignProgress { model, plan_epoch, bytes_done: 3, bytes_total: 4 },
            5 => Self::Assigned { model, plan_epoch, result: Ok(()) },
            6 => Self::Assigned { model, plan_epoch, result: Err(cause) },
            7 => Self::Unassign { model },
            8 => Self::Open(Open {
                session,
                epoch,
                since: epoch,
                model,
                origin: node(0),
                stages,
                hop: u16::arbitrary(g) % n,
                positions_max: u32::arbitrary(g),
            }),
            9 => Self::Frame(frame(u32::arbitrary(g) % 5 + 1, u32::arbitrary(g) % 9 + 1)),
            10 => Self::Passed { session, epoch, to_pos: 4, hops: Vec::new() },
            11 => Self::Nack { session, epoch, len: u32::arbitrary(g) },
            12 => Self::Reject { session, epoch, why: Refused::Broken, cause },
            13 => Self::Opened { session, epoch, hop: n },
            15 => Self::Presence(Presence::Ping),
            16 => Self::Presence(Presence::Ask(node(n.to_le_bytes()[0]))),
            17 => Self::Presence(Presence::Heard(node(n.to_le_bytes()[0]))),
            18 => Self::Presence(Presence::Unheard(node(n.to_le_bytes()[0]))),
            19 => Self::Presence(Presence::Silent(node(n.to_le_bytes()[0]))),
            20..=23 => Self::Survey(survey(g, n, &stages)),
            24 => Self::Keep { model, layers: LayerRange { start: n, end: n + 1 } },
            _ => Self::Close { session },
        }
    }
}

fn survey(g: &mut Gen, n: u16, stages: &[Stage]) -> Survey {
    match u8::arbitrary(g) % 4 {
        0 => Survey::Probe { probe: n.into(), filler: vec![7; usize::from(n)] },
        1 => Survey::Echo(u32::arbitrary(g)),
        2 => Survey::Ask {
            ask: u32::arbitrary(g),
            nodes: stages.iter().map(|stage| stage.node).collect(),
            is_again: bool::arbitrary(g),
        },
        _ => {
            let (rtt_us, bytes_per_s) = (u32::arbitrary(g), u64::arbitrary(g));
            let reach = |stage: &Stage| Reach { node: stage.node, rtt_us, bytes_per_s };
            Survey::Told { ask: n.into(), reaches: stages.iter().map(reach).collect() }
        }
    }
}

fn limits_clip(text: String) -> String {
    crate::limits::clip(text, CAUSE_BYTES_MAX)
}

quickcheck! {
    fn what_is_encoded_is_decoded(message: Message) -> bool {
        decode(&encode(&message), &Limits::default()) == Ok(message)
    }

    fn random_bytes_are_refused(bytes: Vec<u8>) -> bool {
        decode(&bytes, &Limits::default()).is_err()
    }

    fn a_damaged_byte_is_seen(message: Message, at: usize, bit: u8) -> bool {
        let mut bytes = encode(&message);
        let at = at % bytes.len();
        bytes[at] ^= 1 << (bit % 8);
        decode(&bytes, &Limits::default()).is_err()
    }

    fn a_cut_frame_is_refused(message: Message, at: usize) -> bool {
        let bytes = encode(&message);
        decode(&bytes[..at % bytes.len()], &Limits::default()).is_err()
    }
}

/// Damages the body and makes the checksum right again: what an attacker would send.
fn forged(message: &Message, edits: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = encode(message);
    let body = bytes.len() - CHECKSUM_BYTES;
    for &(at, value) in edits {
        bytes[2 + at % (body - 2)] = value;
    }
    bytes.truncate(body);
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    bytes
}

#[test]
fn a_forged_frame_never_panics_and_keeps_to_the_limits() {
    fn holds(message: Message, edits: Vec<(usize, u8)>) -> bool {
        let limits = Limits::default();
        match decode(&forged(&message, &edits), &limits) {
            Err(_) => true,
            // Whatever got through says nothing beyond its limits and survives its own encoding.
            Ok(other) => {
                check(&other, &limits).is_ok() && decode(&encode(&other), &limits) == Ok(other)
            }
        }
    }
    QuickCheck::new().tests(20_000).quickcheck(holds as fn(Message, Vec<(usize, u8)>) -> bool);
}

#[test]
fn golden_bytes() {
    let bytes = encode(&Message::Nack { session: SessionId(1), epoch: Epoch(2), len: 300 });
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "0400060000000b0102fb2c01617b64c7892d2d1ba7e5e0fc7c9f135a");
    let bytes = encode(&Message::Frame(frame(1, 2)));
    assert_eq!(bytes[..2], [4, 0]);
    assert_eq!(bytes.len(), 6 + 76 + 8 + 16);
    assert_eq!(bytes[6 + 76..][..8], [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn limits_are_named() {
    let limits = Limits { chunk_rows_max: 4, ..Limits::default() };
    let field = |message: &Message| {
        let error = decode(&encode(message), &limits).unwrap_err();
        let CodecError::Limit { field, .. } = error else { panic!("{error}") };
        field
    };
    assert_eq!(field(&Message::Frame(frame(5, 2))), "rows");
    let long = Message::Hello { name: "n".repeat(65), profile: Profile::default() };
    assert_eq!(field(&long), "name bytes");
    let stage = Stage { node: node(1), layers: LayerRange { start: 0, end: 1 } };
    let open = Open {
        session: SessionId(1),
        epoch: Epoch(1),
        since: Epoch(1),
        model: ModelId([0; 32]),
        origin: node(1),
        stages: vec![stage; 65],
        hop: 0,
        positions_max: 1,
    };
    assert_eq!(field(&Message::Open(open)), "stages");
    let probe = Survey::Probe { probe: 1, filler: vec![0; FILLER_BYTES_MAX + 1] };
    assert_eq!(field(&Message::Survey(probe)), "filler bytes");
    let ask = Survey::Ask { ask: 1, nodes: vec![node(1); 17], is_again: false };
    assert_eq!(field(&Message::Survey(ask)), "surveyed nodes");
    let reaches = vec![Reach { node: node(1), rtt_us: 9, bytes_per_s: 1 }; 17];
    assert_eq!(field(&Message::Survey(Survey::Told { ask: 1, reaches })), "surveyed nodes");
}

#[test]
fn another_version_and_extra_bytes_are_refused() {
    let limits = Limits::default();
    let mut bytes = encode(&Message::Heartbeat { again_ms: 1 });
    bytes[0] = 9;
    assert_eq!(decode(&bytes, &limits), Err(CodecError::Version { theirs: 9 }));
    let mut bytes = encode(&Message::Frame(frame(1, 2)));
    bytes.truncate(bytes.len() - CHECKSUM_BYTES);
    bytes.push(0);
    let sum = checksum(&bytes);
    bytes.extend_from_slice(&sum);
    assert_eq!(decode(&bytes, &limits), Err(CodecError::Trailing(1)));
}
