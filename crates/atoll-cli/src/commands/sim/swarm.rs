//! `atoll sim swarm`: seeds over a few threads.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use atoll_sim::Swarm;
use atoll_sim::swarm::Played;
use serde_json::{Map, Value, json};

use super::{SCHEMA, object, tell};
use crate::args::SwarmArgs;
use crate::exit::Failure;
use crate::output;
use crate::settings::Settings;

/// Time between two words on how far it is, s.
const PROGRESS_S: f64 = 10.0;

pub(super) fn run(settings: &Settings, args: &SwarmArgs) -> Result<(), Failure> {
    let end = args.from.checked_add(args.seeds);
    let end =
        end.ok_or_else(|| Failure::usage(format!("no {} seeds follow {}", args.seeds, args.from)))?;
    let seeds = args.seed.map_or(args.from..end, |seed| seed..seed.saturating_add(1));
    // One seed alone is looked at, so it is run twice whatever it is.
    let repeat_every = if args.seed.is_some() { 1 } else { args.repeat_every };
    let began = Instant::now();
    let shared = Mutex::new((Swarm::new(seeds, repeat_every), PROGRESS_S));
    let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
    let work = || {
        loop {
            let Some((seed, twice)) = lock().0.take() else { return };
            let schedule = args.of.kind.schedule(seed, args.of.nodes);
            let played = Played::play(seed, &schedule, twice);
            let (swarm, next_s) = &mut *lock();
            swarm.add(played);
            let seconds = began.elapsed().as_secs_f64();
            if seconds >= *next_s {
                *next_s = seconds + PROGRESS_S;
                let mut line = found(swarm, seconds);
                line.insert("next_from".to_owned(), swarm.next_from().into());
                output::note(&Value::Object(line).to_string());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(work);
        }
    });
    let (swarm, _) = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
    let (kind, nodes) = (args.of.kind, args.of.nodes);
    let again = |seed| format!("atoll sim swarm --kind {kind} --nodes {nodes} --seed {seed}");
    let failures = swarm.failures().iter();
    let wrong: Vec<_> = failures.map(|one| format!("{one}; again: {}", again(one.seed))).collect();
    tell(settings, found(&swarm, began.elapsed().as_secs_f64()), &wrong)
}

fn found(swarm: &Swarm, seconds: f64) -> Map<String, Value> {
    let mut found = object(json!({ "schema": SCHEMA, "command": "swarm" }));
    found.extend(object(json!(swarm.figures(seconds))));
    found
}
