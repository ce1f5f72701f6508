//! Models that this node owns: what turns their text into tokens and back.

use atoll_model::{ChatTemplate, Manifest, ModelError, Tokenizer};
use atoll_proto::ModelId;
use atoll_proto::plan::ModelInfo;

use crate::error::NodeError;
use crate::generate::Prompt;
use crate::store::ShardStore;

/// A model that is served here.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) id: ModelId,
    pub(crate) name: String,
    pub(crate) tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    pub(crate) manifest: Manifest,
    /// Of each layer the share of its neurons that it runs with; none if all run whole.
    pub(crate) widths: Vec<f64>,
}

impl Served {
    /// Reads tokenizer and template from the store.
    pub(crate) fn load(store: &ShardStore, id: ModelId, name: String) -> Result<Self, NodeError> {
        let manifest =
            store.manifest(id)?.ok_or_else(|| NodeError::UnknownModel(id.to_string()))?;
        let tokenizer = Tokenizer::from_blob(&store.read_blob(manifest.tokenizer.blob)?)?;
        let template = manifest
            .template
            .as_deref()
            .map(|source| ChatTemplate::new(source, &tokenizer))
            .transpose()?;
        Ok(Self { id, name, tokenizer, template, manifest, widths: Vec::new() })
    }

    /// The same with the first `n` of its manifest's steps taken; stores that one's manifest.
    pub(crate) fn narrowed(&self, store: &ShardStore, n: usize) -> Result<Self, NodeError> {
        let id = store.put_manifest(&self.manifest.narrowed(n)?.to_json())?;
        let mut narrow = Self::load(store, id, self.name.clone())?;
        let (whole, config) = (self.manifest.config.ffn_dim as f64, &narrow.manifest.config);
        let share = |layer: usize| config.ffn_dim_of(layer) as f64 / whole;
        narrow.widths = (0..config.n_layers).map(share).collect();
        Ok(narrow)
    }

    /// How far it is from the model that its file was made of, as far as that was measured.
    pub(crate) fn loss_nats(&self) -> f64 {
        self.manifest.loss as f64 / 1e6
    }

    /// What planning needs to know.
    pub(crate) fn info(&self) -> ModelInfo {
        let config = &self.manifest.config;
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        ModelInfo {
            id: self.id,
            name: self.name.clone(),
            layer_bytes: self.manifest.layers.iter().map(|entry| entry.bytes).collect(),
            embed_bytes: self.manifest.embed.bytes,
            head_bytes: self.manifest.head.bytes,
            kv_bytes_per_position: narrow(2 * 2 * config.n_kv_heads * config.head_dim),
            row_values: narrow(config.dim),
            context_max: narrow(config.context_max),
        }
    }

    /// The prompt's tokens.
    pub(crate) fn tokens(&self, prompt: Prompt) -> Result<Vec<u32>, NodeError> {
        match prompt {
            Prompt::Tokens(tokens) => Ok(tokens),
            // Empty text is an empty prompt, whatever a tokenizer would put in front of it.
            Prompt::Text(text) if text.is_empty() => Ok(Vec::new()),
            Prompt::Text(text) => Ok(self.tokenizer.encode(&text, true)?),
            Prompt::Chat(messages) => {
                let template = self.template.as_ref().ok_or_else(|| ModelError::Template {
                    why: format!("model {} has none", self.name),
                })?;
                let text = template.render(&messages, true)?;
                // Many templates write the first token themselves: it must not come twice.
                let first = self.tokenizer.bos().and_then(|id| self.tokenizer.token(id));
                let written = first.is_some_and(|first| text.starts_with(first));
                Ok(self.tokenizer.encode(&text, !written)?)
            }
        }
    }
}
