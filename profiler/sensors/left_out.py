"""What a sensor found and does not read, and why: an absence is always said, never silent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A counter that is not read.

    Attributes:
        source: the folder, file or GPU that it belongs to.
        reason: why its joules are not counted.
    """

    source: str
    reason: str
