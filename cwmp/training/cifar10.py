"""CIFAR-10 from disk, as its authors publish it or as folders of images.

    DIR/cifar-10-batches-py/data_batch_1 … data_batch_5, test_batch      or these files in DIR itself
    DIR/train/<class>/*.png  DIR/test/<class>/*.png                      or .jpg, .jpeg

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009: 50,000 training and 10,000 test
images of 32x32 pixels in ten classes. The official files are pickles, which could run any code: they are read
by an unpickler that builds Python's own containers and what stands for an array, and refuses everything else.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration_data import InvalidFileError, UsageError
from calibration_data.files import read_bounded

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
"""In the order of the official labels."""

IMAGE_SHAPE = (3, 32, 32)
BATCHES = {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)}
BATCH_FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
MAX_BATCH_BYTES = 64_000_000
"""Twice an official batch."""

NEWEST_PROTOCOL = 4
"""Of the pickles that are read; the official ones are of protocol 2."""

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images whose pixels are read once it is known which of them are needed.

    Attributes:
        labels: class of each image, shape (n,), int64.
        read: pixels of some images by their indices, shape (n_chosen, 3, 32, 32), uint8.
    """

    labels: NDArray[np.int64]
    read: Callable[[NDArray[np.int64]], Pixels]


def open_cifar10(folder: Path | None) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images of a folder.

    Args:
        folder: holds the official batches, or the folder of them, or class folders of images.

    Raises:
        UsageError: the data set is not there, or parts of it are missing; the message names them.
        InvalidFileError: a batch or, once it is read, an image is broken.
    """
    if folder is None:
        raise UsageError(
            "The data set cifar10 needs a folder.",
            next_step=f"Set data_dir to the unpacked {BATCH_FOLDER}, or to a folder with train/<class>/*.png"
            " and test/<class>/*.png.",
        )
    for place in (folder, folder / BATCH_FOLDER):
        if any((place / name).exists() for names in BATCHES.values() for name in names):
            return _official(place)
    if any((folder / part).is_dir() for part in BATCHES):
        train, test = (_class_folders(folder, part) for part in BATCHES)
        return train, test
    packed = f" {ARCHIVE} is there, but not unpacked." if (folder / ARCHIVE).exists() else ""
    raise UsageError(
        f"There is no CIFAR-10 in {folder}: looked for data_batch_1 … data_batch_5 and test_batch in it and"
        f" in {folder / BATCH_FOLDER}, and for the class folders train and test.{packed}",
        next_step=f"Unpack {ARCHIVE} there (tar -xzf), or set data_dir to where the images are.",
    )


def _official(place: Path) -> tuple[LabelledImages, LabelledImages]:
    """All images of the official batches; their pixels are in memory from the beginning."""
    missing = [name for names in BATCHES.values() for name in names if not (place / name).is_file()]
    if missing:
        raise UsageError(
            f"CIFAR-10 in {place} is not whole: {', '.join(missing)} missing.",
            next_step=f"Unpack {ARCHIVE} again.",
        )
    train, test = (_joined([_read_batch(place / name) for name in names]) for names in BATCHES.values())
    return train, test


def _joined(batches: Sequence[tuple[Pixels, NDArray[np.int64]]]) -> LabelledImages:
    pixels = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([classes for _, classes in batches])
    return LabelledImages(labels=labels, read=lambda indices: pixels[indices])


class _Dtype:
    """Stands for a number format: its name.

    The rest of a format's state is not read, for it could make numpy take bytes for addresses.
    """

    def __init__(self, name: object, *options: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Nothing of it is needed."""


class _Array:
    """Stands for a numpy array: what its pickle says of it, not believed yet."""

    def __init__(self, *arguments: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        """Version, shape, format, whether columns come first, and the bytes."""
        self.state = state


_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds what stands for arrays, and containers; no other name in the file is looked up."""

    def find_class(self, module: str, name: str) -> Any:
        """The object behind a name of the pickle."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch needs")
        return _ALLOWED[module, name]


