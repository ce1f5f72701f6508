#!/usr/bin/env python3
"""Measures what compression promises to show, and prints a table with pass or FAIL.

  must_show_compress.py --models DIR --calib TEXT --eval TEXT --work DIR [--peer PYTHON]
                        [--encoder FOLDER] [--only NAME ...]

DIR holds smollm2-135m.gguf, qwen2.5-coder-0.5b.gguf and qwen2.5-coder-1.5b.gguf; what is not there
is reported as skipped. The calibration text must not be the one that results are judged by. In the
work folder stays what was made. Builds nothing: run `cargo build --release` first. All of it takes
hours; --only names parts.
"""

import argparse
import json
import os
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

import curve as curves
from must_show import ATOLL, HERE, row, run, show

SMALL, MIDDLE, LARGE = "smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b"
# Sequences of 512 tokens that each model is calibrated on.
SEQUENCES = {SMALL: 64, MIDDLE: 16, LARGE: 8}
# llama.cpp's quantizer with its importance matrix of the same text: bytes, nats over the first 20
# chunks of 512 tokens (12 of the 1.5B), second halves.
PEERS = {
    SMALL: {
        "Q5_K_M": (112_103_712, 0.0073),
        "Q4_K_M": (105_454_368, 0.0370),
        "Q4_K_S": (102_039_840, 0.0399),
        "Q3_K_M": (93_510_432, 0.0927),
        "IQ4_XS": (90_897_696, 0.1103),
        "IQ3_M": (90_213_408, 0.1439),
    },
    MIDDLE: {
        "Q4_K_M": (491_400_288, 0.0052),
        "Q4_K_S": (479_064_160, 0.0070),
        "IQ4_XS": (425_977_952, 0.0541),
    },
    LARGE: {
        "IQ4_XS": (1_019_711_264, 0.0321),
        "Q3_K_M": (924_456_224, 0.0716),
        "IQ3_M": (876_941_600, 0.0918),
        "IQ3_XXS": (769_069_856, 0.2589),
    },
}
LIMIT_S = 7200
# Of each of two nodes: too little for the whole model and caches, more and more so.
LIGHTER_MB = (96, 92, 88, 85)


def model(args, name, item):
    path = args.models / f"{name}.gguf"
    if path.exists():
        return path
    row(item, name, "no such file", "there", None)
    return None


def written(args, sequences):
    """Options for a text of so many sequences that a small decoder writes."""
    return ("--own-text", sequences, "--writer", args.models / f"{SMALL}.gguf")


def compress(args, path, out, *options, is_given=True):
    """Makes `out` of `path`, by the given text if it is; returns (path of it, report)."""
    made = args.work / out
    common = ["--json"]
    if is_given:
        common += ["--calib", args.calib]
        if "--sequences" not in options:
            common += ["--sequences", SEQUENCES.get(path.stem, 64)]
    return made, run(["compress", path, made, *common, *options], limit=LIMIT_S)[0]


def scored(args, path, *more, chunks=12):
    command = ["eval", path, "--text", args.eval, "--ctx", "512", "--chunks", chunks, "--json"]
    return run([*command, *more], limit=LIMIT_S)[0]


def divergence(args, path, given):
    return scored(args, path, "--against", given)["kl_mean"]


def at_bytes(args, name, kind, most, fewer=1.0):
    """Nats at the bytes of the peer's file of type `kind`, or a share of them."""
    path = model(args, name, 1)
    if path is None:
        return
    size, theirs = PEERS[name][kind]
    allowed = int(size * fewer)
    made, _ = compress(args, path, f"{name}-{allowed}.gguf", "--bytes", allowed)
    nats, taken = divergence(args, made, path), made.stat().st_size
    figure = f"{taken} bytes, {nats:.4f} nats ({nats / theirs:.2f} of its {theirs})"
    what = f"{name} at {fewer:.0%} of {kind}'s {size} bytes"
    row(1, what, figure, f"<= {most:.2f} of its nats", nats <= most * theirs and taken <= allowed)


