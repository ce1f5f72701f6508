//! The manifest: what a model is, and which blobs make it up.

use std::collections::HashMap;
use std::ops::Range;

use atoll_kernels::BlockType;
use serde::{Deserialize, Serialize};

use crate::blob::{self, BlobHash, BlobKind, ShardBlob};
use crate::config::{ModelConfig, TensorSpec};
use crate::error::ModelError;
use crate::mapped::FileBytes;
use crate::tensor::{Tensor, TensorInfo, TensorSource};
use crate::tokenizer::Tokenizer;

mod widths;

use widths::{Narrower, cut_widths};
pub use widths::{StepEntry, WidthEntry};

const VERSION: u32 = 1;
/// Bytes of a manifest's JSON: a thousand layers take half a megabyte, a template one at most.
const BYTES_MAX: u64 = 4 << 20;
const NAME_BYTES_MAX: u64 = 256;

/// Takes a blob: what it holds, its hash, its bytes.
pub type BlobSink<'a, E> = dyn FnMut(BlobKind, BlobHash, &[u8]) -> Result<(), E> + 'a;

/// A model as nodes speak of it. Its canonical JSON's hash names the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of this form: 1.
    pub version: u32,
    /// Name for people.
    pub name: String,
    /// Shapes and constants.
    pub config: ModelConfig,
    /// The tokenizer's blob.
    pub tokenizer: BlobEntry,
    /// Text of the chat template.
    pub template: Option<String>,
    /// The embedding.
    pub embed: PartEntry,
    /// The layers, in order.
    pub layers: Vec<PartEntry>,
    /// The final norm, and the head's matrix unless it is the embedding's: then the head needs
    /// the embedding's blob too.
    pub head: PartEntry,
    /// What it is away from the model that the file was made of, if that was measured: millionths
    /// of a nat.
    #[serde(default, skip_serializing_if = "is_none")]
    pub loss: u64,
    /// Narrower widths at which its layers can run, falling.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub widths: Vec<WidthEntry>,
    /// The order in which layers become narrower: each step loses as little as it can for what it
    /// saves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepEntry>,
    /// The model of which this one has some layers at narrower widths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub narrowed_from: Option<BlobHash>,
}

/// A blob: its hash and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobEntry {
    /// BLAKE3 of its bytes.
    pub blob: BlobHash,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A part of a model: the blob that holds its tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartEntry {
    /// BLAKE3 of the blob.
    pub blob: BlobHash,
    /// Its size in bytes.
    pub bytes: u64,
    /// Block types of its tensors by ggml's names, in the order of the configuration's tensors.
    pub dtypes: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape that serde wants")]
const fn is_none(loss: &u64) -> bool {
    *loss == 0
}

impl Manifest {
    /// The manifest's canonical JSON: no blanks, fields in the order of the declaration.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest is plain data")
    }

    /// The hash that names the model.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        BlobHash::of(&self.to_json()).0
    }

    /// Reads a manifest from bytes that may be anything.
    ///
    /// # Errors
    /// [`ModelError`] naming what is malformed, above a limit or unsupported. Only canonical JSON
    /// is accepted, so that the hash of the bytes is the model's id.
    pub fn parse(json: &[u8]) -> Result<Self, ModelError> {
        ModelError::check_limit("bytes of the manifest", json.len() as u64, BYTES_MAX)?;
        let manifest: Self = serde_json::from_slice(json)
            .map_err(|error| ModelError::malformed("manifest", error.to_string()))?;
        if manifest.version != VERSION {
            return Err(ModelError::UnsupportedVersion {
                format: "manifest",
                version: manifest.version.into(),
                supported: "1",
            });
        }
        manifest.validate()?;
        if manifest.to_json() != json {
            return Err(ModelError::malformed("manifest", "its JSON is not canonical"));
        }
        Ok(manifest)
    }

    /// Checks that the parts are those of the configuration, and their sizes those of their
    /// tensors.
    fn validate(&self) -> Result<(), ModelError> {
        let name_len = self.name.len() as u64;
        ModelError::check_limit("bytes of the model's name", name_len, NAME_BYTES_MAX)?;
        self.config.validate()?;
        self.config.require_decoder()?;
        if self.layers.len() != self.config.n_layers {
            let why = format!(
                "{} layers, the configuration says {}",
                self.layers.len(),
                self.config.n_layers
            );
            return Err(ModelError::malformed("manifest", why));
        }
        self.embed.validate("embedding", &self.config.embed_tensors())?;
        for (idx, layer) in self.layers.iter().enumerate() {
            layer.validate(&format!("layer {idx}"), &self.config.layer_tensors(idx))?;
        }
        self.head.validate("head", &self.config.head_tensors())?;
        self.validate_widths()
    }

    /// Bytes of all blobs of the whole width.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.blobs().map(|(_, entry)| entry.bytes).sum()
    }

    /// Every blob of the whole width with what it holds.
    pub fn blobs(&self) -> impl Iterator<Item = (BlobKind, BlobEntry)> + '_ {
        let layers = self.layers.iter().enumerate();
        [(BlobKind::Tokenizer, self.tokenizer), (BlobKind::Embed, self.embed.entry())]
            .into_iter()
            .chain(layers.map(|(idx, part)| (BlobKind::Layer(idx), part.entry())))
            .chain([(BlobKind::Head, self.head.entry())])
    }

    /// Cuts a model into blobs and hands each to `sink`: the tokenizer, the embedding, the layers
    /// in order, the head, and the layers at each narrower width that the file was made for. Equal
    /// models give equal bytes, and so the same id.
    ///
    /// # Errors
    /// What `sink` returns, and [`ModelError`] if `source` does not hold the whole model.
    pub fn split<E: From<ModelError>>(
        name: &str,
        source: &TensorSource,
        tokenizer: &Tokenizer,
        template: Option<&str>,
        sink: &mut BlobSink<'_, E>,
    ) -> Result<Self, E> {
        let config = source.config().clone();
        let tokenizer_bytes = tokenizer.to_blob();
        let tokenizer =
            BlobEntry { blob: BlobHash::of(&tokenizer_bytes), bytes: tokenizer_bytes.len() as u64 };
        sink(BlobKind::Tokenizer, tokenizer.blob, &tokenizer_bytes)?;
        let mut cut = |kind, specs: &[TensorSpec]| cut_part(source, kind, specs, sink);
        let embed = cut(BlobKind::Embed, &config.embed_tensors())?;
        let layers = (0..config.n_layers)
            .map(|idx| cut(BlobKind::Layer(idx), &config.layer_tensors(idx)))
            .collect::<Result<Vec<_>, E>>()?;
        let head = cut(BlobKind::Head, &config.head_tensors())?;
        let Narrower { loss, widths, steps } = cut_widths(source, sink)?;
        let (name, template) = (name.to_owned(), template.map(str::to_owned));
        let manifest = Self {
            version: VERSION,
            name,
            config,
            tokenizer,
            template,
            embed,
            layers,
            head,
            loss,
            widths,
            steps,
            narrowed_from: None,
        };
        manifest.validate()?;
        Ok(manifest)
    }
}

