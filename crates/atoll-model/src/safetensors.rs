//! A folder as model hubs have it: `config.json` and safetensors files.
//!
//! Tensors are offered under GGUF's names. Their rows stay as transformers orders them, so RoPE
//! pairs are halves for every architecture.

mod bert;
mod config;
mod names;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use atoll_kernels::BlockType;
use safetensors::{Dtype, SafeTensors};

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::mapped::FileBytes;
use crate::tensor::{Tensor, TensorInfo};
use crate::tokenizer::Tokenizer;
pub(crate) use names::their_name;
use names::{Place, gguf_name};

/// Bytes of a file's header: a model of a thousand layers needs about two MiB.
const HEADER_BYTES_MAX: u64 = 16 << 20;
/// Bytes of `config.json`, `tokenizer_config.json` and the index.
const JSON_BYTES_MAX: u64 = 16 << 20;
const FILES_MAX: u64 = 1024;
const INDEX: &str = "model.safetensors.index.json";

/// A model in safetensors files: configuration understood, tensors located.
#[derive(Debug)]
pub struct SafetensorsFolder {
    folder: PathBuf,
    config: ModelConfig,
    files: Vec<FileBytes>,
    tensors: Vec<TensorInfo>,
    places: HashMap<String, (usize, usize, Range<usize>)>,
}

impl SafetensorsFolder {
    /// Opens the model in `folder`.
    ///
    /// # Errors
    /// [`ModelError`] naming what is missing, malformed, above a limit or unsupported.
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let json = read_json(&folder.join("config.json"))?;
        let names = file_names(folder)?;
        let mut config = config::read(&json)?;
        if config.encoder.is_some() {
            bert::read_beside(folder, &mut config)?;
            config.validate()?;
        }
        ModelError::check_limit("number of files", names.len() as u64, FILES_MAX)?;
        let mut model = Self {
            folder: folder.to_owned(),
            config,
            files: Vec::new(),
            tensors: Vec::new(),
            places: HashMap::new(),
        };
        for name in names {
            let path = folder.join(&name);
            model.add_file(&name, FileBytes::open(&path)?)?;
        }
        model.check_tensors()?;
        Ok(model)
    }

    fn add_file(&mut self, file: &str, bytes: FileBytes) -> Result<(), ModelError> {
        let header_len = header_len(file, &bytes)?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| ModelError::malformed(file, error.to_string()))?;
        let file_idx = self.files.len();
        // Sorted, so that errors and the order of tensors do not depend on a hash seed.
        for (name, stored) in metadata.tensors().into_iter().collect::<BTreeMap<_, _>>() {
            let place = match self.config.encoder {
                Some(_) => bert::gguf_name(&name),
                None => gguf_name(&name, self.config.tied),
            };
            let name = match place {
                Place::Named(name) => name,
                Place::Ignored => continue,
                Place::Unknown => {
                    return Err(ModelError::Unsupported { what: "tensor", name });
                }
            };
            let (rows, cols) = match stored.shape.as_slice() {
                [cols] => (1, *cols),
                [rows, cols] => (*rows, *cols),
                shape => {
                    let why = format!("it has {} dimensions", shape.len());
                    return Err(ModelError::malformed(format!("tensor {name}"), why));
                }
            };
            let dtype = block_type(&name, stored.dtype)?;
            let info = TensorInfo { name: name.clone(), dtype, rows, cols };
            let range = header_len + stored.data_offsets.0..header_len + stored.data_offsets.1;
            if range.len() != info.bytes_len()? {
                let why = "its bytes are not as many as its shape needs";
                return Err(ModelError::malformed(format!("tensor {name}"), why));
            }
            let place = (self.tensors.len(), file_idx, range);
            self.tensors.push(info);
            if self.places.insert(name.clone(), place).is_some() {
                let what = format!("tensor {name}");
                return Err(ModelError::malformed(what, "it is there twice"));
            }
        }
        self.files.push(bytes);
        Ok(())
    }

    /// Checks that the tensors are exactly those of the configuration.
    fn check_tensors(&self) -> Result<(), ModelError> {
        let mut known = 0;
        for spec in self.config.all_tensors() {
            let Some(tensor) = self.tensor(&spec.name) else {
                return Err(ModelError::MissingTensor { name: spec.name });
            };
            let (expected, found) = ((spec.rows, spec.cols), (tensor.info.rows, tensor.info.cols));
            if expected != found {
                return Err(ModelError::WrongShape { name: spec.name, expected, found });
            }
            known += 1;
        }
        if known == self.tensors.len() {
            return Ok(());
        }
        let specs: Vec<_> = self.config.all_tensors().map(|spec| spec.name).collect();
        let extra = self.tensors.iter().find(|info| !specs.contains(&info.name));
        let name = extra.map(|info| info.name.clone()).unwrap_or_default();
        Err(ModelError::Unsupported { what: "tensor", name })
    }

    /// Configuration of the model.
    #[must_use]
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The tensor called `name` in GGUF's naming.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let (info, bytes, range) = self.place(name)?;
        Some(Tensor { info, bytes: &bytes[range] })
    }

    /// The tensor called `name` in GGUF's naming, and where its bytes are.
    pub(crate) fn place(&self, name: &str) -> Option<(&TensorInfo, &FileBytes, Range<usize>)> {
        let (tensor_idx, file_idx, range) = self.places.get(name)?;
        Some((&self.tensors[*tensor_idx], &self.files[*file_idx], range.clone()))
    }

    /// The tokenizer beside the weights.
    ///
    /// # Errors
    /// What [`Tokenizer::from_json`] returns, and [`ModelError::Io`].
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        let path = self.folder.join("tokenizer.json");
        let json = FileBytes::open(&path)?;
        ModelError::check_limit("bytes of tokenizer.json", json.len() as u64, 64 << 20)?;
        let config = self.optional_json("tokenizer_config.json")?;
        Tokenizer::from_json(&json, config.as_deref())
    }

    /// Text of the chat template beside the weights, if there is one.
    ///
    /// # Errors
    /// [`ModelError::Io`], [`ModelError::Limit`] or [`ModelError::Malformed`].
    pub fn template(&self) -> Result<Option<String>, ModelError> {
        let what = "tokenizer_config.json";
        let alone = self.folder.join("chat_template.jinja");
        if alone.exists() {
            let bytes = FileBytes::open(&alone)?;
            ModelError::check_limit("bytes of the chat template", bytes.len() as u64, 1 << 20)?;
            let text = std::str::from_utf8(&bytes)
                .map_err(|_| ModelError::malformed("chat_template.jinja", "not UTF-8"))?;
            return Ok(Some(text.to_owned()));
        }
        let Some(json) = self.optional_json(what)? else { return Ok(None) };
        let config: serde_json::Value = serde_json::from_slice(&json)
            .map_err(|error| ModelError::malformed(what, error.to_string()))?;
        Ok(config["chat_template"].as_str().map(str::to_owned))
    }

    fn optional_json(&self, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
        let path = self.folder.join(name);
        if path.exists() { read_json(&path).map(Some) } else { Ok(None) }
    }
}

