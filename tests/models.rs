//! The models of the end-to-end tests and what llama.cpp answers with them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde::Deserialize;

use crate::{atoll, workspace};

/// A model that the tests run.
pub(crate) struct Model {
    /// Its catalogue name.
    pub(crate) name: &'static str,
    /// File stem in `ATOLL_TEST_MODELS` and `tests/data`.
    pub(crate) stem: &'static str,
    pub(crate) n_layers: usize,
    path: OnceLock<Option<PathBuf>>,
}

pub(crate) static SMOLLM2: Model =
    Model { name: "smollm2:135m", stem: "smollm2-135m", n_layers: 30, path: OnceLock::new() };
pub(crate) static QWEN: Model = Model {
    name: "qwen2.5-coder:0.5b",
    stem: "qwen2.5-coder-0.5b",
    n_layers: 24,
    path: OnceLock::new(),
};

/// What llama.cpp answered to one prompt (`data/README.md`).
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) prompt: String,
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) top10: Vec<(u32, f64)>,
    pub(crate) gaps: Vec<f64>,
}

impl Model {
    /// The file, fetched once by `atoll pull` into a folder that later runs find again. `None`,
    /// loudly, if it cannot be had; a failure if `ATOLL_TEST_REQUIRE_MODELS` is set.
    pub(crate) fn path(&'static self) -> Option<&'static Path> {
        self.path.get_or_init(|| self.find()).as_deref()
    }

    fn find(&self) -> Option<PathBuf> {
        if let Some(folder) = std::env::var_os("ATOLL_TEST_MODELS") {
            let path = Path::new(&folder).join(format!("{}.gguf", self.stem));
            if path.is_file() {
                return Some(path);
            }
        }
        let pull = atoll::command(&cache(), &["pull", self.name, "--json"]);
        let run = atoll::run_within(pull, Duration::from_secs(900));
        if run.code != 0 {
            let required = std::env::var_os("ATOLL_TEST_REQUIRE_MODELS").is_some();
            assert!(!required, "{} could not be fetched: {run}", self.name);
            atoll::skip(self.name, &format!("it could not be fetched\n{}", run.stderr));
            return None;
        }
        let listed = atoll::json(&cache(), &["ls", "--json"]);
        let models = listed["models"].as_array().unwrap();
        let own = models.iter().find(|model| model["model"] == self.name).unwrap();
        Some(PathBuf::from(own["path"].as_str().unwrap()))
    }

    /// llama.cpp's answers with this model.
    pub(crate) fn golden(&self) -> Vec<Case> {
        #[derive(Deserialize)]
        struct Golden {
            cases: Vec<Case>,
        }
        let path = data(&format!("golden-{}.json", self.stem));
        let golden: Golden = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        assert_eq!(golden.cases.len(), 3);
        golden.cases
    }
}

/// Memory, as `--memory` takes it, in which so many layers of a model and their caches have room
/// and not one more: it decides where layers go, whatever speeds the nodes measure.
pub(crate) struct Room {
    pub(crate) layers: String,
    /// Embedding and head beside the layers.
    pub(crate) with_ends: String,
    /// Bytes of each layer of the model.
    pub(crate) layer_bytes: Vec<u64>,
}

impl Room {
    /// For `n` layers, with room for sessions of `context` positions.
    pub(crate) fn of(path: &Path, n: u64, context: u64) -> Self {
        // What `atoll serve` makes room for.
        const SESSIONS: u64 = 16;
        let data = tempfile::tempdir().unwrap();
        let shown = atoll::json(data.path(), &["show", path.to_str().unwrap(), "--json"]);
        let number = |value: &serde_json::Value| value.as_u64().unwrap();
        let layer_bytes: Vec<u64> =
            shown["layers"].as_array().unwrap().iter().map(number).collect();
        let size = |key: &str| number(&shown["config"][key]);
        // Keys and values, two bytes each.
        let kv_bytes = 2 * 2 * size("n_kv_heads") * size("head_dim") * context * SESSIONS;
        let layers = (2 * n + 1) * (layer_bytes[0] + kv_bytes) / 2;
        let ends = number(&shown["embed_bytes"]) + number(&shown["head_bytes"]);
        let (layers, with_ends) = (layers.to_string(), (layers + ends).to_string());
        Self { layers, with_ends, layer_bytes }
    }
}

/// Where fetched models stay between runs.
fn cache() -> PathBuf {
    let target = atoll::binary().parent().unwrap().parent().unwrap().to_path_buf();
    target.join("test-data")
}

/// A file of `tests/data`.
pub(crate) fn data(name: &str) -> PathBuf {
    workspace::root().join("tests/data").join(name)
}
