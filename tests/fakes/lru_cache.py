"""A cache of least recently used lines, write-back and write-allocate; counts the bytes below it."""

from __future__ import annotations

from collections import OrderedDict


class Cache:
    """``lines`` lines above another cache, or above memory."""

    def __init__(self, lines: int, below: Cache | None, line_bytes: int = 64) -> None:
        self.capacity, self.below, self.line_bytes = lines, below, line_bytes
        self.dirty: OrderedDict[int, bool] = OrderedDict()
        self.read_bytes = self.written_bytes = 0

    def access(self, line: int, *, write: bool) -> None:
        if line not in self.dirty:
            self.read_bytes += self.line_bytes
            if self.below:
                self.below.access(line, write=False)
            if len(self.dirty) == self.capacity:
                victim, was_dirty = self.dirty.popitem(last=False)
                if was_dirty:
                    self.written_bytes += self.line_bytes
                    if self.below:
                        self.below.access(victim, write=True)
            self.dirty[line] = False
        self.dirty[line] = self.dirty[line] or write
        self.dirty.move_to_end(line)
