"""Files that are whole at any moment, and files that are not to be trusted: writing and reading every format.

Written: a temporary file, fsync, rename, fsync of the folder; or one appended line and fsync. Whenever the
process is killed, a reader finds the old content or the new one.
Read: bounded in size, and every problem is one line with the name of the field.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from calibration_data.errors import InvalidFileError, UsageError

MAX_SHOWN = 200
"""Characters of a field name or message that are shown; both can come from a hostile file."""

LOCK_POLL_S = 0.02
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What file systems without locks say: nobody can be kept out, and nobody is."""

Model = TypeVar("Model", bound=BaseModel)


class Frozen(BaseModel):
    """A part of a file: it cannot be changed, its numbers are finite, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; when this returns, it is on the disk.

    Raises:
        UsageError: the file cannot be written there.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}).", next_step="Choose another place."
        ) from error


def remove_unfinished(path: Path) -> None:
    """Remove what a process that was killed while it wrote this file has left beside it."""
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append one line and return only when it is on the disk.

    A line that an earlier crash tore is cut off first, so that a file never holds half a line.

    Raises:
        UsageError: the file cannot be written there.
    """
    created = not path.exists()
    try:
        with open(path, "ab+") as file:
            _cut_torn_line(file)
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if created:
            sync_folder(path.parent)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be written ({error.strerror}).", next_step="Choose another place."
        ) from error


def read_bounded(path: Path, limit_bytes: int, *, next_step: str = "") -> bytes:
    """The content of a file of at most ``limit_bytes``.

    Raises:
        InvalidFileError: it cannot be read, is larger, or is no regular file (a pipe, a device, a folder).
    """
    try:
        # Opening a pipe would otherwise wait for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            size = os.fstat(descriptor)
            if not stat.S_ISREG(size.st_mode):
                raise InvalidFileError(path, "it is no regular file", next_step=next_step)
            data = file.read(limit_bytes + 1) if size.st_size <= limit_bytes else None
    except (OSError, ValueError) as error:
        # ValueError: the name holds a null character.
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidFileError(path, f"cannot be read ({problem})", next_step=next_step) from error
    if data is None or len(data) > limit_bytes:
        raise InvalidFileError(path, f"it is larger than {limit_bytes} bytes")
    return data


def parse_model(
    path: Path,
    data: bytes | str,
    model: type[Model],
    *,
    where: str = "",
    next_step: str = "",
    strict: bool = False,
) -> Model:
    """Validate JSON against a model.

    Args:
        path: file that it came from, for the error.
        data: the JSON.
        model: what it must be.
        where: what part of the file it is, such as ``line 3: ``.
        next_step: what to do where it is not.
        strict: whether values must already have their types.

    Raises:
        InvalidFileError: it is no JSON or breaks the model.
    """
    try:
        return model.model_validate_json(data, strict=strict)
    except ValidationError as error:
        problem = where + describe_validation_error(error)
        raise InvalidFileError(path, problem, next_step=next_step) from error


def read_model(
    path: Path, model: type[Model], *, limit_bytes: int, next_step: str = "", strict: bool = False
) -> Model:
    """A JSON file of at most ``limit_bytes`` as a model.

    Raises:
        InvalidFileError: it cannot be read, is larger, is no JSON or breaks the model.
    """
    return parse_model(path, read_bounded(path, limit_bytes, next_step=next_step), model, strict=strict)


def describe_validation_error(error: ValidationError) -> str:
    """The first problem of a pydantic error in one short line, with the name of the field."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])[:MAX_SHOWN]
    message = str(first["msg"]).removeprefix("Value error, ")[:MAX_SHOWN]
    return f"field {field!r}: {message}" if field else message


def _cut_torn_line(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone_in(folder: Path, *, other: str, next_step: str, patience_s: float = 0.0) -> Iterator[None]:
    """Keep every other process that asks for the same out of a folder, which is made if it is not there.

    The lock ends with the process, however it ends.

    Args:
        folder: to be alone in.
        other: who has the folder, if somebody has, as in ``Another server is at work``.
        next_step: what to do then.
        patience_s: how long to wait for a process that is ending.

    Raises:
        UsageError: another process has it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(
            f"{folder} cannot be made ({error.strerror}).", next_step="Choose another folder."
        ) from error
    try:
        deadline_s = time.monotonic() + patience_s
        while not _locked(descriptor):
            if time.monotonic() >= deadline_s:
                raise UsageError(f"{other} in {folder}.", next_step=next_step)
            time.sleep(LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True
