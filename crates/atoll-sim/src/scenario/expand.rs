//! A scenario and a seed make a schedule.

use std::collections::BTreeMap;

use atoll_proto::planner::{Candidate, place};

use super::{DeviceLine, Profiles, Requests, Scenario, ScenarioError};
use crate::Random;
use crate::cost::{Model, Work};
use crate::schedule::{Asked, Device, Fault, Link, Placement, Schedule};
use crate::world::{id, model, policy};

/// Memory that a run may take: what a small machine has to spare.
const MEMORY_BYTES: u64 = 4 << 30;
/// What a device and the others around it take: 12 KiB were measured with 10,000.
const DEVICE_BYTES: u64 = 16 << 10;
/// What a pair of devices takes while all hear of all, several times over: 48 bytes each.
const PAIR_BYTES: u64 = 256;
/// Longest scenario, s: a year.
const LASTS_S_MAX: f64 = 366.0 * 86_400.0;
/// Positions and tokens of one request at most.
const TOKENS_MAX: u32 = 1 << 20;
/// Requests at most: each is heard to its end.
const REQUESTS_MAX: usize = 100_000;
/// Bytes of activations that a node keeps so that the next stage can be rebuilt.
const BOUNDARY_BYTES: usize = 32 << 20;

/// Seconds of a file as microseconds.
pub(super) fn micros(what: &str, seconds: f64) -> Result<u64, ScenarioError> {
    if !(0.0..=LASTS_S_MAX).contains(&seconds) {
        return Err(ScenarioError::impossible(what, seconds, "0 to a year is possible"));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked above")]
    Ok((seconds * 1e6).round() as u64)
}

pub(super) fn schedule(scenario: &Scenario, seed: u64) -> Result<Schedule, ScenarioError> {
    let profiles = Profiles::of(scenario);
    let end_us = micros("lasts_s", scenario.lasts_s)?;
    check(scenario, end_us)?;
    let model_name = scenario.model.as_str();
    let served = profiles.model(model_name)?.clone();
    check_model(model_name, &served)?;
    let (serve, model_bytes) = (&scenario.serve, u64::from(served.layers) * served.layer_bytes);
    let between = scenario.between_sites.as_ref();
    let mut schedule = Schedule {
        seed,
        heal_us: 0,
        core: Vec::new(),
        end_us,
        placement: Placement {
            at_us: micros("serve.at_s", serve.at_s)?,
            stages: serve.stages.unwrap_or(0),
            sessions: serve.sessions,
            spares: serve.spares,
            boundary_bytes: BOUNDARY_BYTES,
        },
        link: Link::wired(),
        model: served,
        host_cores: scenario.host_cores,
        windows_stay: scenario.windows_stay,
        between_sites: between.map(|name| profiles.link(name)).transpose()?,
        slack_us: 0,
        hears_of: scenario.hears_of,
        site_nodes: None,
        disturbed_us: Vec::new(),
        devices: devices(scenario, &profiles, seed)?,
        requests: requests(scenario, seed, end_us)?,
        faults: Vec::new(),
    };
    schedule.slack_us = slack_us(&schedule, model_bytes);
    fits(&schedule)?;
    for line in &scenario.faults {
        schedule.faults.extend(line.faults(scenario)?);
    }
    if let Some(churn) = &scenario.churn {
        schedule.faults.extend(churn.faults(scenario, seed)?);
    }
    schedule.faults.sort_by_key(|fault| fault.at_us);
    let over = |fault: &Fault| fault.at_us.saturating_add(fault.what.lasts_us());
    schedule.heal_us = schedule.faults.iter().map(over).max().map_or(end_us / 2, |us| us + 1);
    if schedule.heal_us >= end_us {
        let why = "all faults are over before the end, so that what they broke can mend";
        return Err(ScenarioError::impossible("lasts_s", scenario.lasts_s, why));
    }
    let gone = schedule.faults.iter().filter(|fault| !fault.what.refuses());
    let gone: Vec<_> = gone.filter_map(|fault| fault.what.takes_away()).collect();
    schedule.core = (0..schedule.devices.len()).filter(|node| !gone.contains(node)).collect();
    Ok(schedule)
}

fn check(scenario: &Scenario, end_us: u64) -> Result<(), ScenarioError> {
    if end_us < 1_000_000 {
        return Err(ScenarioError::impossible("lasts_s", scenario.lasts_s, "1 s at least"));
    }
    let lines = scenario.devices.iter();
    let n = lines.fold(0_usize, |n, line| n.saturating_add(line.count));
    let all = scenario.hears_of.is_none_or(|heard| heard + 1 >= n) && n > 1;
    let pairs = if all { (n as u64).saturating_mul(n as u64) } else { 0 };
    let needed_bytes =
        (n as u64).saturating_mul(DEVICE_BYTES).saturating_add(pairs.saturating_mul(PAIR_BYTES));
    if needed_bytes > MEMORY_BYTES {
        let allowed_bytes = MEMORY_BYTES;
        return Err(ScenarioError::TooMany { devices: n, needed_bytes, allowed_bytes });
    }
    if n == 0 {
        return Err(ScenarioError::impossible("device", "nobody", "one device at least"));
    }
    if scenario.serve.spares > 1 {
        let why = "0 or 1 is possible";
        return Err(ScenarioError::impossible("serve.spares", scenario.serve.spares, why));
    }
    if !(1..=1024).contains(&scenario.serve.sessions) {
        let why = "1 to 1024 are possible";
        return Err(ScenarioError::impossible("serve.sessions", scenario.serve.sessions, why));
    }
    if scenario.host_cores.is_some_and(|cores| !(1..=1024).contains(&cores)) {
        let value = scenario.host_cores.unwrap_or(0);
        return Err(ScenarioError::impossible("host_cores", value, "1 to 1024 are possible"));
    }
    Ok(())
}

fn check_model(name: &str, model: &Model) -> Result<(), ScenarioError> {
    let small =
        [model.layer_bytes, model.row_bytes.into(), model.prefill_chunk.into()].contains(&0);
    let large = model.layer_bytes > 1 << 40 || model.row_bytes > 1 << 20;
    if small || large || !(1..=1024).contains(&model.layers) || model.context < 2 {
        let why = "it has 1 to 1024 layers, a context of 2 or more, and no size is 0 or absurd";
        return Err(ScenarioError::impossible("model", format!("{name}: {model:?}"), why));
    }
    Ok(())
}

fn devices(
    scenario: &Scenario,
    profiles: &Profiles,
    seed: u64,
) -> Result<Vec<Device>, ScenarioError> {
    let mut random = Random::new(seed, "joins");
    let mut sites = BTreeMap::new();
    let mut devices = Vec::new();
    for line in &scenario.devices {
        let DeviceLine { name, profile, joins_s, joins_within_s, .. } = line;
        let next = sites.len() as u64;
        let site = *sites.entry(line.site.as_str()).or_insert(next);
        let profile = profiles.device(profile)?;
        let claimed = line.claims.as_ref().map(|name| profiles.device(name)).transpose()?;
        let link = profiles.link(&line.link)?;
        let joins_us = micros(&format!("{name}.joins_s"), *joins_s)?;
        let within_us = micros(&format!("{name}.joins_within_s"), *joins_within_s)?;
        if line.cpu.is_some_and(|cpu| !(0.01..=64.0).contains(&cpu)) {
            let cpu = line.cpu.unwrap_or(0.0);
            let what = format!("{name}.cpu");
            return Err(ScenarioError::impossible(&what, cpu, "0.01 to 64 cores are possible"));
        }
        let speed = profile.speed();
        if [speed.weight_bytes_per_s, speed.more_rows_bytes_per_s, speed.load_bytes_per_s]
            .iter()
            .any(|bytes_per_s| *bytes_per_s < 1_000)
        {
            let why = "a device does 1,000 bytes/s at least of each";
            return Err(ScenarioError::impossible(name, format!("{speed:?}"), why));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked above"
        )]
        let permille = |cpu: f64| (cpu * 1000.0).round() as u64;
        let cpu_permille = line.cpu.filter(|cpu| *cpu < 1.0).map(permille);
        let told = match (claimed, cpu_permille) {
            (Some(claimed), _) => claimed.weight_bytes_per_s,
            // It measures itself within its share.
            (None, Some(permille)) => (profile.weight_bytes_per_s / 1000).saturating_mul(permille),
            (None, None) => profile.weight_bytes_per_s,
        };
        devices.extend((0..line.count).map(|_| Device {
            joins_us: joins_us + random.below(within_us + 1),
            memory_bytes: line.memory_bytes.unwrap_or(profile.memory_bytes),
            weight_bytes_per_s: told,
            speed: Some(speed.clone()),
            cpu_permille,
            link: Some(link.clone()),
            site,
        }));
    }
    Ok(devices)
}

