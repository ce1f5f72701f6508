//! `atoll rm`: remove fetched models.

use std::collections::BTreeSet;

use atoll_node::NodeError;
use atoll_node::store::IdleStore;
use serde_json::json;

use crate::args::RmArgs;
use crate::exit::{Exit, Failure};
use crate::mesh;
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
    let mut bytes = forget(settings, &names)?;
    for name in &names {
        bytes += library.remove(name)?.bytes;
    }
    if settings.json {
        return output::json(&json!({ "schema": "atoll.rm/1", "removed": names, "bytes": bytes }));
    }
    output::note(&format!("removed {} ({})", names.join(", "), output::bytes_text(bytes)));
    Ok(())
}

/// Removes what this machine's nodes have stored of the models called `names`; returns its bytes.
///
/// # Errors
/// A node that runs, before anything is removed: its files are its own.
fn forget(settings: &Settings, names: &[String]) -> Result<u64, Failure> {
    let mut stores = Vec::new();
    for dir in mesh::node_dirs(&settings.data_dir)? {
        match IdleStore::open(&dir) {
            Ok(store) => stores.extend(store),
            Err(error @ NodeError::DataDirInUse { .. }) => {
                let what = format!("cannot remove {} while a node runs", names.join(", "));
                return Err(Failure::new(Exit::Failure, what)
                    .because(error)
                    .hint("end the node (Ctrl-C where it runs), then remove"));
            }
            Err(error) => return Err(error.into()),
        }
    }
    // Only the node that served a model knows its name; the others know its id.
    let named = stores.iter().flat_map(|idle| idle.store().names());
    let models: BTreeSet<_> =
        named.filter(|(name, _)| names.contains(name)).map(|(_, model)| model).collect();
    let mut bytes = 0;
    for idle in &stores {
        for model in &models {
            bytes += idle.store().remove(*model)?;
        }
    }
    Ok(bytes)
}
