//! Where models come from: a path, a model hub, a web address, Python packages, or the catalogue.

mod catalogue;
mod download;
mod hub;
mod library;
mod pip;
mod reference;
mod web;

use std::path::PathBuf;

pub(crate) use catalogue::{CATALOGUE, DEFAULT_MODEL};
pub(crate) use download::{hex, write_whole};
pub(crate) use library::{Library, Pulled};
pub(crate) use reference::ModelRef;

use crate::exit::Failure;

/// A model that is on this disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalModel {
    /// How people call it: the reference as typed, or the file's name.
    pub(crate) name: String,
    /// A GGUF file, or a directory with safetensors.
    pub(crate) path: PathBuf,
}

/// Finds `typed` on this disk, pulling it first if it is a source and not there yet.
///
/// # Errors
/// Whatever the reference, the network or the disk can say.
pub(crate) fn obtain(library: &Library, typed: &str) -> Result<LocalModel, Failure> {
    let reference = ModelRef::parse(typed)?;
    if let ModelRef::Path(path) = &reference {
        return local(path);
    }
    let pulled = match library.find(&reference.canonical())? {
        Some(pulled) => pulled,
        None => library.pull(&reference, None)?,
    };
    Ok(LocalModel { name: reference.canonical(), path: library.path_of(&pulled) })
}

/// Like [`obtain`], but only what is already here.
pub(crate) fn present(library: &Library, typed: &str) -> Result<LocalModel, Failure> {
    let reference = ModelRef::parse(typed)?;
    if let ModelRef::Path(path) = &reference {
        return local(path);
    }
    match library.find(&reference.canonical())? {
        Some(pulled) => {
            Ok(LocalModel { name: reference.canonical(), path: library.path_of(&pulled) })
        }
        None => Err(library.absent(&reference.canonical())),
    }
}

fn local(path: &std::path::Path) -> Result<LocalModel, Failure> {
    let absolute = std::fs::canonicalize(path)
        .map_err(|error| Failure::io("open", path, &error).hint("atoll ls shows fetched models"))?;
    let stem = absolute.file_stem().unwrap_or(absolute.as_os_str());
    Ok(LocalModel { name: stem.to_string_lossy().into_owned(), path: absolute })
}