fn requests(scenario: &Scenario, seed: u64, end_us: u64) -> Result<Vec<Asked>, ScenarioError> {
    let mut random = Random::new(seed, "work");
    let mut all = Vec::new();
    for line in &scenario.requests {
        let Requests { count, prompt_tokens, new_tokens, .. } = *line;
        let tokens = [prompt_tokens, new_tokens];
        if tokens.iter().any(|n| !(1..=TOKENS_MAX).contains(n)) {
            let why = "1 to 2^20 tokens are possible";
            return Err(ScenarioError::impossible("requests", format!("{tokens:?}"), why));
        }
        if all.len() + count > REQUESTS_MAX {
            let why = "at most 100,000 in all";
            return Err(ScenarioError::impossible("requests.count", count, why));
        }
        let from_us = micros("requests.from_s", line.from_s)?;
        let every_us = micros("requests.every_s", line.every_s)?;
        let deadline_us = line.deadline_s.map(|s| micros("requests.deadline_s", s)).transpose()?;
        for i in 0..count as u64 {
            let at_us = from_us + i * every_us + random.below(every_us / 2 + 1);
            if at_us >= end_us {
                let why = "the last one comes after the end";
                return Err(ScenarioError::impossible("requests.count", count, why));
            }
            let token = |_| u32::try_from(random.below(9999)).expect("small");
            let prompt = (0..prompt_tokens).map(token).collect();
            let deadline_us = deadline_us.unwrap_or(end_us - at_us);
            all.push(Asked { at_us, prompt, max_tokens: new_tokens, deadline_us });
        }
    }
    Ok(all)
}

