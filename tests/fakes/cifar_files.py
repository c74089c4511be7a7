"""CIFAR-10 on disk in miniature: batches as Python 2 pickled them, and class folders of images."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from PIL import Image

from cwmp.training.cifar10 import CLASSES


def write_batches(folder: Path, images_per_batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The six official files; returns pixels of each, shape (n, 3072). Labels go round all classes."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    written = {}
    for name in names:
        pixels = rng.integers(0, 256, (images_per_batch, 3072)).astype(np.uint8)
        labels = [index % len(CLASSES) for index in range(images_per_batch)]
        (folder / name).write_bytes(python_2_pickle(pixels, labels))
        written[name] = pixels
    return written


def write_class_folders(folder: Path, images_per_class: int, rng: np.random.Generator) -> None:
    """PNG images with random pixels, in train/<class> and test/<class>."""
    for part in ("train", "test"):
        for name in CLASSES:
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(images_per_class):
                pixels = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")


def python_2_pickle(pixels: np.ndarray, labels: list[int]) -> bytes:
    """The dictionary of a batch in protocol 2, with the byte strings and old module names of Python 2."""
    dtype = _name("numpy", "dtype") + _string(b"u1") + b"K\x00K\x01\x87R"
    # State of a dtype: version 3, no byte order, not structured, sizes by default, no flags.
    dtype += b"(K\x03" + _string(b"|") + b"NNN" + _integer(-1) + _integer(-1) + b"K\x00tb"
    array = _name("numpy.core.multiarray", "_reconstruct") + _name("numpy", "ndarray")
    array += b"K\x00\x85" + _string(b"b") + b"\x87R"
    # State of an array: version 1, shape, dtype, C order, bytes.
    shape = _integer(pixels.shape[0]) + _integer(pixels.shape[1]) + b"\x86"
    array += b"(K\x01" + shape + dtype + b"\x89" + _string(pixels.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(_integer, labels)) + b"e"
    items = _string(b"batch_label") + _string(b"a batch") + _string(b"labels") + listed
    return b"\x80\x02}(" + items + _string(b"data") + array + b"u."


def _name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _string(value: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(value)) + value
