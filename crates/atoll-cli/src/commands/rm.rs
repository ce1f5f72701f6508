//! `atoll rm`: remove fetched models.

use serde_json::json;

use crate::args::RmArgs;
use crate::exit::Failure;
use crate::output;
use crate::settings::Settings;
use crate::source::ModelRef;

pub(crate) fn run(settings: &Settings, args: &RmArgs) -> Result<(), Failure> {
    let library = settings.library();
    // All names are looked up first, so that a wrong one removes nothing.
    let mut names = Vec::new();
    for model in &args.models {
        let name = match ModelRef::parse(model)? {
            ModelRef::Path(path) => {
                return Err(Failure::usage(format!("{} is a path", path.display()))
                    .because("only what atoll fetched is removed"));
            }
            reference @ (ModelRef::Hub { .. }
            | ModelRef::Url { .. }
            | ModelRef::Pip(_)
            | ModelRef::Catalogue(_)) => reference.canonical(),
        };
        library.find(&name)?.ok_or_else(|| library.absent(&name))?;
        names.push(name);
    }
    let mut bytes = 0;
    for name in &names {
        bytes += library.remove(name)?.bytes;
    }
    if settings.json {
        return output::json(&json!({ "schema": "atoll.rm/1", "removed": names, "bytes": bytes }));
    }
    output::note(&format!("removed {} ({})", names.join(", "), output::bytes_text(bytes)));
    Ok(())
}