/// Time to load the largest part on the slowest device, and to take the longest request through
/// it anew.
fn slack_us(schedule: &Schedule, model_bytes: u64) -> u64 {
    let rows = schedule.requests.iter().map(|asked| asked.prompt.len() as u64);
    let rows = rows.max().unwrap_or(0) + 1;
    let layers = u64::from(schedule.model.layers);
    let work = Work { layers, rows, from_pos: 0, head: true };
    let slow = schedule.devices.iter().filter_map(|device| {
        let (speed, part) = (device.speed.as_ref()?, model_bytes.min(device.memory_bytes));
        let load_us = crate::cost::sending_us(part, speed.load_bytes_per_s);
        let share = device.cpu_permille.unwrap_or(1000).max(1);
        Some(load_us + speed.job_us(&schedule.model, work).saturating_mul(1000) / share)
    });
    slow.max().unwrap_or(0)
}

/// Whether all devices together hold the model.
fn fits(schedule: &Schedule) -> Result<(), ScenarioError> {
    let candidate = |(node, device): (usize, &Device)| Candidate {
        node: id(node),
        memory_bytes: device.memory_bytes,
        weight_bytes_per_s: device.weight_bytes_per_s,
        prefill_bytes_per_s: 0,
    };
    let mut all = schedule.devices.iter().enumerate().map(candidate);
    let origin = all.next().expect("there is a device: checked before");
    let others: Vec<_> = all.collect();
    let placed = place(&model(schedule), &policy(schedule), origin, &others);
    placed.map(|_| ()).map_err(ScenarioError::NoPlan)
}
