//! A disk that is full. Needs root, for a small file system of its own.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::{TempDir, tempdir};

use super::pull::{finals, serve};
use crate::atoll;

/// A file system of `bytes` in memory, gone with its owner.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn new(bytes: u64) -> Option<Self> {
        let folder = tempdir().unwrap();
        let size = format!("size={bytes}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        let done = mount.output();
        done.is_ok_and(|done| done.status.success()).then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_leaves_nothing_half() {
    let Some(disk) = SmallDisk::new(4 << 20) else {
        return atoll::skip("a full disk", "mounting a small file system needs root");
    };
    let url = format!("{}/a.gguf", serve(vec![7; 16 << 20], None));
    let command = atoll::command(disk.path(), &["pull", &url]);
    let run = atoll::run_within(command, Duration::from_secs(60));
    run.refuses(1, &["no space left", "try: "]);
    assert_eq!(finals(disk.path()), Vec::<String>::new());
}
