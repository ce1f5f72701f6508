//! What a node takes of its machine, and whether that grows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Growth of memory that is allowed, in per cent.
const GROWTH_MAX: u64 = 5;
/// What is compared at the end begins behind this share of the time.
const WARM_PERCENT: usize = 25;
/// Established, in the kernel's table of connections.
const ESTABLISHED: &str = "01";

/// What a process holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Bytes in memory, those of the program's file among them.
    pub(crate) resident: u64,
    /// Of that, the process's own: neither of a file nor shared.
    pub(crate) own: u64,
    /// Bytes of the layers that it says it holds; what it took over is no leak.
    pub(crate) weights: u64,
    /// Open descriptors but its connections.
    pub(crate) descriptors: u64,
    /// Connections that stand: how many depends on who dialled whom, and on who asks.
    pub(crate) connections: u64,
}

impl Footprint {
    /// Of a process that says `status` of itself.
    ///
    /// # Errors
    /// If it is gone.
    pub(crate) fn of(pid: u32, status: &Value) -> Result<Self> {
        let folder = Path::new("/proc").join(pid.to_string());
        let memory = fs::read_to_string(folder.join("status"))?;
        let bytes = |key: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            kib.map(|kib| kib * 1024).with_context(|| format!("no {key} of process {pid}"))
        };
        let mut open = BTreeSet::new();
        let mut n = 0;
        for descriptor in fs::read_dir(folder.join("fd"))? {
            n += 1;
            // One may be closed before it is looked at.
            let Ok(target) = fs::read_link(descriptor?.path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            open.extend(inode.map(str::to_owned));
        }
        let table = fs::read_to_string(folder.join("net/tcp"))?;
        let connections = standing(&table).filter(|inode| open.contains(*inode)).count() as u64;
        let held = status["held"].as_array().context("it does not say what it holds")?;
        Ok(Self {
            resident: bytes("VmRSS:")?,
            own: bytes("RssAnon:")?,
            weights: held.iter().filter_map(|held| held["weight_bytes"].as_u64()).sum(),
            descriptors: n - connections,
            connections,
        })
    }
}

/// Inodes of the connections that stand, in the kernel's table of a namespace.
fn standing(table: &str) -> impl Iterator<Item = &str> {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace();
        (columns.nth(3)? == ESTABLISHED).then(|| columns.nth(5))?
    })
}

type Of = fn(&Footprint) -> u64;

/// Compares the first quarter behind the warm-up with the last: figures, and what grew. Beside the
/// layers loaded, which a node takes over and hands on, neither what is resident nor what is the
/// process's own may grow by more than a share of what there was.
pub(crate) fn growth(name: &str, all: &[Footprint]) -> (Value, Vec<String>) {
    let warm = &all[all.len() * WARM_PERCENT / 100..];
    let n = (warm.len() / 4).max(1).min(warm.len());
    let most = |part: &[Footprint], of: Of| part.iter().map(of).max();
    let ends =
        |of| (most(&warm[..n], of).unwrap_or(0), most(&warm[warm.len() - n..], of).unwrap_or(0));
    let (mut figures, mut faults) = (serde_json::Map::new(), Vec::new());
    let kinds: [(&str, Of, Of); 2] = [
        ("resident_bytes", |at| at.resident, |at| at.resident.saturating_sub(at.weights)),
        ("own_bytes", |at| at.own, |at| at.own.saturating_sub(at.weights)),
    ];
    for (what, whole, beside_layers) in kinds {
        let (whole, beside) = (ends(whole), ends(beside_layers));
        figures.insert(what.to_owned(), json!([whole.0, whole.1]));
        figures.insert(format!("{what}_beside_layers"), json!([beside.0, beside.1]));
        if (beside.1.saturating_sub(beside.0)) * 100 > whole.0 * GROWTH_MAX {
            let (from, to) = beside;
            faults.push(format!("{name}: {what} beside its layers grew from {from} to {to}"));
        }
    }
    let layers: BTreeSet<_> = warm.iter().map(|at| at.weights).collect();
    figures.insert("layer_bytes_held".to_owned(), json!(layers));
    (Value::Object(figures), faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn at(own: u64, weights: u64) -> Footprint {
        Footprint { resident: own + 17 * MB, own, weights, ..Footprint::default() }
    }

    /// A node of 33 MB in which something happens in the last third.
    fn faults(late: Footprint) -> Vec<String> {
        let mut all = vec![at(33 * MB, 18 * MB); 40];
        all[28..].fill(late);
        growth("n7", &all).1
    }

    #[test]
    fn layers_taken_over_are_no_growth_and_all_else_is() {
        assert_eq!(faults(at(33 * MB, 18 * MB)), [] as [&str; 0]);
        assert_eq!(faults(at(38 * MB, 23 * MB)), [] as [&str; 0], "other layers");
        assert_eq!(faults(at(34 * MB, 18 * MB)), [] as [&str; 0], "3 %");
        // 2 MB are 6 % of its own memory, and 4 % of what is resident.
        assert_eq!(faults(at(35 * MB, 18 * MB)).len(), 1);
        assert_eq!(faults(at(36 * MB, 18 * MB)).len(), 2);
        // Fewer layers, and their memory kept.
        assert_eq!(faults(at(33 * MB, 9 * MB)).len(), 2);
        let program = Footprint { resident: 53 * MB, ..at(33 * MB, 18 * MB) };
        assert_eq!(faults(program).len(), 1, "what is of files counts, too");
    }

    #[test]
    fn what_grew_in_the_warm_up_is_not_compared() {
        let mut all = vec![at(33 * MB, 18 * MB); 40];
        all[..10].fill(at(10 * MB, 0));
        assert!(growth("n0", &all).1.is_empty());
        assert!(growth("n0", &all[..1]).1.is_empty(), "one moment is no growth");
    }

    #[test]
    fn connections_that_stand_are_found_in_the_kernels_table() {
        let heading =
            "  sl  local_address rem_address   st queues timer retrnsmt uid timeout inode";
        let row = |state, inode| {
            format!("0: 08004E0A:1CE8 01004E0A:E03E {state} 0:0 00:0 0 0 0 {inode} 1")
        };
        let table = [heading.to_owned(), row("0A", 111), row("01", 222), row("06", 0)].join("\n");
        assert_eq!(standing(&table).collect::<Vec<_>>(), ["222"]);
    }

    #[test]
    fn a_process_is_looked_at() -> Result<()> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let status = json!({ "held": [{ "weight_bytes": 7 }, { "weight_bytes": 5 }] });
        let before = Footprint::of(std::process::id(), &status)?;
        let client = std::net::TcpStream::connect(listener.local_addr()?)?;
        let file = fs::File::open("/dev/null")?;
        let after = Footprint::of(std::process::id(), &status)?;
        assert_eq!(after.weights, 12);
        assert!(after.own > 0 && after.own < after.resident);
        // Other tests of this process open and close theirs meanwhile.
        assert!(after.connections > before.connections && after.descriptors > 3);
        drop((client, file));
        Ok(())
    }
}
