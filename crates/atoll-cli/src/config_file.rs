//! The configuration file: TOML, every key optional, unknown keys refused.

use std::fs;
use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use serde::Deserialize;

use crate::exit::Failure;

/// What the configuration file may say; flags and the environment come before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ConfigFile {
    /// Version of the file's format: 1.
    pub(crate) version: Option<u32>,
    /// Where identity, models and blobs are kept.
    pub(crate) data_dir: Option<PathBuf>,
    /// Log filter.
    pub(crate) log: Option<String>,
    /// The node's name.
    pub(crate) name: Option<String>,
    /// Addresses to listen on.
    pub(crate) listen: Option<Vec<String>>,
    /// Addresses of nodes to join.
    pub(crate) join: Option<Vec<String>>,
    /// Whether to use multicast discovery.
    pub(crate) mdns: Option<bool>,
    /// Memory for weights and caches, such as "2GiB".
    pub(crate) memory: Option<String>,
    /// Threads that compute.
    pub(crate) threads: Option<u16>,
    /// Instruction set.
    pub(crate) kernels: Option<String>,
    /// Where the HTTP interface listens, or "none".
    pub(crate) api: Option<String>,
}

impl ConfigFile {
    /// Reads the file that was named, or the usual one if it exists.
    ///
    /// # Errors
    /// A named file that is not there, and a file that is malformed.
    pub(crate) fn load(named: Option<&Path>) -> Result<Self, Failure> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => match etcetera::choose_base_strategy() {
                Ok(base) => base.config_dir().join("atoll").join("config.toml"),
                Err(_) => return Ok(Self::default()),
            },
        };
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text, &path),
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(error) => Err(Failure::io("read", &path, &error)),
        }
    }

    fn parse(text: &str, path: &Path) -> Result<Self, Failure> {
        let wrong = |cause: String| {
            Failure::usage(format!("cannot use the configuration file {}", path.display()))
                .because(cause)
        };
        let file: Self = toml::from_str(text).map_err(|error| wrong(error.to_string()))?;
        match file.version {
            None | Some(1) => Ok(file),
            Some(other) => {
                Err(wrong(format!("its version is {other}; this atoll reads version 1")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn check(text: &str, expected: Result<Option<u16>, &str>) {
        match (ConfigFile::parse(text, Path::new("c.toml")), expected) {
            (Ok(file), Ok(threads)) => assert_eq!(file.threads, threads),
            (Err(failure), Err(part)) => {
                assert_eq!(failure.exit, Exit::Usage);
                assert!(failure.to_string().contains(part), "{failure}");
            }
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[test]
    fn files_are_read_strictly() {
        check("", Ok(None));
        check("version = 1\nthreads = 2", Ok(Some(2)));
        check("version = 2", Err("version 1"));
        check("thread = 2", Err("thread"));
        check("threads = \"x\"", Err("line 1"));
        check("threads = ", Err("c.toml"));
    }
}
