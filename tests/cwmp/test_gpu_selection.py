"""Selection on a GPU without one: kernels by Triton's interpreter and as compiled, the sample as it is."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cwmp.selection.bracket import Bracket
from cwmp.selection.exact import to_units
from cwmp.selection.gpu_layout import BLOCK, RUN, layout_of, runs_of
from cwmp.selection.gpu_listed import Prices, Ranked, end_of
from cwmp.selection.gpu_sample import Sample, bracket_of
from cwmp.selection.limits import Limits
from cwmp.selection.mask_bits import all_bits
from cwmp.selection.on_gpu import passes_if_ranked, passes_on_gpu
from cwmp.selection.result import DeviceMask

ROOT = Path(__file__).resolve().parents[2]
CHECKS = Path(__file__).with_name("gpu_selection_checks.py")
CPU = torch.device("cpu")
SIZES = (1, BLOCK, 3 * BLOCK + 17, 70_000)


@pytest.mark.parametrize(
    "check", ["small", "formats", "sampled", "last_round", "tied", "not_finite", "places"]
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


TABLES = {"tensors": "*i32", "first_blocks": "*i64"}


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("element", ["float32", "bfloat16", "float16"])
def test_the_pass_reads_sixteen_bytes_at_a_time_and_spills_nothing(
    capability: int, element: str, monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike[str]
) -> None:
    """What Triton makes of it for an A100 and an H100, with no GPU here."""
    triton = pytest.importorskip("triton")
    from triton import language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from cwmp.selection import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pointers = {
        "classify": {
            "addresses": "*i64",
            "numels": "*i64",
            "keys": "*i32",
            **TABLES,
            "kept_words": "*i32",
            "inside_words": "*i32",
            "counts": "*i32",
            "sums": "*fp64",
            "blocks": "i32",
        },
        "list_inside": {
            "addresses": "*i64",
            **TABLES,
            "inside_words": "*i32",
            "ends": "*i64",
            "counts": "*i32",
            "slots": "*i64",
            "magnitudes": "*fp32",
        },
    }
    for name, signature in pointers.items():
        constants = {"element": getattr(tl, element), "block": BLOCK}
        if name == "classify":
            constants["absolute"] = True
        source = ASTSource(
            fn=getattr(triton_kernels, name),
            signature={**signature, **dict.fromkeys(constants, "constexpr")},
            constexprs=constants,
        )
        target = GPUTarget("cuda", capability, 32)
        text = triton.compile(source, target=target, options={"num_warps": triton_kernels.WARPS}).asm["ptx"]
        assert ".local" not in text, name
        assert ".ftz" not in text, name
        if name == "classify":
            loads = len(re.findall(r"ld\.global\.v4\.b32", text))
            threads = 32 * triton_kernels.WARPS
            assert loads * threads * 16 == BLOCK * getattr(torch, element).itemsize


def test_every_coordinate_has_one_place_in_the_blocks() -> None:
    layout = layout_of(SIZES, CPU)
    assert layout.blocks == sum(-(-size // BLOCK) for size in SIZES) == layout.tensors.numel()
    for number, size in enumerate(SIZES):
        own = (layout.tensors == number).nonzero().squeeze(1)
        assert (int(own[0]), int(own[-1]) + 1) == layout.firsts[number : number + 2]
        assert own.numel() * BLOCK - size < BLOCK


def test_runs_lie_apart_in_their_tensors_and_stand_for_all() -> None:
    runs = runs_of(SIZES, CPU, 8192, 1)
    for number, size in enumerate(SIZES):
        begins = runs.begins[runs.tensors == number]
        assert bool((begins.diff() >= 0).all())
        assert int(begins[0]) >= 0
        assert int(begins[-1]) + RUN <= max(size, RUN)
    read = torch.tensor([min(RUN, SIZES[number]) for number in runs.tensors.tolist()])
    assert float((runs.weights * read).sum()) == pytest.approx(sum(SIZES), rel=1e-9)
    assert runs.unread == pytest.approx(1 - float(read.sum()) / sum(SIZES))


def missed(share: float, deviations: float) -> int:
    """Brackets without the threshold, of 30 draws."""
    numel, price, count = 200_000, 1e-9, 0
    gradient = torch.randn(numel, generator=torch.Generator().manual_seed(0)).abs()
    threshold = float(torch.sort(gradient, descending=True).values[int(share * numel)])
    for draw in range(30):
        runs = runs_of((numel,), CPU, 16_384, draw)
        values = gradient[runs.begins[:, None] + torch.arange(RUN)]
        sample = Sample(
            values=values,
            scores_at=lambda at, values=values: values.reshape(-1)[at].double(),  # type: ignore[misc]
            joules=price * runs.weights,
            numbers=runs.weights,
            unread=runs.unread,
        )
        limits = Limits.of(share * numel * price, None)
        found = bracket_of(sample, limits, Bracket(least=0.0, most=math.inf), deviations)
        count += not found.least <= threshold <= found.most
    return count


@pytest.mark.parametrize("share", [0.01, 0.5])
def test_the_bracket_of_a_sample_is_as_wide_as_its_deviations_say(share: float) -> None:
    """Of a normal estimate 4 deviations miss 1 in 16,000, half a deviation 6 in 10: 12 to 24 of 30."""
    assert missed(share, 4.0) == 0
    assert 12 <= missed(share, 0.5) <= 24


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


def test_a_mask_on_a_device_says_the_same_in_bits_places_and_words() -> None:
    bits = torch.tensor([-(2**31), 5], dtype=torch.int32)
    mask = DeviceMask(bits=bits, shape=torch.Size([5, 7]), kept=3)
    assert mask.indices().tolist() == [31, 32, 34]
    assert mask.booleans().shape == (5, 7)
    assert mask.booleans().reshape(-1).nonzero().squeeze(1).tolist() == [31, 32, 34]
    assert mask.words.tolist() == [(1 << 31) + (1 << 32) + (1 << 34)]
    whole = torch.full((2,), -1, dtype=torch.int32)
    assert DeviceMask(bits=whole, shape=torch.Size([64]), kept=64).words.tolist() == all_bits(64).tolist()
