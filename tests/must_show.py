#!/usr/bin/env python3
"""Measures what the project promises to show, and prints a table with pass or FAIL.

  must_show.py --models DIR [--eval TEXT] [--peer PYTHON] [--openai PYTHON] [--only NAME ...]

DIR holds smollm2-135m.gguf and qwen2.5-coder-0.5b.gguf, and where they are to be compared, too,
what `peers/quantize.py` makes of them (smollm2-135m-Q4_0.gguf and so on). TEXT is the raw
WikiText-2 test set; PYTHON is one that has llama-cpp-python (peers/README.md). What is not given
is reported as skipped.
Builds nothing but test binaries: run `cargo build --release` first.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ATOLL = HERE.parent / "target/release/atoll"
MODELS = ["smollm2-135m", "qwen2.5-coder-0.5b"]
# llama-perplexity, context 512, 40 chunks of the WikiText-2 test set.
WIKITEXT = {"smollm2-135m": 23.586, "qwen2.5-coder-0.5b": 31.867}
# Keys and values of one token in f16: 2 x 2 bytes x layers x heads of keys x their width.
KV_BYTES = {"smollm2-135m": 4 * 30 * 3 * 64, "qwen2.5-coder-0.5b": 4 * 24 * 2 * 64}
TYPES = ["given", "Q4_0", "Q4_K_M", "Q8_0", "F16"]
rows = []


def row(item, what, figure, bound, ok):
    mark = {True: "pass", False: "FAIL", None: "skipped"}[ok]
    rows.append((item, what, figure, bound, mark))
    print(f"[{mark}] {item} {what}: {figure} (wanted: {bound})", file=sys.stderr, flush=True)


def run(args, env=None, limit=1200, data=None, check=True):
    """Runs atoll with a data directory of its own; returns (JSON, seconds, stderr)."""
    own = data or tempfile.mkdtemp(prefix="atoll-show-")
    full = {k: v for k, v in os.environ.items() if not k.startswith("ATOLL_")}
    full.update({"ATOLL_DATA_DIR": own, "ATOLL_CONFIG": "/dev/null", **(env or {})})
    start = time.monotonic()
    command = [str(ATOLL), *map(str, args)]
    done = subprocess.run(command, capture_output=True, env=full, timeout=limit)
    seconds = time.monotonic() - start
    if not data:
        shutil.rmtree(own, ignore_errors=True)
    if check and done.returncode != 0:
        error = done.stderr.decode(errors="replace")[-500:]
        raise RuntimeError(f"{args[:2]} ... exit {done.returncode}: {error}")
    return (json.loads(done.stdout) if done.stdout.startswith(b"{") else {}), seconds, done.stderr


def golden(model):
    with open(HERE / "data" / f"golden-{model}.json", encoding="utf-8") as file:
        return json.load(file)["cases"]


def answer(path, prompt, extra, env=None):
    args = ["run", path, prompt, "--raw", "--temp", "0", "--max-tokens", "64", "--json"]
    return run([*args, *extra], env)[0]


def demo(args):
    """1: the demo, from nothing and from warm."""
    data = tempfile.mkdtemp(prefix="atoll-show-")
    env = {k: v for k, v in os.environ.items() if not k.startswith("ATOLL_")}
    env["ATOLL_DATA_DIR"] = data
    for turn, bound in (("from nothing", None), ("from warm", 3.0)):
        start = time.monotonic()
        command = [str(ATOLL), "demo", "Why is the sky blue?"]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        ) as child:
            first = child.stdout.read(1)
            seconds = time.monotonic() - start
            out, err = child.communicate(timeout=600)
        text = (first + out + err).decode(errors="replace")
        ok = child.returncode == 0 and (bound is None or seconds <= bound)
        row(1, f"demo {turn}: first token", f"{seconds:.2f} s", f"<= {bound or 600} s", ok)
        said = all(re.search(word, text) for word in (r"tokens?/s", r"[µu]s|ms", r"layers?"))
        figure = "shown" if said else text[-300:]
        row(1, f"demo {turn}: placement, speed, hops", figure, "shown", said)
    shutil.rmtree(data, ignore_errors=True)


def equal(args):
    """2: one result, whatever the route."""
    routes = [("--stages", "2"), ("--stages", "3"), ("--stages", "5")]
    routes += [("--local", "--chunk", n) for n in ("1", "7", "64", "4096")]
    for model in MODELS:
        path = args.models / f"{model}.gguf"
        cases = golden(model)
        alone = [answer(path, case["prompt"], ["--local"])["tokens"] for case in cases]
        for route in routes + ["generic"]:
            env = {"ATOLL_KERNELS": "generic"} if route == "generic" else None
            extra = ["--local"] if env else route
            same = 0
            for case, wanted in zip(cases, alone):
                same += answer(path, case["prompt"], extra, env)["tokens"] == wanted
            name = "generic kernels" if env else " ".join(route)
            row(2, f"{model} {name}", f"{same} of {len(cases)} equal", "all", same == len(cases))


def outside(args):
    """3: against llama.cpp."""
    for model in MODELS:
        path = args.models / f"{model}.gguf"
        ids = tokens = worst = 0
        for case in golden(model):
            got = answer(path, case["prompt"], ["--local", "--logprobs", "10"])
            ids += got["prompt_tokens"] == case["prompt_ids"]
            close = next((i for i, gap in enumerate(case["gaps"]) if gap < 0.15), 64)
            tokens += got["tokens"][:close] == case["tokens"][:close]
            ours = {e["id"]: e["logprob"] for e in got["logprobs"][0]["top"]}
            floor = min(ours.values())
            distances = [abs(ours.get(i, floor) - p) for i, p in case["top10"]]
            worst = max(worst, *distances)
        row(3, f"{model} prompt ids", f"{ids} of 3", "all", ids == 3)
        row(3, f"{model} tokens to the first close gap", f"{tokens} of 3", "all", tokens == 3)
        row(3, f"{model} first top-10", f"off by {worst:.3f}", "<= 0.2", worst <= 0.2)
        if not args.eval:
            row(3, f"{model} perplexity", "no --eval", "0.5 %", None)
            continue
        scored = ["eval", path, "--text", args.eval, "--ctx", "512", "--chunks", "40", "--json"]
        ppl = run(scored, limit=3000)[0]["ppl"]
        off = ppl / WIKITEXT[model] - 1
        row(3, f"{model} perplexity", f"{ppl:.3f} ({off:+.2%})", "0.5 %", abs(off) <= 0.005)


def tested(item, *filters):
    """Rows from the end-to-end tests and the figures that they print."""
    command = ["cargo", "test", "--release", "--workspace", "--test", "atoll"]
    command += ["--", "--test-threads=1"]
    done = subprocess.run([*command, *filters], cwd=HERE.parent, capture_output=True, text=True)
    text = done.stdout + done.stderr
    figures = re.findall(r"^FIGURE (.*)$", text, re.M)
    for name, how in re.findall(r"^test (\S+) \.\.\.[^\n]*?(ok|FAILED)?$", text, re.M):
        how = how or ("FAILED" if re.search(rf"^    {name}$", text, re.M) else "ok")
        row(item, name, how, "ok", how == "ok")
    for skipped in re.findall(r"^SKIPPED (.*)$", text, re.M):
        row(item, skipped[:70], "-", "ok", None)
    for figure in figures:
        print(f"         {figure}", file=sys.stderr)


def network(args):
    """4: namespaces."""
    tested(4, "netns::")


def memory(args):
    """5: resident memory."""
    tested(5, "memory::")


def hop(args):
    """6: what a hop adds."""
    path = args.models / "smollm2-135m.gguf"
    script = [sys.executable, "-B", HERE / "peers/hop.py", path, "--atoll", ATOLL]
    done = subprocess.run(script, capture_output=True, check=True)
    for stages in json.loads(done.stdout)["rows"]:
        us = stages["hop_us"]
        what = f"a hop of {stages['stages']} stages"
        span = f"{us:.0f} us [{stages['hop_us_min']:.0f}-{stages['hop_us_max']:.0f}]"
        row(6, what, span, "<= 400 us", us <= 400)


def files(args):
    """The files that speeds and perplexities are promised for: (model, type, path)."""
    for model in MODELS:
        for kind in args.types:
            name = model if kind == "given" else f"{model}-{kind}"
            path = args.models / f"{name}.gguf"
            if path.exists():
                yield model, kind, path
            else:
                row(7, name, "no such file (see peers/quantize.py)", "there", None)


def bench(args, path, threads, *extra, vs=True):
    command = ["bench", path, "--threads", threads, "--repeat", args.pairs, "--json", *extra]
    if vs:
        command += ["--vs", "llama.cpp", "--peer-python", args.peer]
    return run(command)[0]


def ratio_row(name, what, found, bound):
    r = found["vs"][what]
    ours = statistics.median(found[f"{what}_tokens_per_s"])
    peers = statistics.median(r["peer_tokens_per_s"])
    figure = f"{r['ratio']:.2f} x [{r['ratio_min']:.2f}-{r['ratio_max']:.2f}]"
    figure += f" {ours:.0f} / {peers:.0f} tok/s"
    row(7, f"{name} {what}", figure, f">= {bound} x", r["ratio"] >= bound)


def speed(args):
    """7: beside llama.cpp, file by file."""
    if not args.peer:
        row(7, "speed", "no --peer", "faster", None)
        return
    for model, kind, path in files(args):
        for threads in (1, 2):
            found = bench(args, path, threads)
            name = f"{path.stem}, {threads} threads,"
            given, other = ((1.8, 1.4), (1.4, 1.25))
            decode = 1.0 if kind == "F16" else (given if kind == "given" else other)[threads - 1]
            ratio_row(name, "decode", found, decode)
            if kind != "F16":
                default = kind == "given" and model == MODELS[0]
                ratio_row(name, "prefill", found, 4.0 if default else 2.0)
            share = found["decode_share_of_read_bandwidth"]
            bound = (0.75, 0.85)[threads - 1]
            rate = found["read_bandwidth_bytes_per_s"] / 1e9
            span = f"[{found['decode_share_min']:.0%}-{found['decode_share_max']:.0%}]"
            figure = f"{share:.0%} {span} of {rate:.0f} GB/s"
            if model != MODELS[0]:
                row(7, f"{name} read bandwidth", figure, f">= {bound:.0%}", share >= bound)


def context(args):
    """7: decoding at 4,096 tokens of context."""
    if not args.peer:
        row(7, "context", "no --peer", "faster", None)
        return
    for _, _, path in files(args):
        for threads in (1, 2):
            more = ("--context", 4096, "--pp", 16, "--tg", 64)
            name = f"{path.stem}, {threads} threads, at 4,096,"
            ratio_row(name, "decode", bench(args, path, threads, *more), 1.2)


def together(args):
    """7: sequences decoded together, beside one."""
    for _, _, path in files(args):
        for threads in (1, 2):
            for batch, bound in ((4, 2.2), (8, 3.0)):
                more = ("--batch", batch, "--pp", 16, "--tg", 64)
                found = bench(args, path, threads, *more, vs=False)["batch_over_one"]
                name = f"{path.stem}, {threads} threads, {batch} together"
                row(7, name, f"{found:.2f} x one", f">= {bound} x", found >= bound)


def perplexity(args):
    """7: no worse than llama.cpp."""
    if not (args.peer and args.eval):
        row(7, "perplexity", "no --peer or no --eval", "+0.2 %", None)
        return
    for _, _, path in files(args):
        command = [args.peer, "-B", HERE / "peers/perplexity.py", path, args.eval]
        command += ["--atoll", ATOLL, "--chunks", str(args.chunks)]
        done = subprocess.run(command, capture_output=True, check=True)
        found = json.loads(done.stdout)
        off = found["relative_difference"]
        figure = f"{found['atoll']['ppl']:.3f} ({off:+.2%}), {found['llama_cpp']['chunks']} chunks"
        row(7, f"{path.stem} perplexity", figure, "<= +0.2 %", off <= 0.002)


def peak(args):
    """7: most memory of one answer of 64 tokens."""
    for model, kind, path in files(args):
        command = [ATOLL, "run", path, "Tell me a story about the sea.", "--local", "--json"]
        command += ["--temp", "0", "--max-tokens", "64"]
        with tempfile.TemporaryFile() as out:
            child = subprocess.Popen(list(map(str, command)), stdout=out)
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            said = json.load(out)
        most = used.ru_maxrss * 1024
        positions = len(said["prompt_tokens"]) + len(said["tokens"])
        allowed = path.stat().st_size * 1.15 + positions * KV_BYTES[model]
        figure = f"{most / 1e6:.1f} of {allowed / 1e6:.1f} MB"
        row(7, f"{path.stem} peak memory", figure, "file + 15 % + cache", most <= allowed)


def gateway(args):
    """8: the openai package."""
    if args.openai:
        os.environ["ATOLL_TEST_PYTHON"] = args.openai
    tested(8, "gateway::")


def simulator(args):
    """9: the core without IO."""
    command = [ATOLL, "sim", "swarm", "--kind", "calm"]
    command += ["--nodes", "50", "--seeds", "1000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        row(9, "swarm", f"exit {done.returncode} {done.stderr[-300:]}", "0 violations", False)
        return
    report = json.loads(done.stdout.strip().splitlines()[-1])
    said = ", ".join(f"{k} {report[k]}" for k in ("seeds", "events", "faults", "tokens"))
    said += f", complete {report['completed']}, failed {report['failed']}"
    clean = not report["violations"] and not report["failed"]
    whole = clean and report["seeds"] >= 1000
    row(9, "50 nodes, 1,000 seeds", said, "0 violations, none failed", whole)


def namespaces(args):
    """Real nodes in namespaces, killed and stopped in the middle of answers."""
    path = args.models / "smollm2-135m.gguf"
    command = [ATOLL.with_name("netns"), "run", path, "--seed", "1", "--json"]
    command += ["--rounds", str(args.namespace_rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    what = f"{args.namespace_rounds} rounds in namespaces"
    if done.returncode == 8:
        row("P2", what, " ".join(done.stderr.split())[-300:], "0 faults", None)
        return
    found = json.loads(done.stdout)
    row("P2", what, f"{len(found['faults'])} faults", "0 faults", not found["faults"])
    for kind, gap in found["gaps"].items():
        figure = f"p50 {gap['gap_ms_p50']:.0f} ms, p99 {gap['gap_ms_p99']:.0f} ms"
        late = [line for line in found["late"] if line.startswith(f"{kind}:")]
        # Times count only where the machine was not too busy to give any.
        row("P2", f"silence: {kind}", figure, "its limit", not late if found["valid"] else None)


def recovery(args):
    """Stages killed and stopped in the middle of answers."""
    os.environ["ATOLL_RECOVERY_ROUNDS"] = str(args.recovery_rounds)
    tested("P2", "recovery::")


def refusals(args):
    """Bad input and signals."""
    tested("bad", "bad_input::", "signals::")


def bits(args):
    """P1 over whole generations: digests of tokens and logits."""
    for model in MODELS:
        command = ["cargo", "run", "--release", "-q", "-p", "atoll-model", "--example", "bits"]
        command += ["--", args.models / f"{model}.gguf", str(args.bits_tokens)]
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True)
        routes = [json.loads(line) for line in done.stdout.splitlines()]
        for found in routes:
            keys = ("kv", "isa", "threads", "chunk", "batch")
            name = f"{model} " + " ".join(f"{key} {found[key]}" for key in keys)
            figure = f"tokens {found['tokens']} logits {found['logits']}"
            row("P1", name, figure, "as the first", found["equal"])
        if done.returncode != 0 or not routes:
            row("P1", f"{model} all routes", done.stderr[-300:], "exit 0", False)


PARTS = [demo, equal, bits, outside, network, memory, hop, speed, context, together, perplexity]
PARTS += [peak, gateway, simulator, recovery, namespaces, refusals]


def show(parts, args):
    """Runs `parts` and prints the table; returns the exit code."""
    for part in parts:
        try:
            part(args)
        except Exception as error:  # One part that breaks must not hide the others.
            row("-", f"{part.__name__} ({part.__doc__})", f"{error}"[-400:], "to run", False)
    print("| item | what | figure | wanted | |\n|---|---|---|---|---|")
    for cells in rows:
        print("| " + " | ".join(str(cell).replace("|", "/") for cell in cells) + " |")
    return 1 if any(cells[-1] == "FAIL" for cells in rows) else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=pathlib.Path, required=True)
    parser.add_argument("--eval", type=pathlib.Path)
    parser.add_argument("--peer", help="a Python with llama-cpp-python")
    parser.add_argument("--openai", help="a Python with openai")
    parser.add_argument("--bits-tokens", type=int, default=256, help="tokens of each generation")
    help_rounds = "how often each kind of end of a node is tried"
    parser.add_argument("--recovery-rounds", type=int, default=50, help=help_rounds)
    parser.add_argument("--namespace-rounds", type=int, default=40, help="ends of real nodes")
    parser.add_argument("--types", nargs="+", choices=TYPES, default=TYPES)
    parser.add_argument("--pairs", type=int, default=5, help="pairs of runs of each comparison")
    parser.add_argument("--chunks", type=int, default=16, help="chunks of each perplexity")
    names = [part.__name__ for part in PARTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    os.environ["ATOLL_TEST_MODELS"] = str(args.models.resolve())
    sys.exit(show([part for part in PARTS if part.__name__ in args.only], args))


if __name__ == "__main__":
    main()
