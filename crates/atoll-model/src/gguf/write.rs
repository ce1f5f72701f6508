//! Writes GGUF version 3.

use std::borrow::Cow;
use std::io::{self, Write};

use crate::gguf::MAGIC;
use crate::gguf::value::{Value, ValueType};
use crate::tensor::TensorInfo;

/// What every tensor's offset is a multiple of: GGUF's default alignment.
const ALIGNMENT: usize = 32;

/// A GGUF file in the making: keys first, then tensors, written in the order they were added.
#[derive(Debug, Default)]
pub struct GgufWriter<'a> {
    keys: Vec<(String, Value)>,
    tensors: Vec<(TensorInfo, Cow<'a, [u8]>)>,
}

impl<'a> GgufWriter<'a> {
    /// An empty file.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key; one that is there keeps its place. Integers are stored in 32 bits where they
    /// fit, in 64 otherwise.
    ///
    /// # Panics
    /// If the value is [`Value::Skipped`], which has no content to write.
    pub fn key(&mut self, key: &str, value: Value) -> &mut Self {
        assert!(value != Value::Skipped, "{key} was skipped when it was read");
        match self.keys.iter_mut().find(|(known, _)| known == key) {
            Some((_, old)) => *old = value,
            None => self.keys.push((key.to_owned(), value)),
        }
        self
    }

    /// Adds a tensor.
    ///
    /// # Panics
    /// If the bytes are not as many as the shape and block type need.
    pub fn tensor(&mut self, info: TensorInfo, bytes: impl Into<Cow<'a, [u8]>>) -> &mut Self {
        let bytes = bytes.into();
        let need = info.bytes_len().expect("a tensor to write has a legal shape");
        assert_eq!(bytes.len(), need, "bytes of tensor {}", info.name);
        self.tensors.push((info, bytes));
        self
    }

    /// The file's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes).expect("writing to memory does not fail");
        bytes
    }

    /// Bytes of the file if `tensors` were added, too.
    #[must_use]
    pub fn bytes_with(&self, tensors: &[TensorInfo]) -> u64 {
        let all = || self.tensors.iter().map(|(info, _)| info).chain(tensors);
        self.header(&mut all()).len() as u64 + all().map(Self::stored_bytes).sum::<u64>()
    }

    /// Bytes that a tensor takes in a file behind the header.
    ///
    /// # Panics
    /// If its columns are not whole blocks.
    #[must_use]
    pub fn stored_bytes(info: &TensorInfo) -> u64 {
        let bytes = info.bytes_len().expect("a tensor to write has a legal shape");
        bytes.next_multiple_of(ALIGNMENT) as u64
    }

    /// Writes the file.
    ///
    /// # Errors
    /// What `out` returns.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&self.header(&mut self.tensors.iter().map(|(info, _)| info)))?;
        for (_, bytes) in &self.tensors {
            out.write_all(bytes)?;
            out.write_all(
                &[0; ALIGNMENT][..bytes.len().next_multiple_of(ALIGNMENT) - bytes.len()],
            )?;
        }
        Ok(())
    }

    /// All before the tensors' bytes.
    fn header(&self, tensors: &mut dyn Iterator<Item = &TensorInfo>) -> Vec<u8> {
        let tensors: Vec<&TensorInfo> = tensors.collect();
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(3_u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            put_string(&mut header, key);
            put_value(&mut header, value);
        }
        let mut offset = 0_u64;
        for info in tensors {
            put_string(&mut header, &info.name);
            let dims: &[usize] =
                if info.rows == 1 { &[info.cols] } else { &[info.cols, info.rows] };
            put_u32(&mut header, dims.len());
            for dim in dims {
                header.extend((*dim as u64).to_le_bytes());
            }
            header.extend(info.dtype.ggml_id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset += Self::stored_bytes(info);
        }
        pad(&mut header);
        header
    }
}

fn pad(bytes: &mut Vec<u8>) {
    while !bytes.len().is_multiple_of(ALIGNMENT) {
        bytes.push(0);
    }
}

fn put_u32(out: &mut Vec<u8>, value: usize) {
    out.extend(u32::try_from(value).expect("a count of 32 bits").to_le_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_type(out: &mut Vec<u8>, ty: ValueType) {
    out.extend((ty as u32).to_le_bytes());
}

fn put_array(out: &mut Vec<u8>, ty: ValueType, len: usize) {
    put_type(out, ValueType::Array);
    put_type(out, ty);
    out.extend((len as u64).to_le_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Uint(value) => {
            if let Ok(value) = u32::try_from(*value) {
                put_type(out, ValueType::U32);
                out.extend(value.to_le_bytes());
            } else {
                put_type(out, ValueType::U64);
                out.extend(value.to_le_bytes());
            }
        }
        Value::Int(value) => {
            if let Ok(value) = i32::try_from(*value) {
                put_type(out, ValueType::I32);
                out.extend(value.to_le_bytes());
            } else {
                put_type(out, ValueType::I64);
                out.extend(value.to_le_bytes());
            }
        }
        Value::F32(value) => {
            put_type(out, ValueType::F32);
            out.extend(value.to_le_bytes());
        }
        Value::F64(value) => {
            put_type(out, ValueType::F64);
            out.extend(value.to_le_bytes());
        }
        Value::Bool(value) => {
            put_type(out, ValueType::Bool);
            out.push((*value).into());
        }
        Value::String(text) => {
            put_type(out, ValueType::String);
            put_string(out, text);
        }
        Value::Strings(texts) => {
            put_array(out, ValueType::String, texts.len());
            texts.iter().for_each(|text| put_string(out, text));
        }
        Value::Ints(values) => put_ints(out, values),
        Value::Floats(values) => {
            put_array(out, ValueType::F32, values.len());
            values.iter().for_each(|value| out.extend(value.to_le_bytes()));
        }
        Value::Skipped => unreachable!("`key` refuses it"),
    }
}

fn put_ints(out: &mut Vec<u8>, values: &[i64]) {
    let narrow: Result<Vec<i32>, _> = values.iter().map(|value| i32::try_from(*value)).collect();
    if let Ok(values) = narrow {
        put_array(out, ValueType::I32, values.len());
        values.iter().for_each(|value| out.extend(value.to_le_bytes()));
    } else {
        put_array(out, ValueType::I64, values.len());
        values.iter().for_each(|value| out.extend(value.to_le_bytes()));
    }
}
