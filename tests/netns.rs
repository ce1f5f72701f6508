//! Nodes in network namespaces on a bridge: found by mDNS, by Kademlia, over TCP and QUIC, and a
//! newcomer fetches only its layers. Needs root; nothing leaves the namespaces.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::{TempDir, tempdir};

use crate::atoll::{self, Running};
use crate::models::{Room, SMOLLM2};

const FOUND_WITHIN: Duration = Duration::from_secs(5);
const TCP: &str = "/ip4/0.0.0.0/tcp/7400";
const QUIC: &str = "/ip4/0.0.0.0/udp/7400/quic-v1";

/// A switch and hosts around it, each in a namespace of its own, gone with their owner.
struct Lan {
    name: String,
    hosts: usize,
}

/// A node on a host.
struct Host {
    namespace: String,
    data: TempDir,
    node: Running,
    id: String,
    addresses: Vec<String>,
}

impl Lan {
    /// `None`, loudly, without the right to make namespaces.
    fn new(test: &str, hosts: usize) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let lan = Self { name: format!("atoll{}x{count}", std::process::id()), hosts };
        let switch = lan.switch();
        if !ip(&["netns", "add", &switch]) {
            atoll::skip(test, "making network namespaces needs root and the tool ip");
            std::mem::forget(lan);
            return None;
        }
        let bridge = ["-n", &switch, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0"];
        assert!(ip(&bridge));
        assert!(ip(&["-n", &switch, "link", "set", "br0", "up"]));
        for host in 0..hosts {
            lan.plug(host);
        }
        Some(lan)
    }

    fn switch(&self) -> String {
        format!("{}s", self.name)
    }

    fn namespace(&self, host: usize) -> String {
        format!("{}h{host}", self.name)
    }

    fn plug(&self, host: usize) {
        let (switch, namespace) = (self.switch(), self.namespace(host));
        let port = format!("p{host}");
        let address = format!("10.77.0.{}/24", host + 1);
        assert!(ip(&["netns", "add", &namespace]));
        let pair = ["type", "veth", "peer", "name", "eth0", "netns", &namespace];
        assert!(ip(&[&["-n", &switch, "link", "add", &port][..], &pair].concat()));
        assert!(ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"]));
        assert!(ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"]));
        assert!(ip(&["-n", &namespace, "link", "set", "eth0", "up"]));
        assert!(ip(&["-n", &namespace, "link", "set", "lo", "up"]));
    }

    /// Lets the switch pass no multicast on, as many do.
    fn block_multicast(&self) {
        for host in 0..self.hosts {
            let port = format!("p{host}");
            let flood = ["type", "bridge_slave", "mcast_flood", "off"];
            assert!(ip(&[&["-n", &self.switch(), "link", "set", &port][..], &flood].concat()));
        }
    }

    /// `atoll up` on a host.
    fn up(&self, host: usize, listen: &str, more: &[&str]) -> Host {
        self.start(host, listen, &[&["up"], more].concat())
    }

    fn start(&self, host: usize, listen: &str, args: &[&str]) -> Host {
        let data = tempdir().unwrap();
        let namespace = self.namespace(host);
        let name = format!("host{host}");
        let mut args = args.to_vec();
        args.extend(["--json", "--name", &name, "--listen", listen, "--api", "127.0.0.1:7411"]);
        let mut node = Running::start(atoll::command_in(&namespace, data.path(), &args));
        let listening = node.wait_for_event("listening", Duration::from_secs(20));
        let id = listening["node"].as_str().unwrap().to_owned();
        let addresses = listening["addresses"].as_array().unwrap();
        let addresses = addresses.iter().map(|a| a.as_str().unwrap().to_owned()).collect();
        Host { namespace, data, node, id, addresses }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            ip(&["netns", "del", &self.namespace(host)]);
        }
        ip(&["netns", "del", &self.switch()]);
    }
}

fn ip(args: &[&str]) -> bool {
    Command::new("ip").args(args).output().is_ok_and(|done| done.status.success())
}

impl Host {
    /// The address by which others on the bridge reach this host.
    fn address(&self, host: usize) -> &str {
        let own = format!("/ip4/10.77.0.{}/", host + 1);
        let found = self.addresses.iter().find(|address| address.starts_with(&own));
        found.unwrap_or_else(|| panic!("no {own} in {:?}", self.addresses))
    }

    fn status(&self) -> Value {
        let args = ["status", "--json"];
        let command = atoll::command_in(&self.namespace, self.data.path(), &args);
        atoll::run_within(command, Duration::from_secs(20)).json()
    }

    /// Waits until this node has met `other`; how long after this node's start.
    fn meets(&mut self, other: &str, limit: Duration) -> (Duration, Value) {
        let met = self.node.wait_for(limit, "peer event", |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            (event["event"] == "peer" && event["node"] == other).then_some(event)
        });
        (self.node.age(), met)
    }

    /// Bytes that came in over the wire.
    fn received_bytes(&self) -> u64 {
        let file = "/sys/class/net/eth0/statistics/rx_bytes";
        let output =
            Command::new("ip").args(["netns", "exec", &self.namespace, "cat", file]).output();
        String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap()
    }
}

