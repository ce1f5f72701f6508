"""llama.cpp, through an installed llama-cpp-python, does what `atoll bench` does, in turns with it.

Arguments: MODEL THREADS POSITIONS SEQUENCES KV. One JSON object per line comes in (see `Work` in
atoll-model's bench.rs) and one goes out, with the seconds that it took; the first line out says
that the model is loaded.
"""

import ctypes
import json
import sys
import time

import llama_cpp as lc

model_path, kv = sys.argv[1], sys.argv[5]
threads, positions, sequences = map(int, sys.argv[2:5])
hush = lc.llama_log_callback(lambda level, text, data: None)
lc.llama_log_set(hush, ctypes.c_void_p(0))

model_params = lc.llama_model_default_params()
model_params.n_gpu_layers = 0
model = lc.llama_model_load_from_file(model_path.encode(), model_params)
if not model:
    sys.exit(f"llama.cpp cannot open {model_path}")
# One sequence more than decode together: prompts are timed in it, so that contexts stay.
SPARE = sequences
CHUNK = 2048
params = lc.llama_context_default_params()
params.n_ctx = (sequences + 1) * (-(-positions // 256) * 256)
params.n_seq_max = sequences + 1
params.n_batch = CHUNK
params.n_threads = params.n_threads_batch = threads
if kv == "int8":
    params.type_k = params.type_v = lc.GGML_TYPE_Q8_0
batch = lc.llama_batch_init(CHUNK, 0, 1)


class Way:
    """A context with or without flash attention, and what its sequences hold."""

    def __init__(self, flash_attention):
        params.flash_attn_type = int(flash_attention)
        self.context = lc.llama_init_from_model(model, params)
        self.memory = lc.llama_get_memory(self.context) if self.context else None
        self.known = {}

    def forward(self, rows):
        """Takes (token, position, sequence, whether logits are wanted) through the model."""
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        code = lc.llama_decode(self.context, batch)
        if code != 0:
            sys.exit(f"llama_decode returned {code}")

    def fill(self, sequence, tokens, last_wanted):
        for first in range(0, len(tokens), CHUNK):
            rows = enumerate(tokens[first : first + CHUNK], first)
            last = len(tokens) - 1
            self.forward([(token, i, sequence, last_wanted and i == last) for i, token in rows])
        lc.llama_synchronize(self.context)

    def prefill(self, tokens):
        lc.llama_memory_seq_rm(self.memory, SPARE, -1, -1)
        start = time.perf_counter()
        self.fill(SPARE, tokens, True)
        return time.perf_counter() - start

    def decode(self, contexts, tokens):
        for sequence, wanted in enumerate(contexts):
            if self.known.get(sequence) == wanted:
                lc.llama_memory_seq_rm(self.memory, sequence, len(wanted), -1)
            else:
                lc.llama_memory_seq_rm(self.memory, sequence, -1, -1)
                self.fill(sequence, wanted, False)
                self.known[sequence] = wanted
        start = time.perf_counter()
        for i in range(len(tokens[0])):
            rows = enumerate(zip(tokens, contexts))
            self.forward([(t[i], len(c) + i, s, True) for s, (t, c) in rows])
            lc.llama_synchronize(self.context)
        return time.perf_counter() - start

    def seconds(self, work):
        if work["work"] == "prefill":
            return self.prefill(work["tokens"])
        return self.decode(work["contexts"], work["tokens"])


# Which way is faster differs: without flash attention one token behind 4,096 is three times as
# fast on some processors. Each kind of work is done both ways once, then in the faster.
ways = [way for way in map(Way, (False, True)) if way.context]
if not ways:
    sys.exit("llama.cpp cannot make a context for that many tokens")
faster = {}

print(json.dumps({"name": "llama.cpp", "version": lc.__version__}), flush=True)
for line in sys.stdin:
    work = json.loads(line)
    kind = (work["work"], len(work.get("contexts", ())))
    if kind in faster:
        seconds = faster[kind].seconds(work)
    else:
        tried = [(way.seconds(work), at) for at, way in enumerate(ways)]
        seconds, at = min(tried)
        faster[kind] = ways[at]
    print(json.dumps({"seconds": seconds}), flush=True)
