//! The key-value part of a GGUF file.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::ModelError;
use crate::gguf::cursor::Cursor;
use crate::gguf::value::{Value, ValueType};
use crate::gguf::{limit, read_preamble};
use crate::mapped::FileBytes;
use crate::texts::Texts;

/// Keys and values of a GGUF file. Lookups say which key is missing or of the wrong type.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    /// Reads the keys of the file at `path` alone, which need not hold a model that Atoll runs.
    ///
    /// # Errors
    /// [`ModelError::Io`], and what [`crate::GgufFile::parse`] returns for the metadata.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::parse(&FileBytes::open(path)?)
    }

    /// Reads the keys of a file from its bytes.
    ///
    /// # Errors
    /// As [`Metadata::open`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ModelError> {
        let mut cursor = Cursor::new(bytes);
        let (_, n_keys) = read_preamble(&mut cursor)?;
        Self::read(&mut cursor, n_keys)
    }

    pub(super) fn read(cursor: &mut Cursor<'_>, n_keys: u64) -> Result<Self, ModelError> {
        let mut map = BTreeMap::new();
        for _ in 0..n_keys {
            let key = cursor.string("metadata key", limit::NAME_BYTES)?;
            let ty = ValueType::parse(cursor.u32(key)?, key)?;
            let value = Value::read(cursor, ty, key)?;
            if map.insert(key.to_owned(), value).is_some() {
                return Err(ModelError::malformed(format!("metadata key {key}"), "there twice"));
            }
        }
        Ok(Self(map))
    }

    /// The value of `key`.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// Every key with its value, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// [`ModelError::MissingKey`], or [`ModelError::Malformed`] if it is something else.
    pub fn u64(&self, key: &str) -> Result<u64, ModelError> {
        self.optional_u64(key)?.ok_or_else(|| missing(key))
    }

    /// An unsigned integer, if the key is there.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] if it is something else.
    pub fn optional_u64(&self, key: &str) -> Result<Option<u64>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Uint(value)) => Ok(Some(*value)),
            Some(other) => Err(wrong_kind(key, "an unsigned integer", other)),
        }
    }

    /// A number, if the key is there. Single precision is widened exactly.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] if it is something else.
    pub fn optional_f64(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::F32(value)) => Ok(Some((*value).into())),
            Some(Value::F64(value)) => Ok(Some(*value)),
            Some(other) => Err(wrong_kind(key, "a number", other)),
        }
    }

    /// A truth value, if the key is there.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] if it is something else.
    pub fn optional_bool(&self, key: &str) -> Result<Option<bool>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(wrong_kind(key, "a truth value", other)),
        }
    }

    /// A text.
    ///
    /// # Errors
    /// [`ModelError::MissingKey`], or [`ModelError::Malformed`] if it is something else.
    pub fn str(&self, key: &str) -> Result<&str, ModelError> {
        self.optional_str(key)?.ok_or_else(|| missing(key))
    }

    /// A text, if the key is there.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] if it is something else.
    pub fn optional_str(&self, key: &str) -> Result<Option<&str>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(value)) => Ok(Some(value)),
            Some(other) => Err(wrong_kind(key, "a text", other)),
        }
    }

    /// An array of texts, if the key is there.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] if it is something else.
    pub fn optional_strings(&self, key: &str) -> Result<Option<&Texts>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Strings(values)) => Ok(Some(values)),
            Some(other) => Err(wrong_kind(key, "an array of texts", other)),
        }
    }

    /// An array of integers, if the key is there.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] if it is something else.
    pub fn optional_ints(&self, key: &str) -> Result<Option<&[i64]>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Ints(values)) => Ok(Some(values)),
            Some(other) => Err(wrong_kind(key, "an array of integers", other)),
        }
    }

    /// An array of numbers, if the key is there.
    ///
    /// # Errors
    /// [`ModelError::Malformed`] if it is something else.
    pub fn optional_floats(&self, key: &str) -> Result<Option<&[f32]>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::Floats(values)) => Ok(Some(values)),
            Some(other) => Err(wrong_kind(key, "an array of numbers", other)),
        }
    }
}

fn missing(key: &str) -> ModelError {
    ModelError::MissingKey { key: key.to_owned() }
}

fn wrong_kind(key: &str, expected: &str, found: &Value) -> ModelError {
    let why = format!("it is {}, not {expected}", found.kind());
    ModelError::malformed(format!("metadata key {key}"), why)
}
