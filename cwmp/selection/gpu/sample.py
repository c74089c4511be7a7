"""Where λ must lie, from a sample that never leaves the GPU: the kernels of ``triton_sample``, in order."""

from __future__ import annotations

import torch
from torch import Tensor

from cwmp.selection.bracket import FEW_RUNS
from cwmp.selection.gpu import triton_sample
from cwmp.selection.gpu.layout import RUN, Runs, runs_of
from cwmp.selection.gpu.update import TENSORS_PER_PROGRAM, GpuUpdate

SAMPLE = 1 << 20
SAMPLE_SHARE = 16
"""The first sample reads at most one of so many coordinates."""
DEVIATIONS = 4.0
"""Of the first bracket: a longer list costs less here than a pass in vain."""
PER_PROGRAM = 1024
COARSE_PROGRAMS = 16
"""Whose part of the sample tells the octave: a thousand of 16,384 when 6 % are kept."""


def sample_of(update: GpuUpdate, samples: int, draw: int) -> Runs:
    """Places of a sample; ``samples`` were taken before."""
    size = min(max(update.numel // SAMPLE_SHARE, 1), SAMPLE) << samples
    return runs_of(update.sizes, update.device, size, draw)


def expect(update: GpuUpdate, sheet: Tensor, runs: Runs, deviations: float) -> Tensor:
    """Write down between which scores the threshold is expected, and the keys of these.

    Returns:
        |g| of the sample, float32, shape (runs · RUN,).
    """
    size, tensors = runs.tensors.numel() * RUN, len(update.sizes)
    programs = -(-size // PER_PROGRAM)
    coarse = min(COARSE_PROGRAMS, programs)
    magnitudes = update.new((size,), torch.float32)
    variances = update.new((programs,), torch.float64)
    runs_above = update.new((programs,), torch.int32)
    triton_sample.sample[(programs,)](
        sheet,
        update.layout.numels,
        runs.tensors,
        runs.begins,
        magnitudes,
        tensors,
        size,
        coarse,
        kind=update.kind,
        element=update.element,
        run=RUN,
        sampled=PER_PROGRAM,
    )
    triton_sample.spread[(programs,)](
        sheet,
        runs.tensors,
        magnitudes,
        variances,
        runs_above,
        min(coarse * PER_PROGRAM / size, 1.0),
        tensors,
        size,
        kind=update.kind,
        run=RUN,
        sampled=PER_PROGRAM,
    )
    triton_sample.bracket[(-(-tensors // TENSORS_PER_PROGRAM),)](
        sheet,
        variances,
        runs_above,
        deviations,
        runs.unread,
        tensors,
        programs,
        kind=update.kind,
        of_sample=True,
        few_runs=FEW_RUNS,
        programs_at_once=1 << (programs - 1).bit_length(),
    )
    return magnitudes