def budget(args):
    """1: a number of bytes, beside llama.cpp's quantizer."""
    for kind in ("Q3_K_M", "IQ3_M", "IQ3_XXS"):
        at_bytes(args, LARGE, kind, 0.6)
    at_bytes(args, LARGE, "Q3_K_M", 1.0, fewer=0.85)
    for name in (MIDDLE, SMALL):
        at_bytes(args, name, "IQ4_XS", 0.35)


def curve(args):
    """1: from 5.5 to 3.0 bits per weight, as a picture."""
    panels = {}
    for name in (SMALL, MIDDLE):
        path = model(args, name, 1)
        if path is None:
            continue
        given, points = run(["show", path, "--json"])[0], []
        for bits in ("5.5", "5.0", "4.5", "4.0", "3.5", "3.0"):
            options, note = ["--bits", bits, "--sequences", SEQUENCES[name] // 4], ""
            if (name, bits) == (SMALL, "3.0"):
                # All of it in the smallest type has 3.36 bits: neurons go.
                options += ["--prune-neurons", "0.25", "--uneven"]
                note = "without a quarter of its neurons"
            made, _ = compress(args, path, f"curve-{name}-{bits}.gguf", *options)
            size = made.stat().st_size
            nats = scored(args, made, "--against", path, chunks=20)["kl_mean"]
            points.append((8 * size / given["weights"], nats, note))
            row(1, f"{name} in {bits} bits", f"{size} bytes, {nats:.4f} nats", "-", True)
        peers = PEERS[name].items()
        theirs = [(8 * size / given["weights"], nats, ty) for ty, (size, nats) in peers]
        panels[name] = {"ours": points, "theirs": theirs}
    (args.work / "curve.svg").write_text(curves.draw(panels), encoding="utf-8")


def pruned(args):
    """2: neurons removed, by three rules; and the speed that it gives.

    FLAP's rule on the given text is that rule as it was published; on a text that a model wrote,
    about many things, it sees what ours sees.
    """
    path = model(args, MIDDLE, 2)
    if path is None:
        return
    given, rises, made = scored(args, path)["ppl"], {}, None
    own = ["--sequences", "8", *written(args, 16)]
    for name, options in {
        "magnitude": [],
        "flap": [],
        "flap --uneven": [],
        "flap, own text": own,
        "flap --uneven, own text": own,
        "sobs --uneven, own text": own,
    }.items():
        method, *uneven = name.split(",")[0].split()
        # Alike, 4 of 19 blocks of 256 go; as many are to go of layers that differ.
        asked = "0.2105" if uneven else "0.2"
        options = ["--prune-neurons", asked, "--method", method, *uneven, *options]
        out = re.sub("[^a-z]+", "-", f"pruned-{name}") + ".gguf"
        made, report = compress(args, path, out, *options)
        rises[name] = scored(args, made)["ppl"] - given
        share = report["neurons_after_over_before"]
        what = f"{path.stem}, {1 - share:.1%} of neurons removed by {name}"
        row(2, what, f"perplexity {given:.2f} + {rises[name]:.2f}", "-", True)
    for name in rises:
        most = 0.6 if name == "magnitude" else 0.5
        found = rises["sobs --uneven, own text"] / rises[name]
        if not name.startswith("sobs"):
            row(2, f"rise by sobs over that by {name}", f"{found:.2f}", f"<= {most}", found <= most)
    speeds, read = {path: [], made: []}, {}
    for _ in range(5):
        for file, all_speeds in speeds.items():
            command = ["bench", file, "--threads", "1", "--repeat", "1", "--pp", "16", "--json"]
            found = run(command)[0]
            all_speeds.append(found["decode_tokens_per_s"][0])
            read[file] = found["weight_bytes_per_token"]
    gain = statistics.median(b / a for a, b in zip(speeds[path], speeds[made])) - 1
    promised = read[path] / read[made] - 1
    figure = f"{gain:+.1%} speed, {promised:+.1%} by bytes"
    row(2, "decoding it", figure, ">= 0.8 of what bytes promise", gain >= 0.8 * promised)


def encoder(args):
    """3: all-MiniLM-L6-v2."""
    if not args.encoder:
        row(3, "encoder", "no --encoder", "there", None)
        return
    sentences = args.work / "sentences.txt"
    script = [sys.executable, "-B", HERE / "peers/encoder.py", "sentences", args.eval, "500"]
    sentences.write_bytes(subprocess.run(script, capture_output=True, check=True).stdout)
    # Of 4.75 bits 4.5 are tensors: the rest of the file is its tokenizer.
    for name, options, least in (
        ("8 bits", ("--type", "q8_0"), 0.999),
        ("4.5 bits", ("--bits", "4.75"), 0.99),
        ("30 % of neurons", ("--prune-neurons", "0.302", "--uneven", *written(args, 256)), 0.98),
    ):
        is_given = "--writer" not in options
        out = f"encoder-{name[:1]}.gguf"
        made, report = compress(args, args.encoder, out, *options, is_given=is_given)
        command = ["embed", made, "--text", sentences, "--against", args.encoder, "--json"]
        near = run(command)[0]["against"]
        figure = f"{near['cosine_mean']:.4f} mean, {near['cosine_min']:.4f} least"
        figure += f", {report['bytes']} bytes, {report['neurons_after_over_before']:.3f} of neurons"
        row(3, f"cosine, {name}", figure, f">= {least} mean", near["cosine_mean"] >= least)


def unstructured(args):
    """4: half of all weights removed, by three rules."""
    path = model(args, MIDDLE, 4)
    if path is None:
        return
    found = {"given": scored(args, path)["ppl"]}
    for method in ("magnitude", "wanda", "sparsegpt"):
        options = ["--prune-weights", "0.5", "--method", method]
        if method != "magnitude":
            options += ["--sequences", "8", *written(args, 32)]
        made, _ = compress(args, path, f"sparse-{method}.gguf", *options)
        found[method] = scored(args, made)["ppl"]
    figure = ", ".join(f"{name} {ppl:.2f}" for name, ppl in found.items())
    ordered = found["magnitude"] > 2 * found["wanda"] and found["wanda"] >= found["sparsegpt"]
    row(4, f"{path.stem}, half of the weights", figure, "magnitude >> Wanda >= SparseGPT", ordered)


def elastic(args):
    """5: one file at several widths."""
    path = model(args, SMALL, 5)
    if path is None:
        return
    made, report = compress(args, path, "elastic.gguf", "--method", "sobs", "--widths", "0.75,0.5")
    before = None
    for share, width in zip((1.0, 0.75, 0.5), report["widths"]):
        more = [] if share == 1.0 else ["--width", share]
        read = run(["bench", made, "--repeat", "1", "--json", *more])[0]["weight_bytes_per_token"]
        figure = f"{read} bytes per token, {width['kl_mean']:.4f} nats"
        row(5, f"width {share}", figure, "fewer", before is None or read < before)
        before = read


def exported(args):
    """6: what we write, read by llama.cpp."""
    path = model(args, MIDDLE, 6)
    if path is None or not args.peer:
        row(6, "read by llama.cpp", "no --peer or no model", "0.5 %", None)
        return
    for ty in ("q4_0", "q4_k"):
        made, _ = compress(args, path, f"type-{ty}.gguf", "--type", ty)
        command = [args.peer, "-B", HERE / "peers/perplexity.py", made, args.eval]
        command += ["--atoll", ATOLL, "--chunks", "12"]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        off = found["relative_difference"]
        row(6, f"{ty}: perplexity beside llama.cpp's", f"{off:+.2%}", "0.5 %", abs(off) <= 0.005)


def resumed(args):
    """8: the whole way, its time, and again after an end at a random layer."""
    path = model(args, MIDDLE, 8)
    if path is None:
        return
    size = PEERS[MIDDLE]["IQ4_XS"][0] * 3 // 4
    start = time.monotonic()
    whole, _ = compress(args, path, "whole.gguf", "--bytes", size)
    seconds = time.monotonic() - start
    row(8, f"{path.stem} to {size} bytes", f"{seconds:.0f} s", "<= 720 s", seconds <= 720)
    seed = random.randrange(1 << 32)
    layer = random.Random(seed).randrange(1, 23)
    out = args.work / "resumed.gguf"
    command = [ATOLL, "compress", path, out, "--calib", args.calib, "--bytes", size]
    command += ["--sequences", SEQUENCES[MIDDLE]]
    child = subprocess.Popen(list(map(str, command)), stderr=subprocess.DEVNULL)
    done = pathlib.Path(f"{out}.work") / f"layer-{layer}"
    while child.poll() is None and not done.exists():
        time.sleep(0.05)
    child.kill()
    child.wait()
    compress(args, path, out.name, "--bytes", size)
    same = out.read_bytes() == whole.read_bytes()
    figure = "the same bytes" if same else "other bytes"
    row(8, f"killed behind layer {layer} (seed {seed})", figure, "the same", same)


def started(args, data, command):
    """A node; returns its process, and a function that waits for an event of it."""
    full = {k: v for k, v in os.environ.items() if not k.startswith("ATOLL_")}
    full.update({"ATOLL_DATA_DIR": str(data), "ATOLL_CONFIG": "/dev/null"})
    common = ["--no-mdns", "--json", "--listen", "/ip4/127.0.0.1/tcp/0", "--threads", "1"]
    command = [str(ATOLL), *map(str, command), *common]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=full)

    def event(name):
        for line in child.stdout:
            found = json.loads(line)
            if found.get("event") == name:
                return found
        raise RuntimeError(f"{command[1:3]} ended without {name}")

    return child, event