#[test]
fn nodes_find_each_other_by_mdns() {
    for (name, listen) in [("tcp", TCP), ("quic", QUIC)] {
        let Some(lan) = Lan::new("mDNS between namespaces", 2) else { return };
        let mut first = lan.up(0, listen, &[]);
        let mut second = lan.up(1, listen, &[]);
        let (after, event) = second.meets(&first.id, FOUND_WITHIN);
        assert!(after < FOUND_WITHIN, "{name}: {after:?}");
        atoll::figure(&format!("found by mDNS over {name}"), &format!("{after:.2?}"));
        let (_, other_event) = first.meets(&second.id.clone(), FOUND_WITHIN);
        // Whoever hears of the other first dials; it then comes to the other by itself.
        let found_by = [&event["found_by"], &other_event["found_by"]];
        assert!(found_by.contains(&&Value::from("mdns")), "{name}: {event} {other_event}");
        let status = second.status();
        assert_eq!(status["peers"][0]["transport"], name, "{status}");
    }
}

#[test]
fn without_multicast_one_address_is_enough() {
    for (name, listen) in [("tcp", TCP), ("quic", QUIC)] {
        let Some(lan) = Lan::new("Kademlia between namespaces", 3) else { return };
        lan.block_multicast();
        let known = lan.up(0, listen, &[]);
        let join = known.address(0).to_owned();
        let mut first = lan.up(1, listen, &["--join", &join]);
        let mut second = lan.up(2, listen, &["--join", &join]);
        let (after, event) = second.meets(&first.id, Duration::from_secs(10));
        let (_, other_event) = first.meets(&second.id, Duration::from_secs(10));
        atoll::figure(&format!("found by Kademlia over {name}"), &format!("{after:.2?}"));
        // Whoever hears of the other first dials; it then comes to the other by itself.
        let found_by = [&event["found_by"], &other_event["found_by"]];
        assert!(found_by.contains(&&Value::from("kademlia")), "{name}: {event} {other_event}");
        let status = second.status();
        assert_eq!(status["peers"].as_array().unwrap().len(), 2, "{name}: {status}");
    }
}

#[test]
fn a_newcomer_fetches_only_its_layers() {
    for (listen, hosts) in [(TCP, 3), (QUIC, 2)] {
        let Some(path) = SMOLLM2.path() else { return };
        let Some(lan) = Lan::new("a newcomer between namespaces", hosts) else { return };
        let stages = hosts.to_string();
        let model = path.to_str().unwrap();
        let room = Room::of(path, 30 / hosts as u64, 512);
        let mut serve = vec!["serve", model, "--stages", &stages, "--ctx", "512"];
        serve.extend(["--memory", &room.with_ends]);
        let mut owner = lan.start(0, listen, &serve);
        let up = |host| lan.up(host, listen, &["--memory", &room.layers]);
        let others: Vec<Host> = (1..hosts).map(up).collect();
        let serving = owner.node.wait_for_event("serving", Duration::from_secs(60));
        assert_eq!(serving["stages"].as_array().unwrap().len(), hosts, "{serving}");
        says_paris(&owner);
        for other in &others {
            fetched_only_its_layers(other, &room.layer_bytes);
        }
    }
}

fn says_paris(host: &Host) {
    let body =
        r#"{"model":"m","prompt":"The capital of France is","max_tokens":4,"temperature":0}"#;
    let mut curl = Command::new("ip");
    curl.args(["netns", "exec", &host.namespace, "python3", "-c"]).arg(format!(
        "import json,urllib.request as u\n\
         b=json.loads('{body}')\n\
         b['model']=json.load(u.urlopen('http://127.0.0.1:7411/v1/models'))['data'][0]['id']\n\
         r=u.Request('http://127.0.0.1:7411/v1/completions',json.dumps(b).encode(),\
         {{'content-type':'application/json'}})\n\
         print(json.load(u.urlopen(r))['choices'][0]['text'])"
    ));
    let run = atoll::run_within(curl, Duration::from_secs(60));
    assert!(run.stdout.starts_with(" Paris."), "{run}");
}

fn fetched_only_its_layers(host: &Host, layer_bytes: &[u64]) {
    let status = host.status();
    let layers = &status["held"][0]["layers"];
    let bound = |index: usize| usize::try_from(layers[index].as_u64().unwrap()).unwrap();
    let needed: u64 = layer_bytes[bound(0)..bound(1)].iter().sum();
    let counted = status["blobs"]["received_bytes"].as_u64().unwrap();
    let share = counted as f64 / needed as f64;
    atoll::figure("bytes received by a newcomer", &format!("{share:.4} x its layers"));
    assert!(counted >= needed && counted * 100 <= needed * 105, "{counted} of {needed}: {status}");
    // The wire also carries headers, discovery and activations.
    let wire = host.received_bytes();
    let share = wire as f64 / needed as f64;
    atoll::figure("bytes on the wire to a newcomer", &format!("{share:.4} x its layers"));
    assert!(wire >= needed && wire * 100 <= needed * 112, "{wire} on the wire for {needed}");
}
