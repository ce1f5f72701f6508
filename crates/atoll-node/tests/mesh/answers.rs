//! Nodes together give exactly the tokens that one process gives.

use std::time::{Duration, Instant};

use atoll_node::{GenerateEvent, GenerateRequest, NodeError, Prompt, RequestError};

use crate::fleet::{Fleet, QUIC, TCP, alone, collect, greedy, model_file, policy, request, until};

const PROMPT: [u32; 20] =
    [5, 9, 70, 33, 12, 80, 65, 66, 3, 250, 8, 44, 17, 90, 1, 2, 60, 61, 62, 7];

async fn check(n: usize, stages: u16, listen: &str) {
    let fleet = Fleet::start(n, listen).await;
    let path = model_file(&fleet.dir, 6, 1);
    let served = fleet.nodes[0].serve("tiny", &path, policy(stages)).await.unwrap();
    assert_eq!(served.stages.len(), usize::from(stages));
    let stream = fleet.nodes[0].generate(request(&PROMPT, 40)).await.unwrap();
    let (tokens, _) = collect(stream).await;
    assert_eq!(tokens, alone(6, 1, &PROMPT, 40));
    let transport = if listen == TCP { "tcp" } else { "quic" };
    let status = fleet.nodes[0].status();
    assert!(status.peers.iter().all(|peer| peer.transport == transport), "{status:?}");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_alone() {
    check(1, 1, TCP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_over_tcp() {
    check(2, 2, TCP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_over_tcp() {
    check(3, 3, TCP).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_over_quic() {
    check(3, 3, QUIC).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_sessions_at_once_get_what_each_gets_alone() {
    let fleet = Fleet::start(3, TCP).await;
    let path = model_file(&fleet.dir, 6, 1);
    fleet.nodes[0].serve("tiny", &path, policy(3)).await.unwrap();
    let prompt = |k: u32| -> Vec<u32> { PROMPT.iter().map(|id| (id * 3 + k) % 250).collect() };
    let mut streams = Vec::new();
    for k in 0..8 {
        streams.push(fleet.nodes[0].generate(request(&prompt(k), 24)).await.unwrap());
    }
    for (k, stream) in (0..8).zip(streams) {
        assert_eq!(collect(stream).await.0, alone(6, 1, &prompt(k), 24), "session {k}");
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_stream_frees_every_stage() {
    let fleet = Fleet::start(2, TCP).await;
    let path = model_file(&fleet.dir, 6, 1);
    fleet.nodes[0].serve("tiny", &path, policy(2)).await.unwrap();
    let mut stream = fleet.nodes[0].generate(request(&PROMPT, 200)).await.unwrap();
    while !matches!(stream.next().await, Some(GenerateEvent::Token { .. })) {}
    drop(stream);
    for node in &fleet.nodes {
        let free = || node.status().held.iter().all(|held| held.sessions == 0);
        until("no session is held", free).await;
    }
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_said_at_once() {
    let fleet = Fleet::start(1, TCP).await;
    let node = &fleet.nodes[0];
    let path = model_file(&fleet.dir, 2, 1);
    let unknown = node.generate(request(&PROMPT, 1)).await.unwrap_err();
    assert!(matches!(unknown, NodeError::UnknownModel(_)), "{unknown}");
    node.serve("tiny", &path, policy(1)).await.unwrap();
    let empty = GenerateRequest::new("tiny", Prompt::Text(String::new()));
    let empty = node.generate(empty).await.unwrap_err();
    assert!(matches!(empty, NodeError::Request(RequestError::EmptyPrompt)), "{empty}");
    let long = node.generate(request(&[1; 300], 1)).await.unwrap_err();
    let expected = RequestError::PromptTooLong { prompt: 300, context: 256 };
    assert!(matches!(&long, NodeError::Request(error) if *error == expected), "{long}");
    let mut senseless = request(&PROMPT, 1);
    senseless.sampler.top_p = -1.0;
    let senseless = node.generate(senseless).await.unwrap_err();
    assert!(matches!(senseless, NodeError::Model(_)), "{senseless}");
    fleet.stop().await;
}

/// A prompt with a long answer, and the answer.
fn long_answer() -> (Vec<u32>, Vec<u32>) {
    let prompt = |k: u32| -> Vec<u32> { PROMPT.iter().map(|id| (id * 3 + k) % 250).collect() };
    let answers = (0..200).map(prompt).map(|prompt| {
        let answer = alone(6, 1, &prompt, 230);
        (prompt, answer)
    });
    let mut long = answers.filter(|(_, answer)| answer.len() > 150);
    long.next().expect("one of 200 answers is long")
}

/// Asks `n` nodes in two stages, takes the stage that is not the origin's away in the middle of
/// the answer, and wants all of it.
async fn goes_on_without_its_stage(n: usize) {
    let (prompt, expected) = long_answer();
    let fleet = Fleet::start(n, TCP).await;
    let path = model_file(&fleet.dir, 6, 1);
    let served = fleet.nodes[0].serve("tiny", &path, policy(2)).await.unwrap();
    let stage = fleet.nodes.iter().position(|node| node.name() == served.stages[1].node).unwrap();
    let loaded = || fleet.nodes.iter().filter(|node| !node.status().held.is_empty()).count();
    until("stages and spare are loaded", || loaded() == n).await;
    let mut stream = fleet.nodes[0].generate(request(&prompt, 230)).await.unwrap();
    let mut tokens = Vec::new();
    while tokens.len() < 20 {
        if let GenerateEvent::Token { id, .. } = stream.next().await.unwrap() {
            tokens.push(id);
        }
    }
    fleet.nodes[stage].shutdown().await;
    tokens.extend(collect(stream).await.0);
    assert_eq!(tokens, expected);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spare_takes_a_lost_stage_over() {
    goes_on_without_its_stage(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_spare_the_model_is_placed_anew() {
    goes_on_without_its_stage(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chat_text_comes_in_pieces_and_stops_at_stop_strings() {
    let fleet = Fleet::start(1, TCP).await;
    let node = &fleet.nodes[0];
    let path = model_file(&fleet.dir, 2, 1);
    node.serve("tiny", &path, policy(1)).await.unwrap();
    let chat = |stop: Vec<String>| GenerateRequest {
        sampler: greedy(),
        max_tokens: Some(30),
        stop,
        ..GenerateRequest::new(
            "tiny",
            Prompt::Chat(vec![atoll_node::ChatMessage {
                role: "user".to_owned(),
                content: "hello".to_owned(),
            }]),
        )
    };
    let (_, whole) = collect(node.generate(chat(Vec::new())).await.unwrap()).await;
    assert!(whole.chars().count() > 4, "{whole:?}");
    let stop: String = whole.chars().skip(2).take(2).collect();
    let (_, cut) = collect(node.generate(chat(vec![stop.clone()])).await.unwrap()).await;
    assert_eq!(cut, whole[..whole.find(&stop).unwrap()]);
    until("the cut request is gone", || node.status().requests == 0).await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_takes_less_than_a_second() {
    let fleet = Fleet::start(3, TCP).await;
    let began = Instant::now();
    fleet.nodes[2].shutdown().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    until("the others know", || fleet.nodes[0].status().peers.len() == 1).await;
    assert!(began.elapsed() < Duration::from_secs(2), "a goodbye is not a silence");
    let refused = fleet.nodes[2].generate(request(&PROMPT, 1)).await.unwrap_err();
    assert!(matches!(refused, NodeError::Stopped), "{refused}");
    fleet.stop().await;
}
