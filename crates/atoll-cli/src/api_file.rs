//! The file through which other commands find the running node's HTTP interface.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::exit::{Exit, Failure};
use crate::source::write_whole;

/// `DATA/api.json`, while a node runs.
#[derive(Debug)]
pub(crate) struct ApiFile {
    path: PathBuf,
}

/// `atoll.api/1`
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    schema: String,
    url: String,
    pid: u32,
}

impl ApiFile {
    /// Notes where the interface of this process is.
    pub(crate) fn write(data_dir: &Path, url: &str) -> Result<Self, Failure> {
        let path = data_dir.join("api.json");
        let pid = std::process::id();
        let content = Content { schema: "atoll.api/1".to_owned(), url: url.to_owned(), pid };
        let bytes = serde_json::to_vec(&content).expect("our own structs serialize");
        write_whole(&path, |file| file.write_all(&bytes))?;
        Ok(Self { path })
    }

    /// Where the node of `data_dir` was last reachable.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] when no node has left a note.
    pub(crate) fn read(data_dir: &Path) -> Result<String, Failure> {
        let path = data_dir.join("api.json");
        let content: Option<Content> =
            fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        content.map(|content| content.url).ok_or_else(|| {
            Failure::new(Exit::Unreachable, "no node runs here")
                .because(format!("there is no {}", path.display()))
                .hint("atoll up starts one; --data-dir or --api names another")
        })
    }

    /// Removes the note.
    pub(crate) fn remove(&self) {
        let _gone = fs::remove_file(&self.path);
    }
}
