//! The command line and the configuration: understood, or refused with exit code 2.

use std::fs;

use crate::atoll::Atoll;

#[test]
fn help_names_every_command_and_only_those() {
    let atoll = Atoll::new();
    let help = atoll.run(&["--help"]);
    help.expect(0, "");
    for command in [
        "demo", "run", "chat", "serve", "up", "status", "top", "pull", "ls", "show", "rm", "plan",
        "compress", "embed", "eval", "bench", "sim",
    ] {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}");
        atoll.run(&[command, "--help"]).expect(0, "");
    }
    for absent in ["trace", "doctor"] {
        assert!(!help.stdout.contains(&format!("\n  {absent} ")), "{absent}");
    }
    assert!(help.stdout.lines().count() <= 24, "one screen");
    let version = atoll.run(&["--version"]);
    assert_eq!(version.stdout, format!("atoll {}\n", env!("CARGO_PKG_VERSION")));
    let bare = atoll.run(&[]);
    bare.expect(0, "");
    assert!(bare.stdout.contains("atoll demo"));
}

#[test]
fn wrong_words_are_usage_errors() {
    let atoll = Atoll::new();
    let check = |args: &[&str], part: &str| {
        atoll.run(args).expect(2, part);
    };
    check(&["nonsense"], "unrecognized subcommand");
    check(&["run"], "<MODEL>");
    check(&["run", "m", "p", "--temp", "hot"], "number");
    check(&["run", "m", "p", "--stages", "0"], "0 is not in 1..=64");
    check(&["run", "m", "p", "--local", "--stages", "2"], "cannot be used with");
    check(&["pull", "hf:one"], "OWNER/REPO/FILE");
    check(&["serve", "--api", "0.0.0.0:7411"], "not a loopback address");
    check(&["up", "--name", "two words"], "letters");
    check(&["up", "--memory", "lots"], "unknown unit");
    check(&["pull", "--log", "=,="], "log filter");
}

#[test]
fn errors_have_a_json_twin() {
    let finished = Atoll::new().run(&["show", "nothing-here", "--json"]);
    finished.expect(3, "error: there is no model called").expect(3, "try: ");
    let json = finished.json();
    assert_eq!((json["schema"].as_str(), json["exit"].as_i64()), (Some("atoll.error/1"), Some(3)));
}

#[test]
fn the_order_is_flag_environment_file() {
    let atoll = Atoll::new();
    let dir = |name: &str| atoll.dir.path().join(name);
    for name in ["flag", "env", "file"] {
        let folder = dir(name).join("files").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("m.gguf"), "x").unwrap();
        let record = format!(
            r#"{{"schema":"atoll.file/1","reference":"from {name}","file":"m.gguf","bytes":1,
                "sha256":"{}","pulled_unix_s":0}}"#,
            "0".repeat(64)
        );
        fs::write(folder.join("source.json"), record).unwrap();
    }
    let config = dir("config.toml");
    fs::write(&config, format!("data_dir = {:?}", dir("file"))).unwrap();
    let config = config.to_str().unwrap();
    let check = |flag: bool, env: bool, expected: &str| {
        let (path, mut args) = (dir("flag"), vec!["ls", "--config", config]);
        if flag {
            args.extend(["--data-dir", path.to_str().unwrap()]);
        }
        let mut command = atoll.command(&args);
        command.env_remove("ATOLL_DATA_DIR");
        if env {
            command.env("ATOLL_DATA_DIR", dir("env"));
        }
        let stdout = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(stdout.starts_with(expected), "{stdout:?}");
    };
    check(true, true, "from flag");
    check(false, true, "from env");
    check(false, false, "from file");
}

#[test]
fn a_wrong_configuration_file_is_refused() {
    let atoll = Atoll::new();
    let path = atoll.dir.path().join("c.toml");
    fs::write(&path, "treads = 4\n").unwrap();
    let args = ["ls", "--config", path.to_str().unwrap()];
    atoll.run(&args).expect(2, "unknown field `treads`").expect(2, "line 1");
    atoll.run(&["ls", "--config", "/nowhere/c.toml"]).expect(3, "/nowhere/c.toml");
}
