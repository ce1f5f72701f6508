//! A file of several widths, made and run, and served where there is no room for it whole.

use std::fs;
use std::io::{BufRead, BufReader};

use atoll_model::{Architecture, BlockType, ModelConfig, tiny};
use serde_json::Value;

use crate::atoll::{Atoll, Finished};

const WORDS: &str = "the tide comes in and out, islands!\na boat's ring of coral and a light ";

/// A tiny model that runs whole and at half of its width, 0.8 MB of layers.
fn elastic(atoll: &Atoll) -> String {
    let at = |name: &str| atoll.dir.path().join(name).to_str().unwrap().to_owned();
    let small = tiny::config(Architecture::Llama);
    let config = ModelConfig { ffn_dim: small.ffn_dim * 8, ..small };
    let (given, made) = (at("given.gguf"), at("elastic.gguf"));
    fs::write(&given, tiny::random_model(&config, BlockType::Q8_0, 3)).unwrap();
    fs::write(at("text"), WORDS.repeat(40)).unwrap();
    fs::write(at("judge"), WORDS.to_uppercase().repeat(40)).unwrap();
    let (text, judge) = (at("text"), at("judge"));
    let base = ["compress", &given, &made, "--calib", &text, "--widths", "0.5"];
    let report = atoll.run(&[&base[..], &["--judge", &judge, "--json"]].concat());
    let report = report.expect(0, "").json();
    assert_eq!(report["steps"].as_array().unwrap().len(), 4, "{report}");
    let lone = ["compress", &given, &made, "--calib", &text, "--judge", &judge];
    atoll.run(&lone).expect(2, "--widths");
    made
}

/// `atoll serve` of it in so much memory, until it serves or ends.
fn serve(atoll: &Atoll, made: &str, memory: &str, more: &[&str]) -> Result<Value, Finished> {
    let base = ["serve", made, "--no-mdns", "--api", "none", "--listen", "/ip4/127.0.0.1/tcp/0"];
    let room = ["--json", "--wait", "0", "--ctx", "16", "--memory", memory];
    let mut child = atoll.command(&[&base[..], &room, more].concat()).spawn().unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let event: Value = serde_json::from_str(&line.unwrap()).unwrap();
        if event["event"] == "serving" {
            child.kill().unwrap();
            child.wait().unwrap();
            return Ok(event);
        }
    }
    Err(Finished::of(&child.wait_with_output().unwrap()))
}

#[test]
fn a_model_is_served_with_narrower_layers_where_that_is_allowed() {
    let atoll = Atoll::new();
    let made = elastic(&atoll);
    let shown = atoll.run(&["show", &made, "--json"]).json();
    let [whole, half] = [0, 1].map(|idx| shown["widths"][idx]["bytes"].as_u64().unwrap());
    assert!(whole > half + 200_000, "{shown}");
    // Caches of 16 positions for 16 sessions take 128 KiB.
    let memory = (half + (whole - half) / 2 + 200_000).to_string();

    let refused = serve(&atoll, &made, &memory, &[]).unwrap_err();
    refused.expect(6, "cannot be placed whole");
    let hint = refused.stderr.split("--max-loss ").nth(1).unwrap().split(',').next().unwrap();
    serve(&atoll, &made, &memory, &["--max-loss", "0"]).unwrap_err().expect(6, "--max-loss");

    let served = serve(&atoll, &made, &memory, &["--max-loss", hint]).unwrap();
    let widths: Vec<f64> =
        served["widths"].as_array().unwrap().iter().map(|width| width.as_f64().unwrap()).collect();
    assert!(widths.contains(&0.5) && widths.contains(&1.0), "{served}");
    assert!(served["loss_nats"].as_f64().unwrap() <= hint.parse().unwrap(), "{served}");

    // The same here, and what it is away from the model as given.
    let widths = widths.iter().map(|width| format!("{width:.3}")).collect::<Vec<_>>().join(",");
    let run = ["run", &made, "tide", "--raw", "--local", "--max-tokens", "3", "--json", "--width"];
    assert_eq!(atoll.run(&[&run[..], &[&widths]].concat()).json()["schema"], "atoll.run/1");
    atoll.run(&[&run[..], &["1,0.5"]].concat()).expect(2, "2 widths for 4 layers");
    atoll.run(&[&run[..], &["0.7"]].concat()).expect(2, "no width 0.7");
    let text = atoll.dir.path().join("judge");
    let eval = ["eval", &made, "--text", text.to_str().unwrap(), "--against", &made, "--json"];
    let narrow = atoll.run(&[&eval[..], &["--width", &widths]].concat()).json();
    assert!(narrow["kl_mean"].as_f64().unwrap() > 0.0, "{narrow}");

    assert!(serve(&atoll, &made, "1GiB", &[]).unwrap()["widths"].as_array().unwrap().is_empty());
    let tight = serve(&atoll, &made, "100000", &["--max-loss", "99"]).unwrap_err();
    tight.expect(6, "the model cannot be placed");
    assert!(!tight.stderr.contains("--max-loss"), "{tight:?}");
}
