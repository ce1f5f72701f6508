//! A model that two nodes hold only if some of its layers are narrower.

use std::path::PathBuf;
use std::time::Duration;

use atoll_model::gguf::{STEPS, Value, WIDTHS, WIDTHS_DIVERGENCE};
use atoll_model::{BlockType, GgufFile, tiny};
use atoll_node::{NodeError, NodeEvent, NodeHandle, PlanError, ServePolicy};
use tempfile::TempDir;

use crate::fleet::{TCP, alone_of, collect, config, options, policy, request, until};

const PROMPT: [u32; 7] = [5, 9, 70, 33, 12, 80, 65];
const N_LAYERS: usize = 6;
/// The layers in the order in which they become narrower, and what is lost with each, nats.
const ORDER: [usize; N_LAYERS] = [1, 3, 2, 4, 5, 0];
const LOSSES: [f32; N_LAYERS] = [0.11, 0.13, 0.16, 0.2, 0.5, 1.0];

/// A model whose feed-forward blocks can run at half of their width.
fn elastic() -> Vec<u8> {
    let config = config(N_LAYERS, 40);
    let file = GgufFile::parse(tiny::random_model(&config, BlockType::Q8_0, 7)).unwrap();
    let whole = i64::try_from(config.ffn_dim).unwrap();
    let layers = ORDER.map(|layer| i64::try_from(layer).unwrap());
    let keys = [
        (WIDTHS, Value::Ints(vec![whole, whole / 2])),
        (WIDTHS_DIVERGENCE, Value::Floats(vec![0.1, 1.0])),
        (STEPS[0], Value::Ints(layers.to_vec())),
        (STEPS[1], Value::Ints(vec![1; N_LAYERS])),
        (STEPS[2], Value::Floats(LOSSES.to_vec())),
    ];
    tiny::with_keys(&file, keys)
}

/// Two nodes that can give so much memory each.
async fn start(dir: &TempDir, memory_bytes: u64) -> Vec<NodeHandle> {
    let mut nodes: Vec<NodeHandle> = Vec::new();
    for name in ["node-1", "node-2"] {
        let bootstrap = nodes.first().map_or_else(Vec::new, NodeHandle::addresses);
        let mut options = options(dir, name, TCP, &bootstrap);
        options.memory_bytes = Some(memory_bytes);
        nodes.push(atoll_node::start(options).await.unwrap());
    }
    for node in &nodes {
        until("both nodes meet", || !node.status().peers.is_empty()).await;
    }
    nodes
}

fn file(dir: &TempDir) -> (PathBuf, GgufFile) {
    let (path, bytes) = (dir.path().join("elastic.gguf"), elastic());
    std::fs::write(&path, &bytes).unwrap();
    (path, GgufFile::parse(bytes).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_narrower_where_there_is_no_room_and_it_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, file) = file(&dir);
    let nodes = start(&dir, 3_800_000).await;
    let two = ServePolicy { stages: None, wait: Duration::from_secs(1), ..policy(2) };

    let refused = nodes[0].serve("tiny", &path, two.clone()).await;
    let Err(NodeError::Lighter { error: PlanError::NoRoom { .. }, loss_nats }) = refused else {
        panic!("{refused:?}");
    };
    let too_much = ServePolicy { loss_max: loss_nats - 0.001, ..two.clone() };
    let refused = nodes[0].serve("tiny", &path, too_much).await;
    assert!(matches!(refused, Err(NodeError::Lighter { .. })), "{refused:?}");

    let enough = ServePolicy { loss_max: loss_nats, ..two };
    let served = nodes[0].serve("tiny", &path, enough).await.unwrap();
    assert_eq!(served.stages.len(), 2);
    // Those go first that are named first, and no more than have to.
    let narrow: Vec<usize> = (0..N_LAYERS).filter(|&layer| served.widths[layer] < 1.0).collect();
    let mut first = ORDER[..narrow.len()].to_vec();
    first.sort_unstable();
    assert_eq!(narrow, first, "{:?}", served.widths);
    assert!((1..N_LAYERS).contains(&narrow.len()), "{:?}", served.widths);
    let promised = f64::from(LOSSES[narrow.len() - 1]);
    assert!((served.loss_nats - promised).abs() < 1e-5, "{}", served.loss_nats);
    let status = nodes[0].status();
    assert_eq!((&status.models[0].widths, status.models.len()), (&served.widths, 1));

    let (tokens, _) = collect(nodes[0].generate(request(&PROMPT, 30)).await.unwrap()).await;
    let whole = file.config().ffn_dim;
    let half = |layer: &usize| if narrow.contains(layer) { whole / 2 } else { whole };
    let neurons: Vec<usize> = (0..N_LAYERS).map(|layer| half(&layer)).collect();
    assert_eq!(tokens, alone_of(file.narrowed(&neurons).unwrap(), &PROMPT, 30));
    assert_ne!(tokens, alone_of(file, &PROMPT, 30), "the whole model says something else");

    // A node that could hold it all comes: the whole model is not placed beside the narrower one.
    let mut news = nodes[0].subscribe();
    let mut large = options(&dir, "node-3", TCP, &nodes[0].addresses());
    large.memory_bytes = Some(1 << 30);
    let large = atoll_node::start(large).await.unwrap();
    until("the third is met", || nodes[0].status().peers.len() == 2).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let whole = nodes[0].store().resolve("tiny").unwrap().to_string();
    while let Ok(event) = news.try_recv() {
        if let NodeEvent::PlanReady { model, .. } = event {
            assert_ne!(model, whole, "it is served so narrow until it is served again");
        }
    }
    large.shutdown().await;

    // With the model go those that were made of it.
    let model = nodes[0].store().resolve("tiny").unwrap();
    assert_eq!(nodes[0].store().models().unwrap().len(), 2);
    nodes[0].store().remove(model).unwrap();
    assert!(nodes[0].store().models().unwrap().is_empty());
    for node in &nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_room_it_is_whole_and_without_room_for_the_narrowest_it_is_refused() {
    for (memory_bytes, fits) in [(1 << 30, true), (1_500_000, false)] {
        let dir = tempfile::tempdir().unwrap();
        let (path, _) = file(&dir);
        let nodes = start(&dir, memory_bytes).await;
        let any = ServePolicy { wait: Duration::from_secs(1), loss_max: 100.0, ..policy(2) };
        match nodes[0].serve("tiny", &path, any).await {
            Ok(served) => {
                assert!(fits && served.widths.is_empty(), "{served:?}");
                assert!((served.loss_nats - 0.1).abs() < 1e-6, "{served:?}");
            }
            Err(NodeError::Plan(PlanError::NoRoom { .. })) => assert!(!fits),
            Err(error) => panic!("{error}"),
        }
        for node in &nodes {
            node.shutdown().await;
        }
    }
}
