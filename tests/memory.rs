//! A node takes the memory of what it holds and little more.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::atoll::{self, Running};
use crate::models::{Room, SMOLLM2};

/// What a node may take beyond its weights and its KV cache.
const OVERHEAD_BYTES_MAX: u64 = 64 << 20;

/// What a node's own memory may be when it holds nothing any more.
const IDLE_BYTES_MAX: u64 = 12 << 20;

struct Mesh {
    owner: Running,
    members: Vec<Running>,
    /// The owner's data first.
    datas: Vec<TempDir>,
}

/// An owner and members on loopback that serve SmolLM2 in three stages of ten layers, after an
/// answer.
fn mesh() -> Option<Mesh> {
    let path = SMOLLM2.path()?;
    let datas = vec![tempdir().unwrap(), tempdir().unwrap(), tempdir().unwrap()];
    let loopback = ["--no-mdns", "--json", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let room = Room::of(path, 10, 512);

    let mut serve = vec!["serve", path.to_str().unwrap(), "--stages", "3", "--ctx", "512"];
    serve.extend(["--api", "127.0.0.1:0", "--memory", &room.with_ends]);
    serve.extend(loopback);
    let mut owner = Running::start(atoll::command(datas[0].path(), &serve));
    let listening = owner.wait_for_event("listening", Duration::from_secs(20));
    let address = listening["addresses"][0].as_str().unwrap().to_owned();

    let mut up = vec!["up", "--api", "127.0.0.1:0", "--join", &address, "--memory", &room.layers];
    up.extend(loopback);
    let members = datas[1..].iter().map(|data| Running::start(atoll::command(data.path(), &up)));
    let members = members.collect();
    let api = owner.wait_for_event("api", Duration::from_secs(20));
    let serving = owner.wait_for_event("serving", Duration::from_secs(60));
    assert_eq!(serving["stages"].as_array().unwrap().len(), 3, "{serving}");
    let url = api["url"].as_str().unwrap();
    let text = crate::gateway::complete(url, "The capital of France is", 48);
    assert!(text.starts_with(" Paris"), "{text}");
    Some(Mesh { owner, members, datas })
}

#[test]
fn a_node_with_ten_layers_takes_its_weights_and_little_more() {
    let Some(mesh) = mesh() else { return };
    for (member, data) in mesh.members.iter().zip(&mesh.datas[1..]) {
        let status = atoll::json(data.path(), &["status", "--json"]);
        takes_little_more_than_it_holds(member, &status);
    }
}

#[test]
fn what_a_node_held_goes_back_to_the_system() {
    let Some(Mesh { owner, members, datas }) = mesh() else { return };
    drop(owner);
    let deadline = Instant::now() + Duration::from_secs(40);
    for (member, data) in members.iter().zip(&datas[1..]) {
        let held = || atoll::json(data.path(), &["status", "--json"])["held"].clone();
        while !held().as_array().unwrap().is_empty() {
            assert!(Instant::now() < deadline, "it holds layers for an owner that is gone");
            thread::sleep(Duration::from_millis(200));
        }
        // The board is written first, the memory freed with it; nothing else is under way.
        thread::sleep(Duration::from_millis(500));
        let own = member.own_bytes();
        atoll::figure("own memory of an idle node", &format!("{own} bytes"));
        assert!(own <= IDLE_BYTES_MAX, "{own} bytes kept");
    }
}

fn takes_little_more_than_it_holds(node: &Running, status: &Value) {
    let held = &status["held"][0];
    let layers = &held["layers"];
    assert_eq!(layers[1].as_u64().unwrap() - layers[0].as_u64().unwrap(), 10, "{status}");
    let bytes = |key: &str| held[key].as_u64().unwrap_or_else(|| panic!("no {key} in {status}"));
    let allowed = bytes("weight_bytes") + bytes("kv_bytes") + OVERHEAD_BYTES_MAX;
    let resident = node.resident_bytes();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let (took, may, weights) = (mib(resident), mib(allowed), mib(bytes("weight_bytes")));
    atoll::figure(
        "memory of ten layers",
        &format!("{took:.1} MiB of {may:.1} MiB allowed, {weights:.1} MiB of it weights"),
    );
    assert!(resident <= allowed, "{resident} bytes resident, {allowed} allowed: {status}");
    assert!(resident > bytes("weight_bytes"), "weights are not counted: {status}");
}
