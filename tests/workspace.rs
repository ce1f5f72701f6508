//! The files of this workspace, as they lie on disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// One file of the workspace.
pub(crate) struct Source {
    /// Relative to the workspace's root, with `/`.
    pub(crate) path: String,
    /// Its bytes on disk.
    pub(crate) bytes: u64,
    /// Its content, empty if it is not UTF-8.
    pub(crate) text: String,
}

/// The workspace's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Every file that belongs to the workspace: what git tracks or would track, and without git
/// what is there but for build products.
pub(crate) fn sources() -> Vec<Source> {
    let root = root();
    let mut paths = git_files(&root).unwrap_or_else(|| walk(&root, &root));
    paths.sort();
    paths.dedup();
    let sources: Vec<_> = paths.into_iter().filter_map(|path| read(&root, path)).collect();
    assert!(sources.len() > 20, "only {} files found in {}", sources.len(), root.display());
    sources
}

fn git_files(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let paths: Vec<_> = text.split('\0').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    (output.status.success() && !paths.is_empty()).then_some(paths)
}

fn walk(root: &Path, folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "target" && name != ".git" {
                found.extend(walk(root, &path));
            }
        } else {
            let relative = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            found.push(relative);
        }
    }
    found
}

/// `None` for a path that git knows but that is no longer there.
fn read(root: &Path, path: String) -> Option<Source> {
    let content = fs::read(root.join(&path)).ok()?;
    let bytes = content.len() as u64;
    Some(Source { path, bytes, text: String::from_utf8(content).unwrap_or_default() })
}

/// The `Cargo.toml` of every member, by package name.
pub(crate) fn manifests() -> Vec<(String, toml::Table)> {
    let manifests: Vec<_> = sources()
        .iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
        .map(|file| {
            let table: toml::Table = file.text.parse().unwrap();
            let name = table["package"]["name"].as_str().unwrap().to_owned();
            (name, table)
        })
        .collect();
    assert!(manifests.len() >= 10, "only {} members found", manifests.len());
    manifests
}
