//! What the links do, measured by datagrams between two namespaces. Needs root and TAP devices.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use atoll_netns::control::Request;
use atoll_netns::{Emulator, Lan, LinkChange, host, in_namespace};

const SILENCE: Duration = Duration::from_millis(400);

/// `None`, loudly, if something that is needed is not here.
fn emulator(hosts: usize, seed: u64) -> Option<Emulator> {
    let missing = host::missing();
    if !missing.is_empty() {
        let _said = writeln!(std::io::stderr(), "\nSKIPPED links: {}", missing.join("; "));
        return None;
    }
    Some(Emulator::start(Path::new(env!("CARGO_BIN_EXE_netns")), hosts, seed).unwrap())
}

fn socket(lan: &Emulator, host: usize) -> UdpSocket {
    let socket = in_namespace(&lan.namespaces[host], || UdpSocket::bind("0.0.0.0:9000")).unwrap();
    let socket = socket.unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket
}

fn set(lan: &mut Emulator, from: usize, to: usize, link: LinkChange) {
    lan.ask(&Request::Set { from: Some(from), to: Some(to), link }).unwrap();
}

/// Numbers of the datagrams that arrive until it is silent.
fn heard(socket: &UdpSocket) -> Vec<u32> {
    let mut bytes = [0; 2000];
    std::iter::from_fn(|| socket.recv(&mut bytes).ok().map(|_| number(&bytes))).collect()
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(*bytes.first_chunk().unwrap())
}

/// Lets host 1 know where host 0 is and the other way, whatever the links do later.
fn meet(lan: &Emulator) -> (UdpSocket, UdpSocket) {
    let (a, b) = (socket(lan, 0), socket(lan, 1));
    a.send_to(&[9; 4], (Lan::address(1), 9000)).unwrap();
    assert_eq!(heard(&b).len(), 1, "a perfect link loses nothing");
    b.send_to(&[9; 4], (Lan::address(0), 9000)).unwrap();
    assert_eq!(heard(&a).len(), 1);
    (a, b)
}

#[test]
fn delay_is_kept_each_way() {
    let Some(mut lan) = emulator(2, 1) else { return };
    let (a, b) = meet(&lan);
    let delay = |ms: u64| LinkChange { delay_us: Some(ms * 1000), ..LinkChange::default() };
    set(&mut lan, 0, 1, delay(30));
    set(&mut lan, 1, 0, delay(10));
    let mut bytes = [0; 4];
    let mut one_way = |from: &UdpSocket, to: &UdpSocket, host: usize| {
        let times = (0..20).map(|_| {
            let start = Instant::now();
            from.send_to(&[1; 4], (Lan::address(host), 9000)).unwrap();
            to.recv(&mut bytes).unwrap();
            start.elapsed()
        });
        let mut times: Vec<_> = times.collect();
        times.sort_unstable();
        (times[0], times[10])
    };
    let (there, back) = (one_way(&a, &b, 1), one_way(&b, &a, 0));
    let _said = writeln!(std::io::stderr(), "FIGURE delay of 30 ms: {there:?}, of 10: {back:?}");
    // Never early. How late depends on who else wants the processor.
    assert!(there.0 >= Duration::from_millis(30) && back.0 >= Duration::from_millis(10));
    assert!(there.1 < Duration::from_millis(45) && back.1 < Duration::from_millis(25));
}

#[test]
fn loss_and_duplicates_repeat_with_the_seed() {
    let mut runs = Vec::new();
    for seed in [5, 5, 6] {
        let Some(mut lan) = emulator(2, seed) else { return };
        let (a, b) = meet(&lan);
        let change = LinkChange {
            loss_ppm: Some(200_000),
            duplicate_ppm: Some(100_000),
            ..LinkChange::default()
        };
        set(&mut lan, 0, 1, change);
        let heard = std::thread::spawn(move || heard(&b));
        for number in 0_u32..1000 {
            a.send_to(&number.to_le_bytes(), (Lan::address(1), 9000)).unwrap();
            if number % 50 == 49 {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        let got = heard.join().unwrap();
        let mut unique = got.clone();
        unique.dedup();
        let (lost, doubled) = (1000 - unique.len(), got.len() - unique.len());
        assert!((140..260).contains(&lost), "{lost} of 1,000 lost at 20 %");
        assert!((45..120).contains(&doubled), "{doubled} of {} doubled at 10 %", unique.len());
        runs.push(got);
    }
    assert_eq!(runs[0], runs[1]);
    assert_ne!(runs[0], runs[2], "another seed loses others");
}

#[test]
fn a_partition_lets_nothing_through_and_heals() {
    let Some(mut lan) = emulator(3, 1) else { return };
    let (a, b) = meet(&lan);
    let c = socket(&lan, 2);
    let send = |to: usize| a.send_to(&[7; 4], (Lan::address(to), 9000)).unwrap();
    lan.ask(&Request::Partition { groups: vec![vec![0, 2], vec![1]] }).unwrap();
    send(1);
    send(2);
    assert_eq!(heard(&b), [] as [u32; 0]);
    assert_eq!(heard(&c).len(), 1, "within a part everything passes");
    lan.ask(&Request::Heal).unwrap();
    send(1);
    assert!(!heard(&b).is_empty());
}

#[test]
fn a_rate_limits_what_arrives() {
    let Some(mut lan) = emulator(2, 1) else { return };
    let (a, b) = meet(&lan);
    let change = LinkChange {
        rate_bits_per_s: Some(8_000_000),
        queue_bytes: Some(1 << 20),
        ..LinkChange::default()
    };
    set(&mut lan, 0, 1, change);
    let start = Instant::now();
    (0..200).for_each(|_| _ = a.send_to(&[1; 958], (Lan::address(1), 9000)).unwrap());
    let n = heard(&b).len();
    let took = start.elapsed().saturating_sub(SILENCE);
    // 200 frames of 1,000 octets at 1 MB/s.
    assert_eq!(n, 200);
    assert!(took >= Duration::from_millis(195), "{took:?}");
    assert!(took < Duration::from_millis(400), "{took:?}");
}

#[test]
fn multicast_reaches_all_others_and_nothing_is_left_behind() {
    let Some(lan) = emulator(3, 1) else { return };
    let group = [224, 0, 0, 251].into();
    let receivers: Vec<_> = (1..3)
        .map(|host| {
            let socket = socket(&lan, host);
            let own: std::net::Ipv4Addr = Lan::address(host).parse().unwrap();
            socket.join_multicast_v4(&group, &own).unwrap();
            socket
        })
        .collect();
    let sender = in_namespace(&lan.namespaces[0], || UdpSocket::bind((Lan::address(0), 0)));
    let sender = sender.unwrap().unwrap();
    let add = ["-n", &lan.namespaces[0], "route", "add", "224.0.0.0/4", "dev", "eth0"];
    assert!(std::process::Command::new("ip").args(add).status().unwrap().success());
    sender.send_to(&[3; 4], (group, 9000)).unwrap();
    for receiver in &receivers {
        assert_eq!(heard(receiver).len(), 1);
    }
    let namespaces = lan.namespaces.clone();
    let linkd = format!("/proc/{}", lan.pid());
    drop((lan, receivers, sender));
    for namespace in namespaces {
        assert!(!Path::new("/run/netns").join(&namespace).exists(), "{namespace} is still there");
    }
    assert!(!Path::new(&linkd).exists());
}
