//! What an error of the compressor means to a user.

use atoll_compress::CompressError;

use super::{Exit, Failure};

impl From<CompressError> for Failure {
    fn from(error: CompressError) -> Self {
        let text = error.to_string();
        match error {
            CompressError::Model(error) => error.into(),
            CompressError::TextTooShort { .. } => {
                Self::usage("the calibration text is too short").because(text)
            }
            CompressError::Type(_)
            | CompressError::Share { .. }
            | CompressError::Width { .. }
            | CompressError::Group { .. }
            | CompressError::NoZero(_)
            | CompressError::Together(..)
            | CompressError::Budget { .. }
            | CompressError::Columns { .. } => Self::usage("this cannot be made").because(text),
            CompressError::NeedsText(_) => Self::usage("a calibration text is missing")
                .because(text)
                .hint("--calib FILE; choosing what to remove can do without by --method magnitude"),
            CompressError::Work { path, source } => Self::io("write", &path, &source),
            CompressError::Inputs(_) | CompressError::Key(_) => {
                Self::new(Exit::Failure, "this model cannot be compressed").because(text)
            }
        }
    }
}
