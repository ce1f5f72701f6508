//! A model on disk, whichever format it is in: understood, not loaded.

use std::path::Path;

use crate::error::ModelError;
use crate::gguf::GgufFile;
use crate::safetensors::SafetensorsFolder;
use crate::template::ChatTemplate;
use crate::tensor::TensorSource;
use crate::tokenizer::Tokenizer;

/// A model's tensors with what turns text into its tokens.
#[derive(Debug)]
pub struct ModelFiles {
    /// Its tensors, mapped.
    pub source: TensorSource,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its chat template, if it has one.
    pub template: Option<ChatTemplate>,
}

impl ModelFiles {
    /// Opens a GGUF file, or a folder with safetensors, `config.json` and `tokenizer.json`.
    ///
    /// # Errors
    /// [`ModelError`] for what is missing, damaged or not supported; [`ModelError::Encoder`].
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let files = Self::open_any(path)?;
        files.source.config().require_decoder()?;
        Ok(files)
    }

    /// As [`Self::open`], whether it is a decoder or an encoder.
    ///
    /// # Errors
    /// [`ModelError`] for what is missing, damaged or not supported.
    pub fn open_any(path: &Path) -> Result<Self, ModelError> {
        if path.is_dir() {
            let folder = SafetensorsFolder::open(path)?;
            let tokenizer = folder.tokenizer()?;
            let template = folder.template()?;
            let template = template.map(|text| ChatTemplate::new(&text, &tokenizer)).transpose()?;
            return Ok(Self { source: TensorSource::Safetensors(folder), tokenizer, template });
        }
        let file = GgufFile::open(path)?;
        let tokenizer = Tokenizer::from_gguf(file.metadata())?;
        let template = ChatTemplate::from_gguf(file.metadata(), &tokenizer)?;
        Ok(Self { source: TensorSource::Gguf(file), tokenizer, template })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use atoll_kernels::BlockType;

    use super::*;
    use crate::config::Architecture;
    use crate::tiny;

    #[test]
    fn both_formats_hold_the_same_model() {
        let dir = tempfile::tempdir().unwrap();
        let config = tiny::config(Architecture::Qwen2);
        let path = dir.path().join("m.gguf");
        std::fs::write(&path, tiny::random_model(&config, BlockType::F32, 5)).unwrap();
        for (name, bytes) in tiny::random_folder(&config, 5) {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let file = ModelFiles::open(&path).unwrap();
        let folder = ModelFiles::open(dir.path()).unwrap();
        assert_eq!(file.source.config(), folder.source.config());
        let bytes = file.source.stored_bytes().unwrap();
        assert_eq!(folder.source.stored_bytes().unwrap(), bytes);
        for spec in config.all_tensors() {
            let tensor =
                |files: &ModelFiles| files.source.tensor(&spec.name).unwrap().bytes.to_vec();
            assert_eq!(tensor(&file), tensor(&folder), "{}", spec.name);
        }
        let text = "the tide <|im_end|> 42";
        let ids = |files: &ModelFiles| files.tokenizer.encode(text, true).unwrap();
        assert_eq!(ids(&file), ids(&folder));
        let template = |files: &ModelFiles| files.template.as_ref().unwrap().source().to_owned();
        assert_eq!(template(&file), template(&folder));
    }
}
