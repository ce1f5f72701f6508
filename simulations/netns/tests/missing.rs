//! What is not here is named, and the program ends with 8: it never passes silently.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use atoll_netns::host::EXIT_MISSING;

const PROGRAM: &str = env!("CARGO_BIN_EXE_netns");

/// Every command says so, before it looks at a model.
fn misses(program: &str, within: &[&str], path: Option<&str>, words: &str) {
    let commands: [&[&str]; 3] =
        [&["run", "no-model"], &["soak", "no-model"], &["linkd", "--control", "no-socket"]];
    for command in commands {
        let line = [within, &[program], command].concat();
        let mut run = Command::new(line[0]);
        run.args(&line[1..]);
        if let Some(path) = path {
            run.env("PATH", path);
        }
        let Output { status, stdout, stderr } = run.output().unwrap();
        let said = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(EXIT_MISSING.into()), "{line:?}: {said}");
        assert!(said.contains("MISSING ") && said.contains(words), "{line:?}: {said}");
        assert!(stdout.is_empty(), "{line:?}: no result where nothing ran");
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn without_root_it_says_so() {
    let words = "the right to make network namespaces";
    if !is_root() {
        return misses(PROGRAM, &[], None, words);
    }
    // Where any user reaches it, unlike the folder that it was built in.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    let copy = folder.path().join("netns");
    fs::copy(PROGRAM, &copy).unwrap();
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).unwrap();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    misses(copy.to_str().unwrap(), &nobody, None, words);
}

#[test]
fn without_tap_devices_it_says_so() {
    if !is_root() {
        return; // What is missing then is the right, which the test above sees.
    }
    let hide = r#"mount -t tmpfs none "$(dirname /dev/net/tun)" && exec "$@""#;
    let hidden = ["unshare", "--mount", "sh", "-c", hide, "sh"];
    misses(PROGRAM, &hidden, None, "TAP devices: /dev/net/tun");
}

#[test]
fn without_iproute2_it_says_so() {
    misses(PROGRAM, &[], Some("/nowhere"), "the program `ip`");
}