fn cut_part<E: From<ModelError>>(
    source: &TensorSource,
    kind: BlobKind,
    specs: &[TensorSpec],
    sink: &mut BlobSink<'_, E>,
) -> Result<PartEntry, E> {
    let tensors = specs
        .iter()
        .map(|spec| source.require_shape(&spec.name, spec.rows, spec.cols))
        .collect::<Result<Vec<_>, _>>()?;
    let bytes = blob::encode(kind, &tensors);
    let blob = BlobHash::of(&bytes);
    sink(kind, blob, &bytes)?;
    let dtypes = tensors.iter().map(|tensor| tensor.info.dtype.name().to_owned()).collect();
    Ok(PartEntry { blob, bytes: bytes.len() as u64, dtypes })
}

impl PartEntry {
    const fn entry(&self) -> BlobEntry {
        BlobEntry { blob: self.blob, bytes: self.bytes }
    }

    fn validate(&self, what: &str, specs: &[TensorSpec]) -> Result<(), ModelError> {
        let malformed = |why: String| Err(ModelError::malformed(format!("manifest, {what}"), why));
        if self.dtypes.len() != specs.len() {
            return malformed(format!("{} tensors instead of {}", self.dtypes.len(), specs.len()));
        }
        let dtypes = self
            .dtypes
            .iter()
            .map(|name| {
                BlockType::all().find(|dtype| dtype.name() == name).ok_or_else(|| {
                    ModelError::Unsupported { what: "block type", name: name.clone() }
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let need = blob::bytes_len(specs, &dtypes)?;
        if need != self.bytes {
            return malformed(format!("{} bytes instead of {need}", self.bytes));
        }
        Ok(())
    }
}

/// Some or all blobs of a model, as a source of tensors.
#[derive(Debug)]
pub struct ShardSet {
    config: ModelConfig,
    blobs: Vec<ShardBlob>,
    places: HashMap<String, (usize, usize)>,
}

impl ShardSet {
    /// Joins blobs of the model with this configuration.
    ///
    /// # Errors
    /// [`ModelError::WrongShape`], [`ModelError::Unsupported`] or [`ModelError::Malformed`] if a
    /// tensor is not one of the configuration's, or is there twice.
    pub fn new(config: ModelConfig, blobs: Vec<ShardBlob>) -> Result<Self, ModelError> {
        config.validate()?;
        let specs: HashMap<String, TensorSpec> =
            config.all_tensors().map(|spec| (spec.name.clone(), spec)).collect();
        let mut places = HashMap::new();
        for (blob_idx, blob) in blobs.iter().enumerate() {
            for (tensor_idx, info) in blob.tensors().iter().enumerate() {
                let name = info.name.clone();
                let Some(spec) = specs.get(&name) else {
                    return Err(ModelError::Unsupported { what: "tensor", name });
                };
                let (expected, found) = ((spec.rows, spec.cols), (info.rows, info.cols));
                if expected != found {
                    return Err(ModelError::WrongShape { name, expected, found });
                }
                if places.insert(name, (blob_idx, tensor_idx)).is_some() {
                    let what = format!("tensor {}", info.name);
                    return Err(ModelError::malformed(what, "it is there twice"));
                }
            }
        }
        Ok(Self { config, blobs, places })
    }

    /// Configuration of the whole model.
    #[must_use]
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The tensor called `name`, if a blob holds it.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let (info, bytes, range) = self.place(name)?;
        Some(Tensor { info, bytes: &bytes[range] })
    }

    /// The tensor called `name`, and where its bytes are.
    pub(crate) fn place(&self, name: &str) -> Option<(&TensorInfo, &FileBytes, Range<usize>)> {
        let (blob_idx, tensor_idx) = *self.places.get(name)?;
        Some(self.blobs[blob_idx].place(tensor_idx))
    }
}

#[cfg(test)]
mod tests;
