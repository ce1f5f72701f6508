//! One identity, one live node.

use std::fs;
use std::time::Duration;

use atoll_node::NodeError;

use crate::fleet::{Fleet, TCP, options, until};

fn copy_key(fleet: &Fleet, from: &str, to: &str) {
    let to = fleet.dir.path().join(to);
    fs::create_dir_all(&to).unwrap();
    fs::copy(fleet.dir.path().join(from).join("identity.key"), to.join("identity.key")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_cannot_share_a_data_directory() {
    let fleet = Fleet::start(1, TCP).await;
    let second = atoll_node::start(options(&fleet.dir, "node-1", TCP, &[])).await.unwrap_err();
    assert!(matches!(second, NodeError::DataDirInUse { .. }), "{second}");
    let dir = fleet.nodes[0].clone();
    dir.shutdown().await;
    let again = atoll_node::start(options(&fleet.dir, "node-1", TCP, &[])).await.unwrap();
    again.shutdown().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_key_that_meets_its_twin_is_refused() {
    let fleet = Fleet::start(1, TCP).await;
    copy_key(&fleet, "node-1", "twin");
    let options = options(&fleet.dir, "twin", TCP, &fleet.nodes[0].addresses());
    let bare: Vec<String> =
        options.bootstrap.iter().map(|a| a[..a.find("/p2p/").unwrap()].to_owned()).collect();
    let twin =
        atoll_node::start(atoll_node::NodeOptions { bootstrap: bare, ..options }).await.unwrap();
    let reason = tokio::time::timeout(Duration::from_secs(5), twin.failure()).await.unwrap();
    assert!(matches!(*reason, NodeError::IdentityInUse { .. }), "{reason}");
    let refused = twin.serve_stored("tiny", crate::fleet::policy(1)).await.unwrap_err();
    assert!(matches!(refused, NodeError::IdentityInUse { .. }), "{refused}");
    twin.shutdown().await;
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_key_is_refused_by_a_third_node_that_knows_its_twin() {
    let fleet = Fleet::start(2, TCP).await;
    copy_key(&fleet, "node-2", "twin");
    let options = options(&fleet.dir, "twin", TCP, &fleet.nodes[0].addresses());
    let twin = atoll_node::start(options).await.unwrap();
    let reason = tokio::time::timeout(Duration::from_secs(10), twin.failure()).await.unwrap();
    assert!(matches!(*reason, NodeError::IdentityInUse { .. }), "{reason}");
    twin.shutdown().await;
    // The first holder of the key is as it was.
    until("it stays", || fleet.nodes[0].status().peers.len() == 1).await;
    assert_eq!(fleet.nodes[0].status().peers[0].name, "node-2");
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    let fleet = Fleet::start(1, TCP).await;
    let taken = fleet.nodes[0].addresses()[0].clone();
    let taken = taken[..taken.find("/p2p/").unwrap()].to_owned();
    let error = atoll_node::start(options(&fleet.dir, "late", &taken, &[])).await.unwrap_err();
    assert!(matches!(&error, NodeError::Listen { address, .. } if *address == taken), "{error}");
    fleet.stop().await;
}
