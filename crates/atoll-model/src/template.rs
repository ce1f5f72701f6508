//! Chat templates: the Jinja text in a model's metadata that turns messages into a prompt.

mod python;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};

use crate::error::ModelError;
use crate::gguf::Metadata;
use crate::tokenizer::Tokenizer;

/// Largest template accepted, in bytes.
const BYTES_MAX: u64 = 1 << 20;
/// Instructions that one rendering may take: some hundreds for each message of a chat. A template
/// of a stranger that loops ends here.
const FUEL: u64 = 5_000_000;
const RECURSION_MAX: usize = 64;
const NAME: &str = "chat";

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    fn to_value(&self) -> Value {
        Value::from_pairs([("role", self.role.as_str()), ("content", self.content.as_str())])
    }
}

/// A chat template, compiled.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles `source`. `tokenizer` gives the texts of the tokens at the ends of a sequence.
    ///
    /// # Errors
    /// [`ModelError::Template`] with the line if it is not valid, [`ModelError::Limit`] if it is
    /// too long.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self, ModelError> {
        ModelError::check_limit("bytes of the chat template", source.len() as u64, BYTES_MAX)?;
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(template_error)?);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_recursion_limit(RECURSION_MAX);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", python::strftime_now);
        environment.add_filter("tojson", python::tojson);
        environment
            .add_template_owned(NAME, without_generation_marks(source))
            .map_err(template_error)?;
        let text = |id: Option<u32>| id.and_then(|id| tokenizer.token(id)).unwrap_or("").to_owned();
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
        Ok(Self { environment, source: source.to_owned(), bos, eos })
    }

    /// Compiles the template of a GGUF file, if it has one.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn from_gguf(
        metadata: &Metadata,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, ModelError> {
        metadata
            .optional_str("tokenizer.chat_template")?
            .map(|source| Self::new(source, tokenizer))
            .transpose()
    }

    /// The template's text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders `messages` as a prompt; with `add_generation_prompt`, up to where the model is to
    /// speak. Where the text begins with the token that the tokenizer would add in front, it must
    /// be encoded without special tokens.
    ///
    /// # Errors
    /// [`ModelError::Template`] with what the template says (it may refuse an order of roles), or
    /// if it takes too many steps.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        add_generation_prompt: bool,
    ) -> Result<String, ModelError> {
        let template = self.environment.get_template(NAME).map_err(template_error)?;
        let messages: Vec<Value> = messages.iter().map(ChatMessage::to_value).collect();
        let (bos_token, eos_token) = (&self.bos, &self.eos);
        template
            .render(context! { messages, add_generation_prompt, bos_token, eos_token })
            .map_err(template_error)
    }
}

/// Drops `{% generation %}` and `{% endgeneration %}`, marks for training that Jinja does not know.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(len) = rest[start..].find("%}").map(|end| end + 2) else { break };
        let block = &rest[start..start + len];
        let inner =
            block[2..len - 2].trim_matches(|c: char| c == '-' || c == '+' || c.is_whitespace());
        out.push_str(&rest[..start]);
        if inner == "generation" || inner == "endgeneration" {
            // An empty statement keeps what the block says about the blanks around it.
            let (before, after) = block.split_once(inner).expect("`inner` is cut from the block");
            out.push_str(&format!("{before}if true %}}{{% endif{after}"));
        } else {
            out.push_str(block);
        }
        rest = &rest[start + len..];
    }
    out.push_str(rest);
    out
}

#[expect(clippy::needless_pass_by_value, reason = "used with map_err")]
fn template_error(error: Error) -> ModelError {
    let why = if error.kind() == ErrorKind::OutOfFuel {
        format!("it took more than {FUEL} steps")
    } else {
        error.to_string()
    };
    ModelError::Template { why }
}

#[cfg(test)]
mod tests;
