//! How late a link delivers beside what it was told, by datagrams that come back: its emulator is a
//! process, which has to be woken, and so has whoever waits for a frame.

use std::net::UdpSocket;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use atoll_sim::calibration::median;

use crate::lan::{Lan, in_namespace};

const PORT: u16 = 7401;
/// Datagrams that are sent there and back.
const ECHOES: usize = 60;
/// Between two of them: about as long as a ring leaves a link idle.
const PAUSE: Duration = Duration::from_millis(5);
/// For the slowest link that a scenario has.
const LIMIT: Duration = Duration::from_secs(2);
/// Of a datagram's payload, and of what Ethernet, IP and UDP put before it.
const PAYLOAD: usize = 64;
const FRAME_BYTES: u64 = PAYLOAD as u64 + 42;

/// What one way between hosts 0 and 1 takes, there and back over two, µs: the median.
///
/// # Errors
/// If nothing comes back.
pub(crate) fn one_way_us(namespaces: &[String]) -> Result<f64> {
    let [near, far] = [0, 1].map(|host| {
        let namespace = namespaces.get(host).context("there are two hosts")?;
        let socket = in_namespace(namespace, move || UdpSocket::bind((Lan::address(host), PORT)))?;
        let socket = socket.with_context(|| format!("a socket in {namespace}"))?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok::<_, anyhow::Error>(socket)
    });
    let (near, far) = (near?, far?);
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let mut bytes = [0; PAYLOAD];
        for _ in 0..=ECHOES {
            let (n, from) = far.recv_from(&mut bytes)?;
            far.send_to(&bytes[..n], from)?;
        }
        Ok(())
    });
    let mut round_us = Vec::new();
    for i in 0..=ECHOES {
        sleep(PAUSE);
        let (sent, mut bytes) = ([u8::try_from(i % 256)?; PAYLOAD], [0; PAYLOAD]);
        let start = Instant::now();
        near.send_to(&sent, (Lan::address(1), PORT))?;
        near.recv_from(&mut bytes).context("waiting for an echo between two hosts")?;
        ensure!(sent == bytes, "an echo came out of turn");
        // The first one had to ask for an address.
        if i > 0 {
            round_us.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    echo.join().map_err(|_| anyhow!("a thread panicked"))?.context("echoing")?;
    Ok(median(round_us) / 2.0)
}

/// What a frame of an echo takes by what its link was told, µs.
pub(crate) fn told_us(delay_us: u64, jitter_us: u64, bits_per_s: u64) -> f64 {
    let sending_us = (FRAME_BYTES * 8 * 1_000_000).checked_div(bits_per_s).unwrap_or(0);
    (delay_us + sending_us) as f64 + jitter_us as f64 / 2.0
}
