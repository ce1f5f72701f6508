//! Files of a model hub, through `hf-hub`, which knows its addresses and its metadata.

use std::env;
use std::path::PathBuf;

use hf_hub::Cache;
use hf_hub::api::sync::{ApiBuilder, ApiError};

use super::download::{Done, Target};
use super::web;
use crate::exit::{Exit, Failure};

/// Downloads `owner/repo/file` from the hub, or from the one that `HF_ENDPOINT` names.
///
/// The bytes come through [`web::fetch_as`], so that resuming and checking work as everywhere.
pub(crate) fn fetch(
    owner: &str,
    repo: &str,
    file: &str,
    target: &Target,
    sha256: Option<&str>,
) -> Result<Done, Failure> {
    let name = format!("hf:{owner}/{repo}/{file}");
    let token = token();
    let mut builder = ApiBuilder::from_cache(Cache::new(home().join("hub")));
    if let Ok(endpoint) = env::var("HF_ENDPOINT") {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let api = builder
        .with_progress(false)
        .with_token(token.clone())
        .build()
        .map_err(|error| failed(&name, &error))?;
    let url = api.model(format!("{owner}/{repo}")).url(file);
    let metadata = api.metadata(&url).map_err(|error| failed(&name, &error))?;
    // The hub's tag of a large file is its SHA-256; of a small one it is a git hash.
    let tag = metadata.etag();
    let tag = (tag.len() == 64 && tag.bytes().all(|b| b.is_ascii_hexdigit())).then_some(tag);
    web::fetch_as(&url, token.as_deref(), target, sha256.or(tag))
}

/// The hub's own folder, where its tools keep the user's token.
fn home() -> PathBuf {
    env::var_os("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
        let home = etcetera::home_dir().unwrap_or_default();
        home.join(".cache").join("huggingface")
    })
}

fn token() -> Option<String> {
    let set = env::var("HF_TOKEN").ok().filter(|token| !token.is_empty());
    set.or_else(|| Cache::new(home().join("hub")).token())
}

fn failed(name: &str, error: &ApiError) -> Failure {
    let text = error.to_string();
    let exit = if text.contains("404") {
        Exit::NotFound
    } else if text.contains("401") || text.contains("403") {
        Exit::TrustRefused
    } else {
        Exit::Failure
    };
    Failure::new(exit, format!("cannot fetch {name}")).because(text).hint(
        "check the name; HF_ENDPOINT names another hub, HF_TOKEN gives access to closed models",
    )
}
