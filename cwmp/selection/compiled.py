"""How kernels are compiled: when first called, without the interpreter lock, and kept on disk.

The compiler's own cache looks at the file of a kernel only, not at those of the functions that the kernel
calls. So the folder of the cache is named after the contents of this whole room.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core import config

F = TypeVar("F", bound=Callable[..., object])


def _folder() -> Path:
    room = Path(__file__).parent
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(room.glob("*.py"))))
    return room / "__pycache__" / f"kernels-{digest.hexdigest()[:12]}"


_FOLDER = _folder()


def compiled(function: F) -> F:
    """Compile a function when it is first called with new types; threads run it at the same time."""
    return _compiled(function, fastmath=False)


def summing(function: F) -> F:
    """The same for sums of floats in any order, so that they can be taken in lanes."""
    return _compiled(function, fastmath={"reassoc", "contract"})


def _compiled(function: F, **options: Any) -> F:
    try:
        _FOLDER.mkdir(parents=True, exist_ok=True)
    except OSError:  # an installation that cannot be written: compiled in every process
        return cast(F, numba.njit(nogil=True, **options)(function))
    settings = vars(config)
    others = settings["CACHE_DIR"]
    settings["CACHE_DIR"] = str(_FOLDER)
    try:
        return cast(F, numba.njit(nogil=True, cache=True, **options)(function))
    finally:
        settings["CACHE_DIR"] = others
