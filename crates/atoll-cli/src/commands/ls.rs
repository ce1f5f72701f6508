//! `atoll ls`: what was fetched, and what the catalogue has.

use serde_json::json;

use crate::exit::Failure;
use crate::output;
use crate::settings::Settings;
use crate::source::CATALOGUE;

pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    let library = settings.library();
    let pulled = library.list()?;
    if settings.json {
        let models: Vec<_> = pulled
            .iter()
            .map(|model| {
                json!({
                    "model": model.reference,
                    "path": library.path_of(model),
                    "bytes": model.bytes,
                    "sha256": model.sha256,
                    "pulled_unix_s": model.pulled_unix_s,
                })
            })
            .collect();
        return output::json(&json!({ "schema": "atoll.ls/1", "models": models }));
    }
    for model in &pulled {
        output::line_out(&format!(
            "{:<28} {:>9}  {}",
            model.reference,
            output::bytes_text(model.bytes),
            &model.sha256[..12.min(model.sha256.len())],
        ))?;
    }
    for entry in CATALOGUE {
        if !pulled.iter().any(|model| model.reference == entry.name) {
            output::note(&format!(
                "{:<28} {:>9}  not fetched; atoll pull {}: {}",
                entry.name,
                output::bytes_text(entry.bytes),
                entry.name,
                entry.about,
            ));
        }
    }
    Ok(())
}
