//! Models in this process: opened, loaded, asked.

use std::path::Path;

use atoll_model::{GgufFile, TensorInfo, TensorSource};

use crate::exit::Failure;

/// Opens the model at `path`.
pub(crate) fn open(path: &Path) -> Result<TensorSource, Failure> {
    let file = GgufFile::open(path).map_err(|error| Failure::from(error).in_file(path))?;
    Ok(TensorSource::Gguf(file))
}

/// Every stored tensor.
pub(crate) fn tensor_infos(source: &TensorSource) -> Vec<&TensorInfo> {
    match source {
        TensorSource::Gguf(file) => file.tensors().iter().collect(),
    }
}