/// Length of the header with the number before it.
fn header_len(file: &str, bytes: &[u8]) -> Result<usize, ModelError> {
    let Some(number) = bytes.first_chunk::<8>() else {
        return Err(ModelError::Truncated {
            what: format!("{file}: length of the header"),
            offset: 0,
            need: 8,
            have: bytes.len() as u64,
        });
    };
    let len = u64::from_le_bytes(*number);
    ModelError::check_limit(&format!("{file}: length of the header"), len, HEADER_BYTES_MAX)?;
    Ok(usize::try_from(len).expect("16 MiB fit a usize") + 8)
}

fn block_type(name: &str, dtype: Dtype) -> Result<BlockType, ModelError> {
    if dtype == Dtype::F32 {
        Ok(BlockType::F32)
    } else if dtype == Dtype::F16 {
        Ok(BlockType::F16)
    } else if dtype == Dtype::BF16 {
        Ok(BlockType::BF16)
    } else {
        let name = format!("{dtype:?} of tensor {name}");
        Err(ModelError::Unsupported { what: "number type", name })
    }
}

fn read_json(path: &Path) -> Result<Vec<u8>, ModelError> {
    let bytes = FileBytes::open(path)?;
    let what = format!("bytes of {}", path.display());
    ModelError::check_limit(&what, bytes.len() as u64, JSON_BYTES_MAX)?;
    Ok(bytes.to_vec())
}

/// Names of the files that hold the weights: those of the index, or the only one.
fn file_names(folder: &Path) -> Result<Vec<String>, ModelError> {
    let path = folder.join(INDEX);
    if !path.exists() {
        return Ok(vec!["model.safetensors".to_owned()]);
    }
    let malformed = |why: String| ModelError::malformed(INDEX, why);
    let index: serde_json::Value =
        serde_json::from_slice(&read_json(&path)?).map_err(|error| malformed(error.to_string()))?;
    let map = index["weight_map"].as_object();
    let map = map.ok_or_else(|| malformed("it has no weight_map".to_owned()))?;
    let mut names = std::collections::BTreeSet::new();
    for file in map.values() {
        // A name, not a path: the index must not reach outside its folder.
        let name = file
            .as_str()
            .filter(|name| Path::new(name).file_name().is_some_and(|last| last == *name));
        let name = name.ok_or_else(|| malformed(format!("{file} is no file name")))?;
        names.insert(name.to_owned());
    }
    Ok(names.into_iter().collect())
}

#[cfg(test)]
mod tests;
