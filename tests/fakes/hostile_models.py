"""Cost model files that nobody should have to trust: valid ones, mutated by a seeded stream of accidents.

Run as a program it puts every case before every command in one process, one line of JSON for each; the heavy
files, on which every command spends a second to read and refuse them, before the last commands only if asked:

    python -m fakes.hostile_models FOLDER CASES SEED [heavy]
"""

from __future__ import annotations

import copy
import io
import json
import math
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from cost_models.store import MAX_FILE_BYTES

PATIENCE_S = 30
ROOT = Path(__file__).resolve().parent.parent.parent
GOOD = {
    "simulated": ROOT / "tests" / "golden" / "cost-model-v1.json",
    "literature": ROOT / "cost_models" / "published" / "a100.json",
}

Case = tuple[str, Path]
"""What was done, and the file."""

_NUMBERS = (
    0, -1, 0.0, -0.0, 5e-324, 1e-300, 1e-25, 1e9, 1e18, 1.8e308, 10**40, 2**63, -(2**63), 10**400,
    True,
)  # fmt: skip
_TEXTS = (
    "", "x" * 201, "x" * 2001, "\x1b]0;owned\x07", "[red]a[/]", "\u202e", "../../etc/passwd", "NaN",
    "1e5", "J/B",
)  # fmt: skip
_RAW = (
    "NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "[" * 50_000, '{"a":' * 50_000, '"\\ud800"',
    "0x10", "'a'",
)  # fmt: skip


def hostile_files(folder: Path, cases: int, seed: int) -> Iterator[Case]:
    """Write mutated cost models one after the other; the odd places of a file system come first."""
    yield from _odd_places(folder)
    rng = random.Random(seed)
    good = {name: json.loads(path.read_text()) for name, path in GOOD.items()}
    for number in range(cases):
        name, mutate = rng.choice(sorted(good)), rng.choice(_MUTATIONS)
        path = folder / f"case-{number}.json"
        path.write_bytes(mutate(rng, copy.deepcopy(good[name])))
        yield f"{number} {mutate.__name__.strip('_')} of {name}", path
        path.unlink()


def _odd_places(folder: Path) -> Iterator[Case]:
    yield "nothing there", folder / "missing.json"
    yield "a folder", folder
    os.mkfifo(folder / "pipe")
    yield "a pipe that nobody writes to", folder / "pipe"
    (folder / "loop").symlink_to(folder / "loop")
    yield "a link to itself", folder / "loop"
    (folder / "round").symlink_to(folder / "trip")
    (folder / "trip").symlink_to(folder / "round")
    yield "two links to each other", folder / "round"
    (folder / "zeros").symlink_to("/dev/zero")
    yield "an endless device", folder / "zeros"
    yield "a name that is too long", folder / ("x" * 300)
    yield "published:../../../etc/passwd", Path("published:../../../etc/passwd")


def heavy_files(folder: Path) -> Iterator[Case]:
    path = folder / "heavy.json"
    with open(path, "wb") as file:
        file.truncate(200_000_000)
    yield "200 MB of nothing", path
    for what, brick in (("lists", b"[],"), ("objects", b"{},"), ("numbers", b"0,"), ("texts", b'"",')):
        path.write_bytes(b"[" + brick * ((MAX_FILE_BYTES - 10) // len(brick)) + b"0]")
        yield f"as many {what} as fit", path
    keys = b",".join(b'"%d":0' % number for number in range(MAX_FILE_BYTES // 12))
    path.write_bytes(b"{" + keys + b"}")
    yield "as many keys as fit", path
    good = json.loads(GOOD["simulated"].read_text())
    for place in ("coefficients", "records_sha256", "domains"):
        path.write_text(json.dumps({**good, place: [*good[place], *["a" * 64] * 50_000]}))
        yield f"a long list of {place}", path
    path.write_text(
        json.dumps(good | {"covariance": {"names": ["idle_w"] * 64, "matrix": [[1.0] * 300] * 1000}})
    )
    yield "a large matrix", path
    path.unlink()


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list):
        children = list(enumerate(value))
    return [at, *(place for key, child in children for place in _places(child, (*at, key)))]


def _holder(document: dict[str, Any], rng: random.Random) -> tuple[Any, Any]:
    place = rng.choice([place for place in _places(document) if place])
    holder: Any = document
    for key in place[:-1]:
        holder = holder[key]
    return holder, place[-1]


def _dumped(document: Any) -> bytes:
    return json.dumps(document).encode()


def _remove(rng: random.Random, document: dict[str, Any]) -> bytes:
    holder, key = _holder(document, rng)
    del holder[key]
    return _dumped(document)


def _number(rng: random.Random, document: dict[str, Any]) -> bytes:
    holder, key = _holder(document, rng)
    holder[key] = rng.choice(_NUMBERS)
    return _dumped(document)


def _text(rng: random.Random, document: dict[str, Any]) -> bytes:
    holder, key = _holder(document, rng)
    holder[key] = rng.choice(_TEXTS)
    return _dumped(document)


def _other_type(rng: random.Random, document: dict[str, Any]) -> bytes:
    holder, key = _holder(document, rng)
    holder[key] = rng.choice((None, [], {}, [[[]]], {"value": 1.0}, [1.0] * 1000, {"x" * 300: None}))
    return _dumped(document)


def _swap(rng: random.Random, document: dict[str, Any]) -> bytes:
    (one, a), (other, b) = _holder(document, rng), _holder(document, rng)
    one[a], other[b] = copy.deepcopy(other[b]), copy.deepcopy(one[a])
    return _dumped(document)


def _twice(rng: random.Random, document: dict[str, Any]) -> bytes:
    holder, key = _holder(document, rng)
    if isinstance(holder, list):
        holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(holder[key]))
        return _dumped(document)
    text = json.dumps(document)
    at = text.index(json.dumps(key) + ":")
    return (text[:at] + f"{json.dumps(key)}: 0, " + text[at:]).encode()


def _extra_key(rng: random.Random, document: dict[str, Any]) -> bytes:
    holder, _ = _holder(document, rng)
    target = holder if isinstance(holder, dict) else document
    target[rng.choice(("comment", "__proto__", "", "a\nb", "x" * 100_000, "\x1b[31m"))] = rng.choice(_TEXTS)
    return _dumped(document)


def _raw(rng: random.Random, document: dict[str, Any]) -> bytes:
    holder, key = _holder(document, rng)
    holder[key] = "@here@"
    return json.dumps(document).replace('"@here@"', rng.choice(_RAW), 1).encode()


def _unit(rng: random.Random, document: dict[str, Any]) -> bytes:
    item = rng.choice(document["coefficients"])
    item["unit"] = rng.choice(("J", "pJ/B", "W", "J/FLOP", "j/b", "J/B ", "kWh"))
    return _dumped(document)


def _status(rng: random.Random, document: dict[str, Any]) -> bytes:
    item = rng.choice(document["coefficients"])
    item["status"] = rng.choice(("identified", "bounded", "refused", "measured", ""))
    return _dumped(document)


def _torn(rng: random.Random, document: dict[str, Any]) -> bytes:
    data = _dumped(document)
    return data[: rng.randrange(len(data))]


def _flipped(rng: random.Random, document: dict[str, Any]) -> bytes:
    data = bytearray(_dumped(document))
    for _ in range(rng.choice((1, 1, 3, 30))):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _encoded(rng: random.Random, document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode(rng.choice(("utf-16", "utf-32", "utf-8-sig", "cp037", "utf-7")))


def _nested(rng: random.Random, document: dict[str, Any]) -> bytes:
    holder, key = _holder(document, rng)
    depth = rng.choice((50, 900, 20_000))
    holder[key] = "@here@"
    opened, closed = rng.choice((("[", "]"), ('{"a":', "}")))
    return json.dumps(document).replace('"@here@"', opened * depth + "0" + closed * depth, 1).encode()


def _scaled(rng: random.Random, document: dict[str, Any]) -> bytes:
    """Consistent, so that it can pass as valid: every cost multiplied, with its uncertainty and interval."""
    factor = 10.0 ** rng.choice((-300, -160, -100, -30, -12, -3, 3, 6, 9))
    for item in document["coefficients"]:
        if rng.random() < 0.7:
            _scale(document["covariance"], item, factor)
    return _dumped(document)


def _scale(covariance: dict[str, Any], item: dict[str, Any], factor: float) -> None:
    for key in ("value", "standard_uncertainty"):
        item[key] = None if item[key] is None else item[key] * factor
    item["ci95"] = None if item["ci95"] is None else [limit * factor for limit in item["ci95"]]
    if item["name"] in covariance["names"]:
        at = covariance["names"].index(item["name"])
        covariance["matrix"][at] = [value * factor for value in covariance["matrix"][at]]
        for row in covariance["matrix"]:
            row[at] *= factor


def _device(rng: random.Random, document: dict[str, Any]) -> bytes:
    device = document["device"]
    if rng.random() < 0.5:
        device["memory"][rng.choice(sorted(device["memory"]))] = rng.choice((0, 3, 2**62, 10**400, None, 1.5))
        device["kind"] = rng.choice(("cpu", "cuda", "simulated", "toaster"))
    else:
        sizes = sorted(rng.choice((1, 64, 2**20, 2**45)) for _ in range(3))
        device["memory"] = dict(zip(("l1_bytes", "l2_bytes", "llc_bytes"), sizes, strict=True)) | {
            "line_bytes": rng.choice((1, sizes[0])),
            "cores": rng.choice((1, 2**20)),
        }
        device["model_name"] = rng.choice(_TEXTS)
    return _dumped(document)


def _rates(rng: random.Random, document: dict[str, Any]) -> bytes:
    lowest = rng.choice((5e-324, 1e-6, 1e-6))
    document["throughput"] = {
        item["name"]: rng.choice((lowest, 1.0, 1e24))
        for item in document["coefficients"]
        if not item["name"].endswith("_w")
    }
    document["time_attribution"] = rng.choice(("active", "idle", "none"))
    return _dumped(document)


def _names(rng: random.Random, document: dict[str, Any]) -> bytes:
    short = [text for text in _TEXTS if 0 < len(text) < 200]
    document["software"][rng.choice(short)] = rng.choice(_TEXTS)
    document["validity"]["conditions"] = {rng.choice(short): [rng.choice(short)]}
    document["domains"] = [rng.choice(short) for _ in range(rng.randrange(5))]
    document["created"] = rng.choice(("2026-01-01", "yesterday", "9999-12-31T23:59:59+23:59", ""))
    return _dumped(document)


def _everything(rng: random.Random, document: dict[str, Any]) -> bytes:
    """Extremes that are each allowed, all at once."""
    for mutate in (_scaled, _rates, _device, _names):
        document = json.loads(mutate(rng, document))
    return _dumped(document)


_MUTATIONS: tuple[Callable[[random.Random, dict[str, Any]], bytes], ...] = (
    _remove, _number, _text, _other_type, _swap, _twice, _extra_key, _raw, _unit, _status, _torn, _flipped,
    _encoded, _nested, _scaled, _device, _rates, _names, _everything,
)  # fmt: skip


def commands(path: Path, out: Path) -> list[list[str]]:
    """Every way in which a cost model file is read."""
    file, good = str(path), str(GOOD["simulated"])
    return [
        ["validate", file],
        ["validate", file, "--json"],
        ["show", file],
        ["show", file, "--json"],
        ["export", file, "--network", "mlp", "--out", str(out)],
        ["diff", file, good, "--json", str(out)],
        ["diff", good, file, "--network", "mlp"],
    ]


class _TooLong(Exception):  # noqa: N818
    pass


def _give_up(signum: int, frame: object) -> None:
    raise _TooLong


def run(arguments: list[str]) -> dict[str, Any]:
    """Run one command here: its exit code, what it printed, and any exception that it let out."""
    from cwmp.__main__ import main

    out, err, escaped = io.StringIO(), io.StringIO(), ""
    code: int | None = None
    signal.alarm(PATIENCE_S)
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = main(arguments)
    except BaseException as error:
        escaped = f"{type(error).__name__}: {error}\n{traceback.format_exc()[-800:]}"
    finally:
        signal.alarm(0)
    return {"code": code, "out": out.getvalue()[:20_000], "err": err.getvalue(), "escaped": escaped}


def main_of_cases(folder: Path, cases: int, seed: int, *, heavy: bool) -> None:
    """Print what every command does with every case, and the memory that the process has ever used."""
    signal.signal(signal.SIGALRM, _give_up)
    for what, path in hostile_files(folder, cases, seed):
        _report(what, commands(path, folder / "out.json"))
    for what, path in heavy_files(folder):
        _report(what, commands(path, folder / "out.json")[: None if heavy else 1])


def _report(case: str, every: list[list[str]]) -> None:
    for arguments in every:
        found = {"case": case, "arguments": arguments, **run(arguments)}
        print(json.dumps({**found, "peak_mb": math.ceil(_peak_bytes() / 1e6)}), flush=True)


def _peak_bytes() -> int:
    """Most memory that this program has used; ``getrusage`` would count its parent's before the exec."""
    status = Path("/proc/self/status").read_text()
    peak_kib = next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]
    return int(peak_kib) * 1024


if __name__ == "__main__":
    main_of_cases(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), heavy="heavy" in sys.argv[4:])
