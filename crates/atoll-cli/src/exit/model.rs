//! What a model's error means to a user.

use std::path::Path;

use atoll_model::ModelError;

use super::{Exit, Failure};

impl From<ModelError> for Failure {
    fn from(error: ModelError) -> Self {
        let text = error.to_string();
        match error {
            ModelError::Io { path, source } => Self::io("read", &path, &source),
            ModelError::Truncated { .. }
            | ModelError::WrongMagic { .. }
            | ModelError::Limit { .. }
            | ModelError::Malformed { .. }
            | ModelError::MissingKey { .. }
            | ModelError::MissingTensor { .. }
            | ModelError::WrongShape { .. }
            | ModelError::WrongHash { .. } => Self::new(Exit::Integrity, "the model is damaged")
                .because(text)
                .hint("fetch it once more (atoll rm, atoll pull), or take another file"),
            ModelError::UnsupportedVersion { .. } | ModelError::Unsupported { .. } => {
                Self::new(Exit::Failure, "this model cannot be run").because(text)
            }
            ModelError::Encoder { .. } => {
                Self::usage("this model does not generate texts").because(text).hint(
                    "atoll embed MODEL TEXT embeds a text; generate with another model (atoll ls)",
                )
            }
            ModelError::NotEncoder { .. } => Self::usage("this model does not embed texts")
                .because(text)
                .hint("atoll run MODEL PROMPT; embed with an encoder such as all-MiniLM-L6-v2"),
            ModelError::ContextExceeded { .. } => Self::usage("the prompt is too long")
                .because(text)
                .hint("a shorter prompt, or a larger --ctx if the model allows it"),
            ModelError::InvalidInput { .. } => {
                Self::usage("the request makes no sense").because(text)
            }
            ModelError::Tokenizer { .. } | ModelError::Template { .. } => {
                Self::new(Exit::Failure, "cannot prepare the prompt").because(text)
            }
        }
    }
}

impl Failure {
    /// The same error, naming the file that was being read.
    #[must_use]
    pub(crate) fn in_file(mut self, path: &Path) -> Self {
        if let Some(cause) = &mut self.cause {
            *cause = format!("{}: {cause}", path.display());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_and_strangeness_have_their_codes() {
        let check = |error: ModelError, exit| assert_eq!(Failure::from(error).exit, exit);
        check(ModelError::MissingKey { key: "k".into() }, Exit::Integrity);
        check(ModelError::ContextExceeded { tokens: 5, context: 4 }, Exit::Usage);
        check(ModelError::Unsupported { what: "architecture", name: "x".into() }, Exit::Failure);
        let failure = Failure::from(ModelError::ContextExceeded { tokens: 5, context: 4 });
        assert!(failure.to_string().contains("5 tokens, the context holds 4"), "{failure}");
    }
}
