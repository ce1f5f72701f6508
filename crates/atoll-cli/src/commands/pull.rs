//! `atoll pull`: fetch a model.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;

use crate::args::PullArgs;
use crate::exit::Failure;
use crate::output;
use crate::settings::Settings;
use crate::source::{ModelRef, Pulled};

/// `atoll.pull/1`
#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: &'static str,
    model: &'a str,
    path: String,
    bytes: u64,
    sha256: &'a str,
}

pub(crate) fn run(
    settings: &Settings,
    args: &PullArgs,
    cancel: Arc<AtomicBool>,
) -> Result<(), Failure> {
    let library = settings.library().cancelled_by(cancel);
    let reference = ModelRef::parse(&args.model)?;
    let pulled: Pulled = library.pull(&reference, args.sha256.as_deref())?;
    let path = library.path_of(&pulled);
    if settings.json {
        return output::json(&Report {
            schema: "atoll.pull/1",
            model: &pulled.reference,
            path: path.display().to_string(),
            bytes: pulled.bytes,
            sha256: &pulled.sha256,
        });
    }
    output::note(&format!("{}: {}", pulled.reference, output::bytes_text(pulled.bytes)));
    output::line_out(&path.display().to_string())
}
