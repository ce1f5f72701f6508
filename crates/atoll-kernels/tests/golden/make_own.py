"""Writes NAME.bin for our own block types: random blocks, then their values, by the words of
`src/own.rs` and nothing else of Atoll.

Usage: python make_own.py
"""

import pathlib
import random
import struct

HERE = pathlib.Path(__file__).parent
N_BLOCKS = 4
E3 = [-105, -64, -35, -11, 8, 34, 69, 127]
E4 = [-115, -90, -69, -53, -39, -27, -16, -6, 3, 14, 26, 39, 54, 71, 93, 127]
E5 = [-121, -107, -97, -85, -76, -67, -57, -49, -42, -35, -29, -23, -18, -12, -8, -3]
E5 += [2, 7, 12, 17, 23, 30, 36, 42, 49, 57, 64, 73, 83, 96, 114, 127]
E6 = list(range(-32, 32))


def scale(byte):
    sign, exponent, mantissa = byte >> 7, byte >> 3 & 15, byte & 7
    size = mantissa / 8 * 2**-14 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 15)
    return (-size if sign else size) / 32


def nibble(data, column):
    return data[column % 16] >> (4 if column >= 16 else 0) & 15


def crumb(data, column):
    return data[column % 8] >> 2 * (column // 8) & 3


def bit(data, column):
    return int.from_bytes(data[:4], "little") >> column & 1


TYPES = {
    "E3": (13, E3, lambda data, k: crumb(data, k) | bit(data[8:], k) << 2),
    "E4": (17, E4, nibble),
    "E5": (21, E5, lambda data, k: nibble(data[4:], k) | bit(data, k) << 4),
    "E6": (25, E6, lambda data, k: nibble(data, k) | crumb(data[16:], k) << 4),
}

draw = random.Random(7)
for name, (size, table, code) in TYPES.items():
    blocks = [draw.randbytes(size) for _ in range(N_BLOCKS)]
    values = [scale(b[0]) * table[code(b[1:], k)] for b in blocks for k in range(32)]
    data = b"".join(blocks) + struct.pack(f"<{len(values)}f", *values)
    (HERE / f"{name}.bin").write_bytes(data)
