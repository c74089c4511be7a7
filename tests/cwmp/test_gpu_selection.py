"""Selection on a GPU without one: kernels by Triton's interpreter and as compiled, the sample as it is."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cwmp.selection import on_gpu
from cwmp.selection.exact import to_units
from cwmp.selection.gpu.layout import BLOCK, GROUP, RUN, layout_of, runs_of
from cwmp.selection.gpu.listed import Prices, Ranked, end_of
from cwmp.selection.limits import Limits
from cwmp.selection.mask_bits import all_bits
from cwmp.selection.on_gpu import passes_if_ranked, passes_on_gpu
from cwmp.selection.result import DeviceMask

ROOT = Path(__file__).resolve().parents[2]
CHECKS = Path(__file__).with_name("gpu_selection_checks.py")
CPU = torch.device("cpu")
SIZES = (1, BLOCK, 3 * BLOCK + 17, 70_000)


@pytest.mark.parametrize(
    "check",
    [
        "small",
        "formats",
        "sampled",
        "last_round",
        "tied",
        "not_finite",
        "places",
        "one_go",
        "bracket",
        "range_of_squares",
        "smallest",
    ],
)
def test_kernels_choose_what_sorting_chooses(check: str) -> None:
    """Each in a process of its own, for the interpreter is chosen when Triton is imported."""
    pytest.importorskip("triton")
    environment = {
        **os.environ,
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    result = subprocess.run(
        [sys.executable, str(CHECKS), check], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-2000:]


TYPES = {
    **dict.fromkeys(("sheet", "first_blocks", "numels", "run_begins", "slots", "ends"), "*i64"),
    **dict.fromkeys(("tensors", "run_tensors", "kept_words", "words", "counts", "runs_above"), "*i32"),
    **dict.fromkeys(("inside_words", "places", "listed"), "*i32"),
    **dict.fromkeys(("sums", "variances"), "*fp64"),
    **dict.fromkeys(("deviations", "unread", "coarse_share"), "fp32"),
    "magnitudes": "*fp32",
}
NARROWED = {"kind": 0, "block": BLOCK, "group": GROUP, "room": GROUP * BLOCK // 32}


def kernels() -> dict[str, tuple[Any, dict[str, Any], dict[str, str], int]]:
    """By name: function, constants, what has another type than elsewhere, warps."""
    from cwmp.selection.gpu import triton_kernels, triton_narrow, triton_sample

    sampled, number = {"kind": 0, "run": RUN, "sampled": 1024}, {"tensors": "i32"}
    listing = {name: NARROWED[name] for name in ("block", "group", "room")}
    bracket = {"kind": 0, "of_sample": True, "few_runs": 16, "programs_at_once": 1024}
    warps = triton_kernels.WARPS
    return {
        "classify": (triton_kernels.classify, {"absolute": True, "block": BLOCK}, {}, warps),
        "list_inside": (triton_kernels.list_inside, {"block": BLOCK}, {}, triton_kernels.LIST_WARPS),
        "sample": (triton_sample.sample, sampled, number, 4),
        "spread": (triton_sample.spread, sampled, number, 4),
        "bracket": (triton_sample.bracket, bracket, number, 4),
        "gather": (triton_narrow.gather, listing, {"inside_words": "*i64"}, 4),
        "bins": (triton_narrow.bins, {**NARROWED, "columns": 3}, {}, 4),
        "end": (triton_narrow.end, {}, {}, 4),
        "settle": (triton_narrow.settle, NARROWED, {}, 4),
        "finish": (triton_narrow.finish, {}, {}, 4),
    }


@pytest.mark.parametrize(
    ("capability", "element"), [(80, "float32"), (90, "float32"), (90, "bfloat16"), (90, "float16")]
)
def test_the_pass_reads_sixteen_bytes_at_a_time_and_spills_nothing(
    capability: int, element: str, monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    """What Triton makes of it for an A100 and an H100, with no GPU here; division as IEEE 754 has it."""
    triton = pytest.importorskip("triton")
    from triton import language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for name, (function, given, types, warps) in kernels().items():
        constants = dict(given)
        if "element" in function.arg_names:
            constants["element"] = getattr(tl, element)
        known = {**TYPES, **types, **dict.fromkeys(constants, "constexpr")}
        source = ASTSource(
            fn=function,
            signature={argument: known.get(argument, "i32") for argument in function.arg_names},
            constexprs=constants,
        )
        target = GPUTarget("cuda", capability, 32)
        text = triton.compile(source, target=target, options={"num_warps": warps}).asm["ptx"]
        assert ".local" not in text, name
        assert ".ftz" not in text, name
        divisions = set(re.findall(r"div[.\w]*\.f64", text))
        assert divisions <= {"div.rn.f64"}, name
        assert divisions or name not in ("sample", "spread", "bracket", "bins", "settle"), name
        if name == "classify":
            loads = len(re.findall(r"ld\.global\.v4\.b32", text))
            assert loads * 32 * warps * 16 == BLOCK * getattr(torch, element).itemsize


def test_every_coordinate_has_one_place_in_the_blocks() -> None:
    layout = layout_of(SIZES, CPU)
    assert layout.blocks == sum(-(-size // BLOCK) for size in SIZES) == layout.tensors.numel()
    for number, size in enumerate(SIZES):
        own = (layout.tensors == number).nonzero().squeeze(1)
        assert (int(own[0]), int(own[-1]) + 1) == layout.firsts[number : number + 2]
        assert own.numel() * BLOCK - size < BLOCK


def test_runs_lie_apart_in_their_tensors_and_stand_for_all() -> None:
    runs = runs_of(SIZES, CPU, 8192, 1)
    read = torch.zeros(len(SIZES), dtype=torch.float64)
    for number, size in enumerate(SIZES):
        begins = runs.begins[runs.tensors == number].sort().values
        begins = begins[begins < size]
        assert bool((begins.diff() >= 0).all())
        assert int(begins[-1]) + RUN <= max(size, RUN)
        read[number] = int((size - begins).clamp(max=RUN).sum())
    assert (read * torch.from_numpy(runs.weights)).tolist() == pytest.approx(SIZES, rel=1e-9)
    assert runs.unread == pytest.approx(1 - float(read.sum()) / sum(SIZES))


def test_runs_come_in_pairs_of_neighbours_in_any_order() -> None:
    runs = runs_of((200_000,), CPU, 16_384, 1)
    pairs = runs.begins.reshape(-1, 2)
    stratum = (200_000 - RUN) / runs.begins.numel()
    assert float(pairs.diff(dim=1).abs().max()) < 2 * stratum
    # Any part of them is a fair part.
    assert float(pairs[: len(pairs) // 8].double().mean()) == pytest.approx(100_000, rel=0.15)


@pytest.mark.parametrize("affordable", [0, 1, 1000, 2999, 3000])
def test_the_end_of_a_list_is_found_where_shares_of_its_sum_cannot_tell(affordable: int) -> None:
    """Three thousand coordinates that cost 1e-31 of the list each: the proposal is behind the last one."""
    cheap, dear = 3000, 10
    ranked = Ranked(
        scores=torch.arange(cheap + dear, 0, -1, dtype=torch.float64),
        slots=torch.arange(cheap + dear),
        magnitudes=torch.ones(cheap + dear),
        tensors=torch.tensor([1] * cheap + [0] * dear, dtype=torch.int32),
    )
    prices = Prices.of([1.0, 1e-30], CPU)
    limits = Limits.of(affordable * 1e-30, None)
    end = end_of(ranked, prices, limits, (dear, cheap), 0, 0)
    assert (end.length, end.counts.tolist()) == (affordable, [0, affordable])
    assert end.units == affordable * to_units(1e-30)
    assert end.threshold == float(ranked.scores[affordable])
    by_count = end_of(ranked, prices, Limits.of(math.inf, cheap + 4), (dear, cheap), 0, 0)
    assert (by_count.length, by_count.counts.tolist()) == (cheap + 4, [4, cheap])


def test_what_the_kernels_do_not_rank_is_left_to_the_host() -> None:
    gradients = {"w": torch.ones(4), "v": torch.ones(4, dtype=torch.float16)}
    assert passes_on_gpu({"w": torch.ones(4)}, {"w": 1.0}, "cwmp") is None
    assert passes_if_ranked(gradients, {"w": 1.0, "v": 1.0}, "cwmp") is None
    assert passes_if_ranked({"w": torch.ones(4)}, {"w": 1.0}, "randomk") is None
    assert passes_if_ranked({"w": torch.ones(4)}, {"w": 1.0}, "dense") is None
    assert passes_if_ranked({"w": torch.ones(4).double()}, {"w": 1.0}, "cwmp") is None
    assert passes_if_ranked({"w": torch.ones(2)}, {"w": torch.tensor([1.0, 2.0])}, "cwmp") is None


def test_where_kernels_do_not_run_the_host_selects(caplog: pytest.LogCaptureFixture) -> None:
    """Without an interpreter Triton cannot start a kernel on a CPU, as it cannot without a C compiler."""
    pytest.importorskip("triton")
    on_gpu._kernels_run.cache_clear()
    assert not on_gpu._kernels_run(CPU)
    assert not on_gpu._kernels_run(CPU)
    on_gpu._kernels_run.cache_clear()
    assert ["made on the host" in record.message for record in caplog.records] == [True]


def test_a_mask_on_a_device_says_the_same_in_bits_places_and_words() -> None:
    bits = torch.tensor([-(2**31), 5], dtype=torch.int32)
    mask = DeviceMask(bits=bits, shape=torch.Size([5, 7]), kept=3)
    assert mask.indices().tolist() == [31, 32, 34]
    assert mask.booleans().shape == (5, 7)
    assert mask.booleans().reshape(-1).nonzero().squeeze(1).tolist() == [31, 32, 34]
    assert mask.words.tolist() == [(1 << 31) + (1 << 32) + (1 << 34)]
    whole = torch.full((2,), -1, dtype=torch.int32)
    assert DeviceMask(bits=whole, shape=torch.Size([64]), kept=64).words.tolist() == all_bits(64).tolist()
