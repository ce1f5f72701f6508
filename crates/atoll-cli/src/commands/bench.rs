//! `atoll bench`: how fast a model runs here, by itself and beside llama.cpp.

mod peer;
mod report;

use std::sync::Arc;
use std::time::Duration;

use atoll_model::bench::{BenchOptions, Work, bench};

use self::peer::{Peer, Room};
use self::report::Report;
use crate::args::BenchArgs;
use crate::exit::Failure;
use crate::interrupt::Stop;
use crate::local;
use crate::output;
use crate::settings::Settings;
use crate::source;

pub(crate) async fn run(settings: &Settings, args: BenchArgs, stop: &Stop) -> Result<(), Failure> {
    let library = settings.library().cancelled_by(stop.flag());
    let compute = settings.compute_with_kv(&args.compute, args.kv)?;
    let work = super::blocking(move || {
        let model = source::obtain(&library, &args.model)?;
        let loaded = local::load(&model, &args.width, Arc::clone(&compute))?;
        let options = BenchOptions {
            prefill_tokens: args.pp as usize,
            decode_tokens: args.tg as usize,
            context: args.context as usize,
            batch: args.batch as usize,
            repeat: args.repeat as usize,
            pause: Duration::from_millis(args.pause.into()),
        };
        let room = Room {
            threads: compute.pool.threads(),
            positions: options.prefill_tokens.max(options.context + options.decode_tokens),
            sequences: options.batch,
            kv: args.kv,
        };
        let start = |python| Peer::llama_cpp(python, &model.path, room);
        let mut peer = args.vs.map(|_| start(&args.peer_python)).transpose()?;
        let found = match &mut peer {
            None => bench::<Failure>(&loaded.stage, options, None)?,
            Some(peer) => {
                bench(&loaded.stage, options, Some(&mut |work: &Work| peer.seconds(work)))?
            }
        };
        let peer = peer.as_ref().map(|peer| peer.name.clone());
        Ok(Report::new(loaded.name, &compute, options, found, peer))
    });
    let report = stop.race(work).await?;
    if settings.json { output::json(&report) } else { output::line_out(&report.text()) }
}
