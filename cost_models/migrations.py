"""Older cost model files in the words of the newest version.

    version 1 ─▶ (newest)

Each released version but the newest has one step, from its own form to that of the next; a file goes through
all steps from its version on and is then read as any other. One file of every version stays in the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

Step = Callable[[dict[str, Any]], dict[str, Any]]
"""Takes the JSON object of one version and returns that of the next, whose version is then set."""

STEPS: Mapping[int, Step] = MappingProxyType({})
"""By the version that a step starts from. Version 1 is the first and the newest: there is no step yet."""


def migrate(
    data: dict[str, Any], version: int, newest: int, steps: Mapping[int, Step] = STEPS
) -> dict[str, Any]:
    """A file of an older version as one of the newest.

    Args:
        data: the JSON object, left as it is.
        version: of it.
        newest: the version that is wanted.
        steps: one for each version before the newest.

    Raises:
        KeyError: there is no step from some version on the way.
    """
    for at in range(version, newest):
        data = {**steps[at](data), "schema_version": at + 1}
    return data
