#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::fleet::{Fleet, Link, Node};
use crate::model::Model;
use crate::query::Policy;

/// Two layers on two nodes, one each, 100 ns a layer and 10 ns of it for a prompt's token, linked
/// with 5 ns and no limit of bandwidth; a further row in a batch adds 25 ns.
fn check(policy: &Policy, expected: impl Fn(&Query<'_>, &Placement)) {
    let node = |name| Node {
        layer_ns: 100,
        prefill_layer_ns: 10,
        batch_layer_ns: 25,
        kv_ns_per_1024: 1024,
        ..Node::new(name, 1 << 20)
    };
    let mut fleet = Fleet::new(vec![node("a"), node("b")], 0).unwrap();
    for (from, to, latency_ns) in [(0, 1, 5), (1, 0, 7)] {
        fleet.connect(from, to, Link { latency_ns, bytes_per_s: u64::MAX }).unwrap();
    }
    let model = Model::uniform("m", 2, 1, 8);
    let stage = |node| Stage { node, layers: node..node + 1, variants: vec![0] };
    let placement = Placement { stages: vec![stage(0), stage(1)], codecs: vec![0; 3] };
    let query = Query { fleet: &fleet, model: &model, policy };
    assert_eq!(placement.check(&query), Ok(()));
    expected(&query, &placement);
}

#[test]
fn a_token_is_the_sum_of_its_way() {
    let policy = Policy { positions: 3, ..Policy::default() };
    check(&policy, |query, placement| {
        let found = predict(query, placement).unwrap();
        // Three positions in the cache add 3 ns to each layer.
        assert_eq!((found.stage_ns, found.hop_ns), (vec![103, 103], vec![0, 5, 7]));
        assert_eq!(found.token_ns, 103 + 5 + 103 + 7);
    });
}

#[test]
fn chunks_of_a_prompt_overlap_in_stages() {
    let policy = Policy { prompt_tokens: 4, chunk_rows: 1, ..Policy::default() };
    check(&policy, |query, placement| {
        // The first stage is done with them at 10, 20, 31, 42 (later positions look at more of
        // the cache); the second begins 5 later each time, and the last row returns in 7.
        let found = first_token_ns(query, placement).unwrap();
        let alone: u64 = 4 * 10 * 2 + 5 + 7;
        assert!(found < alone && found >= 50 + 5 + 7, "{found}");
    });
    let whole = Policy { prompt_tokens: 4, chunk_rows: 4, ..Policy::default() };
    check(&whole, |query, placement| {
        assert!(first_token_ns(query, placement).unwrap() >= 80 + 5 + 7);
    });
}

#[test]
fn a_link_that_was_idle_fills_round_by_round() {
    // A round trip of 80 ms at 20 Mbit/s: 200 kB are under way when it is full.
    let far = Link { latency_ns: 40_000_000, bytes_per_s: 2_500_000 };
    assert_eq!(far.first_transfer_ns(14_480), far.transfer_ns(14_480), "that goes at once");
    let (after_two, left) = (160_000_000, 100_000 - 3 * 14_480);
    assert_eq!(far.first_transfer_ns(100_000), after_two + far.transfer_ns(left));
    let (after_four, left) = (320_000_000, 300_000 - 15 * 14_480);
    assert_eq!(far.first_transfer_ns(300_000), after_four + far.transfer_ns(left));
    let near = Link { latency_ns: 100_000, ..far };
    assert_eq!(near.first_transfer_ns(300_000), near.transfer_ns(300_000), "it is full at once");
    let absurd = Link { latency_ns: u64::MAX, bytes_per_s: u64::MAX };
    assert_eq!(absurd.first_transfer_ns(u64::MAX), u64::MAX);
}

#[test]
fn only_the_first_chunk_finds_links_idle() {
    let far = Link { latency_ns: 40_000_000, bytes_per_s: 2_500_000 };
    let mut fleet = Fleet::new(vec![Node::new("a", 1 << 20), Node::new("b", 1 << 20)], 0).unwrap();
    for (from, to) in [(0, 1), (1, 0)] {
        fleet.connect(from, to, far).unwrap();
    }
    let model = Model::uniform("m", 1, 1, 2304);
    let stage = Stage { node: 1, layers: 0..1, variants: vec![0] };
    let placement = Placement { stages: vec![stage], codecs: vec![0; 2] };
    let first_token = |prompt_tokens| {
        let policy = Policy { prompt_tokens, chunk_rows: 128, ..Policy::default() };
        let query = Query { fleet: &fleet, model: &model, policy: &policy };
        first_token_ns(&query, &placement).unwrap()
    };
    let chunk = model.frame_bytes(0, 128);
    let there_and_back = far.latency_ns + far.frame_ns(model.frame_bytes(0, 1));
    assert_eq!(first_token(128), far.first_transfer_ns(chunk) + there_and_back);
    assert_eq!(first_token(256), first_token(128) + far.transfer_ns(chunk));
}

#[test]
fn users_share_the_ring() {
    let policy = Policy { positions: 0, ..Policy::default() };
    check(&policy, |query, placement| {
        let rate = |users| tokens_per_1000_s(query, placement, users).unwrap();
        let per_round = |users: u64, ns: u64| users * 1_000_000_000_000 / ns;
        assert_eq!(rate(1), per_round(1, 212));
        // Two go one behind the other; eight as two groups of four, 175 ns a batch.
        assert_eq!(rate(2), per_round(2, 212));
        assert_eq!(rate(8), per_round(8, 362));
        assert!(rate(64) > rate(8));
    });
}

#[test]
fn a_way_without_a_link_has_no_cost() {
    let fleet = Fleet::new(vec![Node::new("a", 9), Node::new("b", 9)], 0).unwrap();
    let (model, policy) = (Model::uniform("m", 1, 1, 8), Policy::default());
    let query = Query { fleet: &fleet, model: &model, policy: &policy };
    let stage = Stage { node: 1, layers: 0..1, variants: vec![0] };
    let placement = Placement { stages: vec![stage], codecs: vec![0, 0] };
    assert_eq!(predict(&query, &placement), None);
    assert_eq!(tokens_per_1000_s(&query, &placement, 2), None);
}
