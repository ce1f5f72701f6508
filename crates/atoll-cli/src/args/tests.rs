use clap::{CommandFactory, Parser};

use super::*;

fn check(line: &str, ok: bool) {
    let parsed = Cli::try_parse_from(line.split(' '));
    assert_eq!(parsed.is_ok(), ok, "{line}: {:?}", parsed.err().map(|e| e.to_string()));
}

#[test]
fn the_surface_is_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn lines_that_are_understood() {
    check("atoll", true);
    check("atoll demo", true);
    check("atoll run m", true);
    check("atoll run m p --json --max-tokens 5 --temp 0 --raw --local", true);
    check("atoll run m - --stages 3 --top-k 40 --top-p 0.9 --min-p 0.05 --seed 7", true);
    check("atoll run m p --presence-penalty -1 --frequency-penalty 0.5", true);
    check("atoll --data-dir d ls --json", true);
    check("atoll up --name a --listen /ip4/127.0.0.1/tcp/0 --join a --join b --no-mdns", true);
    check("atoll up --memory 2GiB --api none --until-stdin-closes", true);
    check("atoll eval m --text f --ctx 512 --chunks 4 --against n", true);
    check("atoll bench m --threads 1 --pp 512 --tg 128 --repeat 5 --json", true);
    check("atoll bench m --kv int8 --batch 4 --context 4096", true);
    check("atoll bench m --vs llama.cpp --peer-python venv/bin/python", true);
    check("atoll eval m --text f --kv int8", true);
    check("atoll plan --fleet f", true);
    check("atoll plan m --api 127.0.0.1:1 --svg f", true);
    check("atoll plan m --fleet f --explain --json --without a --pin 0..2=b --loss 0.05", true);
    check("atoll serve", true);
    check("atoll pull", true);
    check("atoll rm a b", true);
}

#[test]
fn lines_that_are_refused() {
    check("atoll nonsense", false);
    check("atoll bench m --kv int4", false);
    check("atoll bench m --vs another", false);
    check("atoll bench m --batch 0", false);
    check("atoll plan m --fleet f --api 127.0.0.1:1", false);
    check("atoll plan m --fleet f --pin 2..0=b", false);
    check("atoll plan m --fleet f --pin 0..2", false);
    check("atoll plan m --fleet f --loss -1", false);
    check("atoll run", false);
    check("atoll run m p --local --stages 2", false);
    check("atoll run m p --stages 0", false);
    check("atoll run m p --temp -1", false);
    check("atoll run m p --top-p 2", false);
    check("atoll run m p --raw --system s", false);
    check("atoll bench m --threads 0", false);
    check("atoll eval m", false);
    check("atoll rm", false);
    check("atoll serve --api 0.0.0.0:80", false);
}

#[test]
fn help_fits_a_small_screen() {
    let Err(help) = Cli::try_parse_from(["atoll", "--help"]) else { panic!("no help") };
    let help = help.to_string();
    assert!(help.lines().count() <= 24, "{help}");
}