def _check_opcodes(data: bytes) -> None:
    """Refuse a pickle that is torn, or newer than any batch.

    Buffers of protocol 5 are allocated by what they declare, before it is known whether they are there.
    """
    if any(opcode.proto > NEWEST_PROTOCOL for opcode, _, _ in pickletools.genops(data)):
        raise pickle.UnpicklingError(f"its protocol is newer than {NEWEST_PROTOCOL}")


def _read_batch(path: Path) -> tuple[Pixels, NDArray[np.int64]]:
    """Pixels, shape (n, 3, 32, 32), and labels, shape (n,), of one official batch."""
    data = read_bounded(path, MAX_BATCH_BYTES)
    try:
        _check_opcodes(data)
        batch = _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
        array, labels = batch[b"data"], np.asarray(batch[b"labels"], dtype=np.int64)
        pixels = _bytes_of(array) if isinstance(array, _Array) else None
    except Exception as error:  # A torn or hostile pickle can raise anything.
        raise InvalidFileError(
            path, f"is no whole batch of CIFAR-10 ({error!r})", next_step=f"Unpack {ARCHIVE} again."
        ) from error
    if pixels is None or pixels.shape != (len(labels), 3072):
        raise InvalidFileError(path, f"its data are no {len(labels)} images of 3x32x32 bytes")
    if labels.ndim != 1 or labels.size == 0 or labels.min() < 0 or labels.max() >= len(CLASSES):
        raise InvalidFileError(path, f"its labels are not all from 0 to {len(CLASSES) - 1}")
    return pixels.reshape(-1, *IMAGE_SHAPE), labels


def _bytes_of(array: _Array) -> Pixels | None:
    """An array of bytes, row after row; None of any other format."""
    _, shape, dtype, by_columns, content = array.state
    if dtype.name not in (b"u1", "u1") or by_columns:
        return None
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _class_folders(folder: Path, part: str) -> LabelledImages:
    """Images of one part, by class and then by file name."""
    found = sorted(entry.name for entry in folder.glob(f"{part}/[!.]*") if entry.is_dir())
    missing, unknown = sorted(set(CLASSES) - set(found)), sorted(set(found) - set(CLASSES))
    if missing or unknown:
        problems = [f"{', '.join(missing)} missing"] if missing else []
        problems += [f"{', '.join(unknown)} unknown"] if unknown else []
        raise UsageError(
            f"The class folders in {folder / part} are not those of CIFAR-10: {'; '.join(problems)}.",
            next_step=f"Name them {', '.join(CLASSES)}.",
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(CLASSES):
        images = sorted(
            path for path in (folder / part / name).glob("[!.]*") if path.suffix.lower() in IMAGE_SUFFIXES
        )
        if not images:
            raise UsageError(
                f"{folder / part / name} holds no JPEG or PNG image.", next_step="Unpack the images again."
            )
        paths += images
        labels += [label] * len(images)
    return LabelledImages(labels=np.asarray(labels), read=lambda indices: _decoded(paths, indices))


def _decoded(paths: Sequence[Path], indices: NDArray[np.int64]) -> Pixels:
    """Pixels of image files; decoding releases Python's lock, so threads help."""
    pixels = np.empty((len(indices), *IMAGE_SHAPE), np.uint8)
    with ThreadPoolExecutor() as pool:
        for row, image in enumerate(pool.map(lambda index: _decode(paths[index]), indices)):
            pixels[row] = image
    return pixels


def _decode(path: Path) -> Pixels:
    from PIL import Image

    _, height, width = IMAGE_SHAPE
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            if image.size != (width, height):
                raise InvalidFileError(
                    path, f"is an image of {image.width}x{image.height} pixels, not {width}x{height}"
                )
            return np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidFileError(
            path, f"is no whole image ({error})", next_step="Copy or unpack it again."
        ) from error
