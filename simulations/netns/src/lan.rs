//! Namespaces with one TAP device each, gone with their owner.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::switch::Switch;

/// Hosts of one switch at most: their numbers are the last octet of their addresses.
pub(crate) const HOSTS_MAX: usize = 200;

/// Namespaces `NAME0`, `NAME1`, … with the device `eth0` and the address 10.78.0.(1 + number).
#[derive(Debug)]
pub struct Lan {
    name: String,
    hosts: usize,
}

impl Lan {
    /// Makes the namespaces, and gives the other end of each one's device.
    ///
    /// # Errors
    /// If one cannot be made; those made before are deleted again.
    pub fn new(name: &str, hosts: usize) -> Result<(Self, Vec<SyncDevice>)> {
        ensure!((2..=HOSTS_MAX).contains(&hosts), "{hosts} hosts; 2 to {HOSTS_MAX} are possible");
        let lan = Self { name: name.to_owned(), hosts };
        let taps: Result<_> = (0..hosts).map(|host| lan.plug(host)).collect();
        Ok((lan, taps?))
    }

    /// The name of a host's namespace.
    #[must_use]
    pub fn namespace(&self, host: usize) -> String {
        format!("{}{host}", self.name)
    }

    /// The address of a host.
    #[must_use]
    pub fn address(host: usize) -> String {
        format!("10.78.0.{}", host + 1)
    }

    fn plug(&self, host: usize) -> Result<SyncDevice> {
        let namespace = self.namespace(host);
        ip(&["netns", "add", &namespace])?;
        let quiet = ["netns", "exec", &namespace, "sysctl", "-qw"];
        ip(&[&quiet[..], &["net.ipv6.conf.all.disable_ipv6=1"]].concat())?;
        let tap = in_namespace(&namespace, move || {
            let address = Switch::address(host);
            DeviceBuilder::new().name("eth0").layer(Layer::L2).mac_addr(address).build_sync()
        })?;
        let tap = tap.with_context(|| format!("making a TAP device in {namespace}"))?;
        let address = format!("{}/24", Self::address(host));
        ip(&["-n", &namespace, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &namespace, "link", "set", "eth0", "up"])?;
        ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
        Ok(tap)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for host in 0..self.hosts {
            delete(&self.namespace(host));
        }
    }
}

/// Ends what runs in a namespace, process by process, and deletes it, if it is there.
pub(crate) fn delete(namespace: &str) {
    if !Path::new("/run/netns").join(namespace).exists() {
        return;
    }
    let within = ip(&["netns", "pids", namespace]).unwrap_or_default();
    for pid in within.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        if let Some(pid) = Pid::from_raw(pid) {
            // It may have ended by itself meanwhile.
            let _ended = kill_process(pid, Signal::KILL);
        }
    }
    // A namespace that is gone already is what is wanted.
    let _deleted = ip(&["netns", "del", namespace]);
}

/// Runs `what` on a thread of its own within a namespace.
///
/// # Errors
/// If the namespace cannot be entered.
pub fn in_namespace<T: Send + 'static>(
    namespace: &str,
    what: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let path = Path::new("/run/netns").join(namespace);
    let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
    let inside = thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(what())
    });
    let ended: rustix::io::Result<T> = inside.join().map_err(|_| anyhow!("a thread panicked"))?;
    ended.with_context(|| format!("entering the namespace {namespace}"))
}

/// Runs `ip` and gives what it prints.
fn ip(args: &[&str]) -> Result<String> {
    let done = Command::new("ip").args(args).output().context("running ip")?;
    if !done.status.success() {
        bail!("ip {}: {}", args.join(" "), String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
