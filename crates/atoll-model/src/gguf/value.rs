//! Metadata values of GGUF.

use crate::error::ModelError;
use crate::gguf::cursor::Cursor;
use crate::gguf::limit;
use crate::texts::Texts;

/// Type of a metadata value, numbered as in the GGUF specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum ValueType {
    /// Unsigned 8 bits.
    U8 = 0,
    /// Signed 8 bits.
    I8 = 1,
    /// Unsigned 16 bits.
    U16 = 2,
    /// Signed 16 bits.
    I16 = 3,
    /// Unsigned 32 bits.
    U32 = 4,
    /// Signed 32 bits.
    I32 = 5,
    /// IEEE 754 single precision.
    F32 = 6,
    /// One byte, 0 or 1.
    Bool = 7,
    /// UTF-8 with its length before it.
    String = 8,
    /// Elements of one type with their type and count before them.
    Array = 9,
    /// Unsigned 64 bits.
    U64 = 10,
    /// Signed 64 bits.
    I64 = 11,
    /// IEEE 754 double precision.
    F64 = 12,
}

impl ValueType {
    pub(crate) fn parse(id: u32, key: &str) -> Result<Self, ModelError> {
        Ok(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => {
                let what = format!("metadata value {key}");
                return Err(ModelError::malformed(what, format!("it has the unknown type {id}")));
            }
        })
    }

    /// Bytes of one element; `None` for strings and arrays, whose length varies.
    pub(crate) const fn fixed_len(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any unsigned integer, and signed ones that are not negative.
    Uint(u64),
    /// A negative integer.
    Int(i64),
    /// A single-precision number.
    F32(f32),
    /// A double-precision number.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    String(String),
    /// Texts.
    Strings(Texts),
    /// Integers or truth values, all within 64 signed bits.
    Ints(Vec<i64>),
    /// Numbers.
    Floats(Vec<f32>),
    /// Arrays of arrays and of unsigned or floating 64-bit numbers, which no supported model needs:
    /// their lengths are checked, their elements skipped.
    Skipped,
}

impl Value {
    /// Reads the value of `key`, whose type has been read.
    pub(super) fn read(
        cursor: &mut Cursor<'_>,
        ty: ValueType,
        key: &str,
    ) -> Result<Self, ModelError> {
        Ok(match ty {
            ValueType::String => Self::String(cursor.string(key, limit::STRING_BYTES)?.to_owned()),
            ValueType::Array => Self::read_array(cursor, key, 1)?,
            ValueType::F32 => Self::F32(f32::from_le_bytes(cursor.array(key)?)),
            ValueType::F64 => Self::F64(f64::from_le_bytes(cursor.array(key)?)),
            ValueType::U64 => Self::Uint(cursor.u64(key)?),
            ValueType::Bool => Self::Bool(cursor.array::<1>(key)?[0] != 0),
            ValueType::U8
            | ValueType::I8
            | ValueType::U16
            | ValueType::I16
            | ValueType::U32
            | ValueType::I32
            | ValueType::I64 => {
                let int = read_int(cursor, ty, key)?;
                u64::try_from(int).map_or(Self::Int(int), Self::Uint)
            }
        })
    }

    fn read_array(cursor: &mut Cursor<'_>, key: &str, depth: u32) -> Result<Self, ModelError> {
        ModelError::check_limit(&format!("nesting of {key}"), depth.into(), limit::NESTING)?;
        let ty = ValueType::parse(cursor.u32(key)?, key)?;
        let count = cursor.u64(key)?;
        ModelError::check_limit(&format!("number of elements of {key}"), count, limit::ELEMENTS)?;
        // The least that one element can take: strings have a length, arrays a type and a count.
        let least = ty.fixed_len().unwrap_or(if ty == ValueType::Array { 12 } else { 8 });
        let need = count * least;
        if need > cursor.remaining() as u64 {
            return Err(ModelError::Truncated {
                what: format!("array {key}"),
                offset: cursor.position() as u64,
                need,
                have: cursor.remaining() as u64,
            });
        }
        match ty {
            ValueType::String => {
                let mut texts = Texts::new();
                for _ in 0..count {
                    let text = cursor.string(key, limit::STRING_BYTES)?;
                    let len = (texts.bytes_len() + text.len()) as u64;
                    ModelError::check_limit(&format!("bytes of {key}"), len, Texts::BYTES_MAX)?;
                    texts.push(text);
                }
                texts.shrink();
                Ok(Self::Strings(texts))
            }
            ValueType::Array => {
                for _ in 0..count {
                    Self::read_array(cursor, key, depth + 1)?;
                }
                Ok(Self::Skipped)
            }
            ValueType::F32 => {
                let bytes = cursor.take(need, key)?;
                let floats = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b));
                Ok(Self::Floats(floats.collect()))
            }
            ValueType::F64 | ValueType::U64 => {
                cursor.take(need, key)?;
                Ok(Self::Skipped)
            }
            ValueType::U8
            | ValueType::I8
            | ValueType::Bool
            | ValueType::U16
            | ValueType::I16
            | ValueType::U32
            | ValueType::I32
            | ValueType::I64 => (0..count)
                .map(|_| read_int(cursor, ty, key))
                .collect::<Result<_, ModelError>>()
                .map(Self::Ints),
        }
    }

    /// Name of the kind of value, for errors.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Uint(_) | Self::Int(_) => "an integer",
            Self::F32(_) | Self::F64(_) => "a number",
            Self::Bool(_) => "a truth value",
            Self::String(_) => "a text",
            Self::Strings(_) => "an array of texts",
            Self::Ints(_) => "an array of integers",
            Self::Floats(_) => "an array of numbers",
            Self::Skipped => "an array of 64-bit numbers or of arrays",
        }
    }
}

fn read_int(cursor: &mut Cursor<'_>, ty: ValueType, key: &str) -> Result<i64, ModelError> {
    Ok(match ty {
        ValueType::U8 => cursor.array::<1>(key)?[0].into(),
        ValueType::I8 => i8::from_le_bytes(cursor.array(key)?).into(),
        ValueType::Bool => (cursor.array::<1>(key)?[0] != 0).into(),
        ValueType::U16 => u16::from_le_bytes(cursor.array(key)?).into(),
        ValueType::I16 => i16::from_le_bytes(cursor.array(key)?).into(),
        ValueType::U32 => cursor.u32(key)?.into(),
        ValueType::I32 => i32::from_le_bytes(cursor.array(key)?).into(),
        ValueType::I64 => i64::from_le_bytes(cursor.array(key)?),
        ValueType::F32 | ValueType::F64 | ValueType::U64 | ValueType::String | ValueType::Array => {
            unreachable!("called for integers that fit 64 signed bits")
        }
    })
}
