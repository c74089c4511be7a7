"""Every random draw gets its own seed, derived from what it is for.

A draw that depends only on (seed, purpose, round, client) needs no generator state in a checkpoint: a
resumed run makes the same draws as an uninterrupted one.
"""

from __future__ import annotations

import hashlib
from typing import Literal

Purpose = Literal["split", "samples", "partition", "network", "participants", "local", "randomk", "device"]


def derived_seed(seed: int, purpose: Purpose, *, round_index: int = 0, client: int = 0) -> int:
    """A seed in [0, 2³²) that differs for every purpose, round and client.

    Independent of the platform and of Python's hash seed: the first four bytes of a SHA-256.
    """
    text = f"calijoule/{seed}/{purpose}/{round_index}/{client}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
