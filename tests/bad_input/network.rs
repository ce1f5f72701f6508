//! Networks that are not as hoped.

use std::net::TcpListener;
use std::time::Duration;

use tempfile::tempdir;

use crate::atoll::{self, Running};
use crate::models::SMOLLM2;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn a_port_in_use_is_named() {
    let data = tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let api = taken.local_addr().unwrap().to_string();
    let args = ["up", "--api", &api, "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let run = atoll::run_within(atoll::command(data.path(), &args), LIMIT);
    run.refuses(1, &[&api, "in use"]);
    let listen = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let args = ["up", "--api", "none", "--no-mdns", "--listen", &listen];
    let run = atoll::run_within(atoll::command(data.path(), &args), LIMIT);
    run.refuses(1, &[&listen, "in use"]);
}

#[test]
fn no_peers_is_said_after_five_seconds() {
    let Some(path) = SMOLLM2.path() else { return };
    let data = tempdir().unwrap();
    let mut args = vec!["serve", path.to_str().unwrap(), "--stages", "2", "--no-mdns"];
    args.extend(["--api", "127.0.0.1:0", "--listen", "/ip4/127.0.0.1/tcp/0", "--wait", "8"]);
    let run = atoll::run_within(atoll::command(data.path(), &args), Duration::from_secs(40));
    // Where it listened, how it looked, what it heard; then what is missing.
    let tried = ["no peers yet", "listening on /ip4/127.0.0.1/tcp/", "multicast off"];
    run.refuses(6, &tried);
    run.refuses(6, &["heard nothing", "2 nodes are needed, 1 are here", "try: "]);
    assert!(run.elapsed > Duration::from_secs(8), "{run}");

    // Programs are told at five seconds, by an event.
    args.push("--json");
    let mut node = Running::start(atoll::command(data.path(), &args));
    let alone = node.wait_for_event("alone", Duration::from_secs(20));
    assert!(node.age() > Duration::from_secs(5), "{alone}");
    assert_eq!(alone["search"]["mdns"], false, "{alone}");
    assert_eq!(alone["search"]["heard"].as_array().unwrap().len(), 0, "{alone}");
    let listening = alone["search"]["listening"][0].as_str().unwrap();
    assert!(listening.starts_with("/ip4/127.0.0.1/tcp/"), "{alone}");
    node.end_with("TERM", Duration::from_secs(10));
}

#[test]
fn nobody_at_the_address_to_join_is_said() {
    let data = tempdir().unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let join = format!("/ip4/127.0.0.1/tcp/{free}");
    let mut args = vec!["up", "--api", "none", "--no-mdns", "--join", &join];
    args.extend(["--listen", "/ip4/127.0.0.1/tcp/0"]);
    let mut node = Running::start(atoll::command(data.path(), &args));
    std::thread::sleep(Duration::from_secs(8));
    let run = node.end_with("TERM", Duration::from_secs(10));
    assert!(run.stderr.contains(&join), "does not name the address: {run}");
    run.did_not_panic();
}

#[test]
fn no_room_on_all_nodes_together_says_what_is_missing() {
    let Some(path) = SMOLLM2.path() else { return };
    let (data, other) = (tempdir().unwrap(), tempdir().unwrap());
    let small = ["--memory", "20MiB", "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let args = [&["up", "--api", "none", "--json"][..], &small].concat();
    let mut friend = Running::start(atoll::command(other.path(), &args));
    let listening = friend.wait_for_event("listening", Duration::from_secs(20));
    let address = listening["addresses"][0].as_str().unwrap();
    let serve = ["serve", path.to_str().unwrap(), "--api", "127.0.0.1:0", "--wait", "6"];
    let args = [&serve[..], &["--join", address], &small].concat();
    let run = atoll::run_within(atoll::command(data.path(), &args), LIMIT);
    // The model's bytes, and what 2 nodes of 20 MiB have.
    run.refuses(6, &["needs", "41943040", "2 nodes", "try: "]);
    friend.end_with("TERM", Duration::from_secs(10)).did_not_panic();
}

#[test]
fn one_identity_runs_once() {
    let data = tempdir().unwrap();
    let args = ["up", "--api", "none", "--no-mdns", "--json", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let mut first = Running::start(atoll::command(data.path(), &args));
    first.wait_for_event("listening", Duration::from_secs(20));
    let second = atoll::run_within(atoll::command(data.path(), &args), LIMIT);
    second.refuses(1, &["running"]);
    let end = first.end_with("TERM", Duration::from_secs(10));
    assert_eq!(end.code, 143, "{end}");
}
