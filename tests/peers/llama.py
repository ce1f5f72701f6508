"""llama.cpp through PyPI's llama-cpp-python, as the other scripts of this folder use it."""

import ctypes

import llama_cpp as L
import numpy as np

_quiet = None


class Llama:
    """One model and one context.

    Without `repack` weights stay as they are in the file: slower, and without AMX, whose code ends
    with an illegal instruction on virtual machines that name it and do not have it.
    """

    def __init__(self, path, threads, context, batch=512, repack=True):
        global _quiet
        if _quiet is None:
            _quiet = L.llama_log_callback(lambda level, text, data: None)
            L.llama_log_set(_quiet, ctypes.c_void_p(0))
        model = L.llama_model_default_params()
        model.n_gpu_layers = 0
        model.use_extra_bufts = repack
        self.model = L.llama_model_load_from_file(str(path).encode(), model)
        assert self.model, f"llama.cpp cannot open {path}"
        params = L.llama_context_default_params()
        params.n_ctx = context
        params.n_batch = batch
        params.n_ubatch = min(batch, 512)
        params.n_threads = threads
        params.n_threads_batch = threads
        self.context = L.llama_init_from_model(self.model, params)
        self.vocab = L.llama_model_get_vocab(self.model)
        self.n_vocab = L.llama_vocab_n_tokens(self.vocab)
        self.batch = L.llama_batch_init(batch, 0, 1)

    def tokenize(self, text, special=True, parse_special=False):
        """Token ids of `text` (str)."""
        data = text.encode()
        room = len(data) + 16
        ids = (L.llama_token * room)()
        n = L.llama_tokenize(self.vocab, data, len(data), ids, room, special, parse_special)
        assert n >= 0, n
        return list(ids[:n])

    def clear(self):
        """Empties the KV cache."""
        L.llama_memory_clear(L.llama_get_memory(self.context), True)

    def decode(self, ids, from_pos, want_from):
        """Runs `ids` at `from_pos`..; logits are kept for positions >= `want_from`."""
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i] = token
            batch.pos[i] = from_pos + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = from_pos + i >= want_from
        result = L.llama_decode(self.context, batch)
        assert result == 0, result

    def logits(self, index):
        """The logits (n_vocab,) f32 of the batch's row `index` (-1: the last)."""
        pointer = L.llama_get_logits_ith(self.context, index)
        return np.ctypeslib.as_array(pointer, shape=(self.n_vocab,))


def log_softmax(logits):
    """Natural log-probabilities in f64."""
    x = logits.astype(np.float64)
    x -= x.max()
    return x - np.log(np.exp(x).sum())
