//! A node without the model fetches exactly its part, and goes on where it stopped.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use atoll_model::{Architecture, BlockType, Manifest, tiny};

use crate::fleet::{Fleet, TCP, alone, collect, model_file, policy, request, until};

const PROMPT: [u32; 5] = [5, 9, 70, 33, 12];

/// The manifest of the only model in a node's data directory.
fn manifest(data_dir: &Path) -> Manifest {
    let entry = fs::read_dir(data_dir.join("models")).unwrap().next().unwrap().unwrap();
    Manifest::parse(&fs::read(entry.path()).unwrap()).unwrap()
}

fn blob_files(data_dir: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(data_dir.join("blobs")).unwrap();
    folders
        .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// Bytes of each blob that are in a data directory, whole or in part.
fn here_before(data_dir: &Path) -> BTreeMap<String, u64> {
    let len = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, fs::metadata(path).unwrap().len())
    };
    blob_files(data_dir).into_iter().map(len).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_layers_of_its_stage_travel() {
    let fleet = Fleet::start(2, TCP).await;
    let path = model_file(&fleet.dir, 8, 40);
    let served = fleet.nodes[0].serve("tiny", &path, policy(2)).await.unwrap();
    let manifest = manifest(&fleet.dir.path().join("node-1"));
    let [from, to] = served.stages[1].layers;
    let needed: u64 = manifest.layers[from.into()..to.into()].iter().map(|layer| layer.bytes).sum();
    let received = fleet.nodes[1].status().blobs.received_bytes;
    assert!(received >= needed, "{received} of {needed}");
    assert!(received * 100 <= needed * 105, "{received} for {needed}");
    assert_eq!(fleet.nodes[0].status().blobs.received_bytes, 0);
    assert_eq!(blob_files(&fleet.dir.path().join("node-2")).len(), usize::from(to - from));
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_node_goes_on_and_a_corrupt_part_is_fetched_anew() {
    let fleet = Fleet::start(2, TCP).await;
    // So many that even a node that measures itself slow, on a busy machine, holds two.
    let path = model_file(&fleet.dir, 24, 40);
    fleet.nodes[0].serve("tiny", &path, policy(2)).await.unwrap();
    fleet.nodes[1].shutdown().await;
    fleet.nodes[0].unserve("tiny").unwrap();

    // As if the process had ended in the middle: one blob three quarters there, one damaged.
    let data_dir = fleet.dir.path().join("node-2");
    let mut files = blob_files(&data_dir);
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    let cut = fs::read(&files[0]).unwrap();
    let keep = cut.len() / 4 * 3;
    fs::remove_file(&files[0]).unwrap();
    fs::write(files[0].with_extension("part"), &cut[..keep]).unwrap();
    let mut damaged = fs::read(&files[1]).unwrap();
    damaged[100] ^= 1;
    fs::remove_file(&files[1]).unwrap();
    fs::write(files[1].with_extension("part"), &damaged[..keep]).unwrap();

    let options = crate::fleet::options(&fleet.dir, "node-2", TCP, &fleet.nodes[0].addresses());
    let again = atoll_node::start(options).await.unwrap();
    until("it is back", || fleet.nodes[0].status().peers.len() == 1).await;
    let here = here_before(&data_dir);
    let served = fleet.nodes[0].serve("tiny", &path, policy(2)).await.unwrap();
    // Speeds are measured anew, so the boundary may lie elsewhere than before.
    let [from, to] = served.stages[1].layers;
    let layers = &manifest(&fleet.dir.path().join("node-1")).layers[from.into()..to.into()];
    let damaged = files[1].file_name().unwrap().to_str().unwrap();
    let missing = layers.iter().map(|layer| {
        let name = layer.blob.to_string();
        let rest = layer.bytes - here.get(&name).copied().unwrap_or(0);
        // What was damaged comes once more from its beginning.
        rest + if name == damaged { layer.bytes } else { 0 }
    });
    assert_eq!(again.status().blobs.received_bytes, missing.sum::<u64>());
    let stream = fleet.nodes[0].generate(request(&PROMPT, 10)).await.unwrap();
    assert_eq!(collect(stream).await.0, alone(24, 40, &PROMPT, 10));
    again.shutdown().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_import_reads_nothing() {
    let fleet = Fleet::start(1, TCP).await;
    let path = model_file(&fleet.dir, 2, 1);
    let store = fleet.nodes[0].store();
    let mut steps = 0;
    let first = store.import("tiny", &path, &mut |_, _| steps += 1).unwrap();
    assert_eq!(steps, 5, "tokenizer, embedding, two layers, head");
    let second = store.import("other", &path, &mut |_, _| panic!("read again")).unwrap();
    assert_eq!(first, second);
    assert_eq!(store.names().len(), 2);
    assert!(store.verify(first).unwrap().is_empty());
    assert!(store.remove(first).unwrap() > 0);
    assert!(blob_files(&fleet.dir.path().join("node-1")).is_empty());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_safetensors_is_served_like_a_file() {
    let fleet = Fleet::start(2, TCP).await;
    let config = tiny::config(Architecture::Qwen2);
    let file = fleet.dir.path().join("m.gguf");
    fs::write(&file, tiny::random_model(&config, BlockType::F32, 5)).unwrap();
    let folder = fleet.dir.path().join("folder");
    fs::create_dir(&folder).unwrap();
    for (name, bytes) in tiny::random_folder(&config, 5) {
        fs::write(folder.join(name), bytes).unwrap();
    }
    let mut answers = Vec::new();
    for path in [&file, &folder] {
        fleet.nodes[0].serve("tiny", path, policy(2)).await.unwrap();
        let stream = fleet.nodes[0].generate(request(&PROMPT, 12)).await.unwrap();
        answers.push(collect(stream).await);
        fleet.nodes[0].unserve("tiny").unwrap();
    }
    assert_eq!(answers[0], answers[1]);
    fleet.stop().await;
}
