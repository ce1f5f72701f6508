//! What goes wrong in a scenario, in its own words.

use serde::{Deserialize, Serialize};

use super::expand::micros;
use super::{DeviceLine, Scenario, ScenarioError};
use crate::Random;
use crate::schedule::{Fault, What};

/// One thing that goes wrong, or the same at several devices one after the other.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FaultLine {
    /// When, s.
    pub at_s: f64,
    /// What.
    pub what: FaultKind,
    /// Whom: the name of a device, or of several of one kind.
    #[serde(default)]
    pub device: Option<String>,
    /// The other end, where it takes two.
    #[serde(default)]
    pub other: Option<String>,
    /// It strikes who then holds this stage, counted around those of other nodes than the first.
    #[serde(default)]
    pub stage: Option<usize>,
    /// Time from one device to the next where there are several, s.
    #[serde(default)]
    pub each_s: f64,
    /// How long, s.
    #[serde(default)]
    pub for_s: f64,
    /// It comes back after so long, s.
    #[serde(default)]
    pub back_s: Option<f64>,
    /// `slow`: time of a job in percent of the usual; `lie`: what is said of the speed.
    #[serde(default)]
    pub percent: Option<u64>,
    /// `loss`, `duplicate`: of a thousand messages; `bandwidth`: of a thousand bytes.
    #[serde(default)]
    pub permille: Option<u64>,
    /// `delay`, `clock_step`: by how much, ms.
    #[serde(default)]
    pub extra_ms: Option<f64>,
}

/// Kinds of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// A node says goodbye and goes.
    Leave,
    /// A node's process dies.
    Kill,
    /// A node's process stands still.
    Pause,
    /// A node computes more slowly.
    Slow,
    /// Nothing passes from one node to another.
    Mute,
    /// Nothing passes between two nodes.
    Cut,
    /// Nothing passes between these nodes and all others.
    Partition,
    /// The connection between two nodes is reset.
    Break,
    /// What a node sends gets lost.
    Loss,
    /// What a node sends arrives twice.
    Duplicate,
    /// What a node sends overtakes.
    Reorder,
    /// What a node sends takes longer.
    Delay,
    /// One bit of a node's next message is flipped.
    BitFlip,
    /// A node loses its power.
    Unplug,
    /// Devices drop off the network one after the other, and come back in another order.
    Swizzle,
    /// A node's clock jumps ahead.
    ClockStep,
    /// A node has no memory for parts.
    MemoryRefusal,
    /// A node's disk is full.
    DiskFull,
    /// The next part that a node fetches comes corrupt.
    CorruptShard,
    /// A node's uplink carries less.
    Bandwidth,
    /// A node says that it is so fast, in percent of what is true.
    Lie,
    /// A node is given a part by an old plan again.
    StalePlan,
}

/// Devices that go and come back by themselves; how long each stays is drawn from a Weibull
/// distribution, since a device that has stayed for long tends to stay longer.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// Of the Weibull distribution; below 1: many short stays, some very long ones.
    pub shape: f64,
    /// Of the Weibull distribution, s: 63 % have gone after it.
    pub scale_s: f64,
    /// How long they are away, s: from a half to one and a half of it.
    pub away_s: f64,
    /// Whom: names of devices, or of several of one kind; absent: all but the first.
    #[serde(default)]
    pub devices: Vec<String>,
    /// From when on, s.
    pub from_s: f64,
    /// Nobody goes later, s.
    pub until_s: f64,
}

impl FaultLine {
    /// The faults that it stands for.
    pub(super) fn faults(&self, scenario: &Scenario) -> Result<Vec<Fault>, ScenarioError> {
        let nodes = match (&self.device, self.stage) {
            (Some(name), _) => nodes(scenario, name)?,
            (None, Some(_)) => vec![1.min(scenario.names().len() - 1)],
            (None, None) => {
                let why = "a fault names a `device`, or a `stage` whose node is struck";
                return Err(ScenarioError::impossible("fault", "of nobody", why));
            }
        };
        let at_us = micros("fault.at_s", self.at_s)?;
        if self.what == FaultKind::Partition {
            let what = What::Partition { nodes, for_us: micros("fault.for_s", self.for_s)? };
            return Ok(vec![Fault { at_us, what, stage: None }]);
        }
        let each_us = micros("fault.each_s", self.each_s)?;
        if self.what == FaultKind::Swizzle {
            let for_us = micros("fault.for_s", self.for_s)?;
            return Ok(swizzle(
                &mut Random::new(at_us, "swizzle"),
                nodes,
                (at_us, each_us, for_us),
            ));
        }
        let fault = |(i, node): (u64, usize)| {
            let what = self.what(scenario, node)?;
            Ok(Fault { at_us: at_us + i * each_us, what, stage: self.stage })
        };
        (0..).zip(nodes).map(fault).collect()
    }

