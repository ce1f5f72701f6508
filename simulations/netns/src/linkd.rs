//! The process between the namespaces: a thread reads each device, one writes what has arrived,
//! and one answers on the control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::setpriority_process;
use serde_json::json;
use tun_rs::SyncDevice;

use crate::control::{LINE_MAX_BYTES, Request, answer_of};
use crate::lan::Lan;
use crate::switch::Switch;

/// What a device without offloads gives at most, and some.
const FRAME_MAX_BYTES: usize = 4096;
/// Before what it carries: a link is not slow because its nodes compute.
const NICENESS: i32 = -19;

/// What `linkd` is asked to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of the namespaces; each adds its number.
    pub name: String,
    /// How many.
    pub hosts: usize,
    /// Of every link's decisions.
    pub seed: u64,
    /// Where requests come in; the file is made and deleted again.
    pub socket: PathBuf,
}

/// Makes the namespaces, says so in a line of JSON, and carries frames until it is asked to stop
/// or its stdin is closed. Then everything is gone again.
///
/// # Errors
/// If a namespace, a device or the socket cannot be made.
pub fn run(options: &Options, mut out: impl Write) -> Result<()> {
    let (lan, taps) = Lan::new(&options.name, options.hosts)?;
    // Without the right to it, frames may be late while nodes compute.
    let _higher = setpriority_process(None, NICENESS);
    let shared = Arc::new(Shared {
        start: Instant::now(),
        switch: Mutex::new(Switch::new(options.seed, options.hosts)),
        sooner: Condvar::new(),
        taps,
    });
    let path = options.socket.display();
    let listener = UnixListener::bind(&options.socket).with_context(|| format!("making {path}"))?;
    for host in 0..options.hosts {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.read(host));
    }
    let writer = Arc::clone(&shared);
    thread::spawn(move || writer.write());
    let (stop, stopped) = channel();
    let parent = stop.clone();
    thread::spawn(move || {
        // Whatever ends stdin ends this.
        let _read = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _sent = parent.send(());
    });
    thread::spawn(move || listen(&listener, &shared, &stop));
    let namespaces: Vec<_> = (0..options.hosts).map(|host| lan.namespace(host)).collect();
    writeln!(out, "{}", json!({ "event": "ready", "namespaces": namespaces }))?;
    out.flush()?;
    stopped.recv().context("every thread that could stop this has ended")?;
    std::fs::remove_file(&options.socket).with_context(|| format!("deleting {path}"))?;
    Ok(())
}

struct Shared {
    start: Instant,
    switch: Mutex<Switch>,
    /// Something may arrive sooner than what the writer waits for.
    sooner: Condvar,
    taps: Vec<SyncDevice>,
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn switch(&self) -> MutexGuard<'_, Switch> {
        self.switch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what a host sends until its device is gone.
    fn read(&self, host: usize) {
        let mut frame = [0; FRAME_MAX_BYTES];
        while let Ok(len) = self.taps[host].recv(&mut frame) {
            let mut switch = self.switch();
            let before = switch.next_us();
            switch.take(self.now_us(), host, &frame[..len]);
            if switch.next_us() != before {
                self.sooner.notify_one();
            }
        }
    }

    /// Hands out frames as they arrive.
    fn write(&self) {
        let mut switch = self.switch();
        loop {
            let now = self.now_us();
            if let Some((host, frame)) = switch.arrival(now) {
                drop(switch);
                // A host whose device takes nothing now loses the frame, as on a wire.
                let _sent = self.taps[host].send(&frame);
                switch = self.switch();
                continue;
            }
            let wait = switch.next_us().map_or(60_000_000, |at| at - now);
            let waited = self.sooner.wait_timeout(switch, Duration::from_micros(wait));
            switch = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn listen(listener: &UnixListener, shared: &Arc<Shared>, stop: &Sender<()>) {
    for client in listener.incoming().map_while(Result::ok) {
        let (shared, stop) = (Arc::clone(shared), stop.clone());
        thread::spawn(move || {
            // A client that goes away in the middle of a line concerns nobody else.
            let _served = serve(client, &shared, &stop);
        });
    }
}

fn serve(client: UnixStream, shared: &Shared, stop: &Sender<()>) -> Result<()> {
    let mut out = client.try_clone()?;
    let mut lines = BufReader::new(client);
    loop {
        let mut line = String::new();
        if (&mut lines).take(LINE_MAX_BYTES).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (answer, last) = match serde_json::from_str::<Request>(&line) {
            Ok(request) => (request.answer(&mut shared.switch()), request == Request::Stop),
            Err(error) => (answer_of(Err(error.into())), false),
        };
        writeln!(out, "{answer}")?;
        if last {
            stop.send(())?;
            return Ok(());
        }
    }
}
