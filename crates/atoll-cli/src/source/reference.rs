//! What a model reference means.

use std::path::PathBuf;

use super::catalogue::{self, CATALOGUE, Entry};
use crate::exit::{Exit, Failure};

/// One file inside one Python package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PipPart {
    /// Package name as the registry knows it.
    pub(crate) package: String,
    /// Exact version.
    pub(crate) version: String,
    /// Path inside the wheel.
    pub(crate) path: String,
}

/// Where a model comes from.
#[derive(Clone, Debug)]
pub(crate) enum ModelRef {
    /// A file or directory of this machine.
    Path(PathBuf),
    /// A file on a model hub.
    Hub {
        /// Who published it.
        owner: String,
        /// The repository.
        repo: String,
        /// The file, perhaps in a folder.
        file: String,
    },
    /// A web address, without its fragment.
    Url {
        /// The address.
        url: String,
        /// From a `#sha256=…` fragment.
        sha256: Option<String>,
    },
    /// Files inside Python packages, joined in order.
    Pip(Vec<PipPart>),
    /// A short name.
    Catalogue(&'static Entry),
}

impl ModelRef {
    /// Reads what was typed.
    ///
    /// # Errors
    /// [`Exit::Usage`] when a source is malformed, [`Exit::NotFound`] for an unknown short name.
    pub(crate) fn parse(typed: &str) -> Result<Self, Failure> {
        if typed.is_empty() {
            return Err(Failure::usage("the model's name is empty"));
        }
        if let Some(rest) = typed.strip_prefix("hf:") {
            return hub(rest).ok_or_else(|| {
                malformed(typed, "hf:OWNER/REPO/FILE, such as hf:someone/model-GGUF/model-q4.gguf")
            });
        }
        if let Some(rest) = typed.strip_prefix("pip:") {
            return pip(rest).ok_or_else(|| {
                malformed(typed, "pip:PACKAGE==VERSION/PATH[+PACKAGE==VERSION/PATH…]")
            });
        }
        if typed.starts_with("https://") || typed.starts_with("http://") {
            return url(typed);
        }
        if let Some(entry) = catalogue::find(typed) {
            return Ok(Self::Catalogue(entry));
        }
        let path = PathBuf::from(typed);
        if typed.contains(['/', '\\']) || typed.ends_with(".gguf") || path.exists() {
            return Ok(Self::Path(path));
        }
        Err(unknown(typed))
    }

    /// The one spelling under which it is kept.
    pub(crate) fn canonical(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Hub { owner, repo, file } => format!("hf:{owner}/{repo}/{file}"),
            Self::Url { url, .. } => url.clone(),
            Self::Pip(parts) => {
                let parts: Vec<String> = parts
                    .iter()
                    .map(|part| format!("{}=={}/{}", part.package, part.version, part.path))
                    .collect();
                format!("pip:{}", parts.join("+"))
            }
            Self::Catalogue(entry) => entry.name.to_owned(),
        }
    }
}

fn hub(rest: &str) -> Option<ModelRef> {
    let mut words = rest.splitn(3, '/');
    let (owner, repo, file) = (words.next()?, words.next()?, words.next()?);
    let plain = |word: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        !word.is_empty() && word.bytes().all(allowed) && word != "." && word != ".."
    };
    let fits = plain(owner) && plain(repo) && file.split('/').all(plain);
    fits.then(|| ModelRef::Hub { owner: owner.into(), repo: repo.into(), file: file.into() })
}

fn pip(rest: &str) -> Option<ModelRef> {
    let parts: Option<Vec<PipPart>> = rest.split('+').map(pip_part).collect();
    parts.map(ModelRef::Pip)
}

fn pip_part(text: &str) -> Option<PipPart> {
    let (package, rest) = text.split_once("==")?;
    let (version, path) = rest.split_once('/')?;
    let word = |text: &str, extra: &[u8]| {
        text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
    };
    let fits = word(package, b"-_.") && word(version, b".!+-_") && !path.is_empty();
    fits.then(|| PipPart { package: package.into(), version: version.into(), path: path.into() })
}

fn url(typed: &str) -> Result<ModelRef, Failure> {
    let (url, fragment) = typed.split_once('#').unwrap_or((typed, ""));
    let sha256 = match fragment.strip_prefix("sha256=") {
        None => None,
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Some(hex.to_ascii_lowercase())
        }
        Some(_) => return Err(malformed(typed, "#sha256= and 64 hexadecimal digits")),
    };
    if let Some(rest) = url.strip_prefix("http://") {
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let name = host.rsplit_once(':').map_or(host, |(name, _port)| name);
        if !matches!(name, "localhost" | "127.0.0.1" | "[::1]") {
            return Err(malformed(typed, "https:// (plain http:// only to this machine)"));
        }
    }
    Ok(ModelRef::Url { url: url.to_owned(), sha256 })
}

fn malformed(typed: &str, expected: &str) -> Failure {
    Failure::usage(format!("cannot read the model reference {typed:?}"))
        .because(format!("expected {expected}"))
}

fn unknown(typed: &str) -> Failure {
    let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
    Failure::new(Exit::NotFound, format!("there is no model called {typed:?}"))
        .because(format!("the catalogue has {}, and no such file is here", names.join(" and ")))
        .hint(concat!(
            "one of these names, a path, hf:OWNER/REPO/FILE, https://… ",
            "or pip:PACKAGE==VERSION/PATH"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(typed: &str, expected: Result<&str, Exit>) {
        let read = ModelRef::parse(typed);
        let read = read.as_ref().map(ModelRef::canonical).map_err(|failure| failure.exit);
        assert_eq!(read, expected.map(str::to_owned), "{typed}");
    }

    #[test]
    fn references_are_read() {
        check("smollm2:135m", Ok("smollm2:135m"));
        check("SmolLM2:135M", Ok("smollm2:135m"));
        check("./a.gguf", Ok("./a.gguf"));
        check("a.gguf", Ok("a.gguf"));
        check("hf:o/r/f.gguf", Ok("hf:o/r/f.gguf"));
        check("hf:o/r/dir/f.gguf", Ok("hf:o/r/dir/f.gguf"));
        check("https://h/f.gguf", Ok("https://h/f.gguf"));
        check("http://127.0.0.1:80/f", Ok("http://127.0.0.1:80/f"));
        check("pip:a==1/x/y.bin+b==2.0/z", Ok("pip:a==1/x/y.bin+b==2.0/z"));
    }

    #[test]
    fn nonsense_is_refused() {
        check("", Err(Exit::Usage));
        check("gpt-9", Err(Exit::NotFound));
        check("hf:o/r", Err(Exit::Usage));
        check("hf:o/../f", Err(Exit::Usage));
        check("hf:o/r/../../f", Err(Exit::Usage));
        check("http://example.org/f", Err(Exit::Usage));
        check("http://127.0.0.1.example.org/f", Err(Exit::Usage));
        check("https://h/f#sha256=12", Err(Exit::Usage));
        check("pip:a/x", Err(Exit::Usage));
        check("pip:--index==1/x", Err(Exit::Usage));
        check("pip:a==-e/x", Err(Exit::Usage));
        check("pip:a==1/", Err(Exit::Usage));
    }

    #[test]
    fn the_hash_of_an_address_is_kept_apart() {
        let hash = "Ab".repeat(32);
        let Ok(ModelRef::Url { url, sha256 }) =
            ModelRef::parse(&format!("https://h/f#sha256={hash}"))
        else {
            panic!("not an address");
        };
        assert_eq!((url.as_str(), sha256), ("https://h/f", Some(hash.to_ascii_lowercase())));
    }
}