    fn what(&self, scenario: &Scenario, node: usize) -> Result<What, ScenarioError> {
        let for_us = micros("fault.for_s", self.for_s)?;
        let back_us = self.back_s.map(|s| micros("fault.back_s", s)).transpose()?;
        let missing = |what: &str| {
            let why = format!("a fault of this kind has `{what}`");
            ScenarioError::impossible("fault.what", format!("{:?}", self.what), &why)
        };
        let permille = || match self.permille {
            Some(permille @ 0..=1000) => Ok(permille),
            Some(more) => {
                Err(ScenarioError::impossible("fault.permille", more, "at most 1000 of a thousand"))
            }
            None => Err(missing("permille")),
        };
        let other = || {
            let name = self.other.as_ref().ok_or_else(|| missing("other"))?;
            Ok(nodes(scenario, name)?[0])
        };
        let extra_us = || {
            let extra_ms = self.extra_ms.ok_or_else(|| missing("extra_ms"))?;
            micros("fault.extra_ms", extra_ms / 1e3)
        };
        Ok(match self.what {
            FaultKind::Leave => What::Leave { node, back_us },
            FaultKind::Kill => What::Kill { node, back_us },
            FaultKind::Pause => What::Pause { node, for_us },
            FaultKind::Slow => {
                let percent = self.percent.ok_or_else(|| missing("percent"))?;
                What::Slow { node, percent, for_us }
            }
            FaultKind::Mute => What::Mute { from: node, to: other()?, for_us },
            FaultKind::Cut => What::Cut { a: node, b: other()?, for_us },
            FaultKind::Partition => What::Partition { nodes: vec![node], for_us },
            FaultKind::Break => What::Break { a: node, b: other()? },
            FaultKind::Loss => What::Loss { node, permille: permille()?, for_us },
            FaultKind::Duplicate => What::Duplicate { node, permille: permille()?, for_us },
            FaultKind::Reorder => What::Reorder { node, for_us },
            FaultKind::Delay => {
                let extra_us = extra_us()?;
                What::Delay { node, extra_us, for_us }
            }
            FaultKind::BitFlip => What::BitFlip { node, bit: 1_000 },
            FaultKind::Unplug => {
                let back_us = back_us.ok_or_else(|| missing("back_s"))?;
                What::Unplug { node, back_us }
            }
            // One of those that follow one another.
            FaultKind::Swizzle => What::Partition { nodes: vec![node], for_us },
            FaultKind::ClockStep => {
                let ahead_us = extra_us()?;
                What::ClockStep { node, ahead_us }
            }
            FaultKind::MemoryRefusal => What::MemoryRefusal { node, for_us },
            FaultKind::DiskFull => What::DiskFull { node, for_us },
            FaultKind::CorruptShard => What::CorruptShard { node },
            FaultKind::Bandwidth => What::Bandwidth { node, permille: permille()?, for_us },
            FaultKind::Lie => {
                let percent = self.percent.ok_or_else(|| missing("percent"))?;
                What::Lie { node, percent }
            }
            FaultKind::StalePlan => What::StalePlan { node },
        })
    }
}

/// Nodes drop off the network, `each_us` after one another, and when all have been away for
/// `for_us` come back as far apart in another order: what one sees of it, others do not.
pub(crate) fn swizzle(
    random: &mut Random,
    mut nodes: Vec<usize>,
    (at_us, each_us, for_us): (u64, u64, u64),
) -> Vec<Fault> {
    let n = nodes.len();
    let mut back: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = random.index(i + 1);
        nodes.swap(i, random.index(i + 1));
        back.swap(i, j);
    }
    let all_gone_us = at_us + each_us * n as u64 + for_us;
    let clog = |(i, (node, back)): (u64, (usize, usize))| {
        let at_us = at_us + i * each_us;
        let for_us = all_gone_us + back as u64 * each_us - at_us;
        Fault { at_us, what: What::Partition { nodes: vec![node], for_us }, stage: None }
    };
    (0..).zip(nodes.into_iter().zip(back)).map(clog).collect()
}

impl Churn {
    /// Who goes when, and comes back when.
    pub(super) fn faults(
        &self,
        scenario: &Scenario,
        seed: u64,
    ) -> Result<Vec<Fault>, ScenarioError> {
        let from_us = micros("churn.from_s", self.from_s)?;
        let until_us = micros("churn.until_s", self.until_s)?;
        let away_us = micros("churn.away_s", self.away_s)?.max(2);
        if !(0.1..=10.0).contains(&self.shape) || self.scale_s.is_nan() || self.scale_s < 0.1 {
            let value = format!("{} and {} s", self.shape, self.scale_s);
            let why = "the shape is 0.1 to 10, the scale 0.1 s or more";
            return Err(ScenarioError::impossible("churn", value, why));
        }
        let mut going = Vec::new();
        for name in &self.devices {
            going.extend(nodes(scenario, name)?);
        }
        if self.devices.is_empty() {
            going.extend(1..scenario.names().len());
        }
        let mut random = Random::new(seed, "churn");
        let mut faults = Vec::new();
        for node in going {
            let mut at_us = from_us;
            loop {
                // The inverse of the distribution at a random place.
                let u = (random.below(1_000_000) + 1) as f64 / 1_000_001.0;
                let stay_s = self.scale_s * (-u.ln()).powf(self.shape.recip());
                at_us += micros("churn.scale_s", stay_s.min(1e6))?;
                if at_us >= until_us {
                    break;
                }
                let away_us = away_us / 2 + random.below(away_us);
                let what = What::Kill { node, back_us: Some(away_us) };
                faults.push(Fault { at_us, what, stage: None });
                at_us += away_us;
            }
        }
        Ok(faults)
    }
}

/// The devices of a name: one, or all of a kind.
pub(super) fn nodes(scenario: &Scenario, name: &str) -> Result<Vec<usize>, ScenarioError> {
    let names = scenario.names();
    if let Some(node) = names.iter().position(|known| known == name) {
        return Ok(vec![node]);
    }
    let mut first = 0;
    for line in &scenario.devices {
        if line.name == name {
            return Ok((first..first + line.count).collect());
        }
        first += line.count;
    }
    let kinds = scenario.devices.iter().map(|DeviceLine { name, .. }| name);
    Err(ScenarioError::unknown("device", name, kinds.chain(&names)))
}