def lighter(args):
    """6 of the planner: two nodes without room for the whole model."""
    path = model(args, SMALL, 6)
    if path is None:
        return
    # Widths are judged by passages of the evaluation text that results are not measured on.
    judge = args.work / "judge.txt"
    judge.write_text(args.eval.read_text(encoding="utf-8")[200_000:], encoding="utf-8")
    options = ["--method", "sobs", "--widths", "0.75,0.5", "--judge", judge]
    options += ["--sequences", "16", *written(args, 32)]
    made, _ = compress(args, path, "lighter.gguf", *options)
    head = ["serve", made, "--api", "none", "--ctx", "256", "--wait", "3"]
    for memory in LIGHTER_MB:
        with tempfile.TemporaryDirectory(prefix="atoll-show-") as data:
            room = ["--memory", memory * 1_000_000]
            other, event = started(args, f"{data}/2", ["up", "--api", "none", *room])
            join = ["--join", event("listening")["addresses"][0]]
            try:
                command = [*head, "--max-loss", "10", *room, *join]
                owner, event = started(args, f"{data}/1", command)
                try:
                    found = event("serving")
                finally:
                    owner.kill()
                    owner.wait()
            finally:
                other.kill()
                other.wait()
        promised, widths = found["loss_nats"], found["widths"]
        width = ["--width", ",".join(f"{width:.3f}" for width in widths)] if widths else []
        nats = scored(args, made, "--against", path, *width)["kl_mean"]
        narrower = sum(width < 1 for width in widths)
        figure = f"{narrower} layers narrower, {promised:.3f} nats promised, {nats:.3f} measured"
        within = abs(nats / promised - 1) <= 0.2
        off = f"{nats / promised - 1:+.0%}"
        row(6, f"two nodes of {memory} MB ({figure})", off, "20 %", within)


PARTS = [budget, curve, pruned, encoder, unstructured, elastic, lighter, exported, resumed]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--models", "--calib", "--eval", "--work"):
        parser.add_argument(name, type=pathlib.Path, required=True)
    parser.add_argument("--peer", help="a Python with llama-cpp-python")
    parser.add_argument("--encoder", type=pathlib.Path, help="the folder of all-MiniLM-L6-v2")
    names = [part.__name__ for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    sys.exit(show([part for part in PARTS if part.__name__ in args.only], args))


if __name__ == "__main__":
    main()
