"""Writes NAME.bin for every quantized block type: random blocks, then their values by `gguf`.

Usage: python make.py    (needs the packages gguf and numpy)
"""

import pathlib

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
N_BLOCKS = 4
TYPES = "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split()

random = np.random.default_rng(7)
for name in TYPES:
    kind = gguf.GGMLQuantizationType[name]
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = []
    while len(blocks) < N_BLOCKS:
        block = random.integers(0, 256, size, dtype=np.uint8)
        values = gguf.dequantize(block, kind).astype("<f4")
        if np.isfinite(values).all() and (values != 0).any():
            blocks.append((block.tobytes(), values.tobytes()))
    data = b"".join(b for b, _ in blocks) + b"".join(v for _, v in blocks)
    (HERE / f"{name}.bin").write_bytes(data)
