"""Where the threshold must lie, from a sample that never leaves the GPU: kernels.

    sample    magnitudes of runs of neighbours; of a few programs, shares by octave of the score
    spread    around the octave in which the limit ends: shares by bin, and how much runs differ
    bracket   the bins at the limit ± some standard deviations; what magnitudes that is in each tensor

Runs come in pairs of neighbouring strata, in random order: any program has a fair part of the sample, and the
differences inside the pairs tell the variance, as in ``bracket``.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cwmp.selection.gpu.triton_sheet import (
    ADDRESS,
    BIN_BITS,
    BINS,
    HIGH,
    HIGH_KEY,
    INFINITE,
    KNOWN_LEAST,
    KNOWN_MOST,
    LARGEST_KEY,
    LEAST,
    LIMIT,
    LOW,
    LOW_KEY,
    MOST,
    OCTAVES,
    SAMPLE_ABOVE,
    SAMPLE_LOW,
    SAMPLE_SHARE,
    SHARES,
    SHIFT,
    Fixed,
    magnitude_at,
    price_of,
    row_at,
    score_bits,
    spent_from,
)

OCTAVE_BITS = Fixed(52)
HALF_OCTAVE = Fixed(1 << 51)
SAMPLE_SHIFT = Fixed(53 - BIN_BITS.value)
"""The bins of a sample take two octaves of the score."""
TENSORS_AT_ONCE = Fixed(128)
KEY_BITS = Fixed(31)


@triton.jit(do_not_specialize=["tensors", "size", "coarse"])
def sample(
    sheet: tl.tensor,
    numels: tl.tensor,
    run_tensors: tl.tensor,
    run_begins: tl.tensor,
    magnitudes: tl.tensor,
    tensors: tl.tensor,
    size: tl.tensor,
    coarse: tl.tensor,
    kind: tl.constexpr,
    element: tl.constexpr,
    run: tl.constexpr,
    sampled: tl.constexpr,
) -> None:
    """|g| of runs of neighbours, 0 for what is not finite; the first ``coarse`` programs count octaves."""
    place = tl.program_id(0) * sampled + tl.arange(0, sampled)
    known = place < size
    tensor = tl.load(run_tensors + place // run, mask=known, other=0)
    begin = tl.load(run_begins + place // run, mask=known, other=0) + place % run
    known &= begin < tl.load(numels + tensor)
    start = tl.load(row_at(sheet, ADDRESS, tensors, tensor)).to(tl.pointer_type(element))
    magnitude = magnitude_at(start, begin, known)
    finite = magnitude.to(tl.int32, bitcast=True) <= LARGEST_KEY
    magnitude = tl.where(finite, magnitude, 0.0)
    tl.store(magnitudes + place, magnitude, mask=place < size)
    if tl.program_id(0) < coarse:
        bits = score_bits(magnitude, price_of(sheet, tensors, tensor, known), kind)
        share = tl.load(row_at(sheet, SAMPLE_SHARE, tensors, tensor))
        tl.atomic_add(sheet + (bits >> OCTAVE_BITS), share, mask=known & (bits > 0), sem="relaxed")


@triton.jit(do_not_specialize=["tensors", "size"])
def spread(
    sheet: tl.tensor,
    run_tensors: tl.tensor,
    magnitudes: tl.tensor,
    variances: tl.tensor,
    runs_above: tl.tensor,
    coarse_share: tl.tensor,
    tensors: tl.tensor,
    size: tl.tensor,
    kind: tl.constexpr,
    run: tl.constexpr,
    sampled: tl.constexpr,
) -> None:
    """Bins of two octaves, what lies above them, and by program the variance of all from their lowest on.

    ``coarse_share`` is the part of the sample whose octaves were counted.
    """
    spent = spent_from(sheet, tl.full((), 0, tl.int64), OCTAVES)
    limit = tl.load(sheet + LIMIT).to(tl.float64) * coarse_share
    octave = tl.max(tl.where(spent.to(tl.float64) > limit, tl.arange(0, OCTAVES), 0))
    low = tl.maximum((octave.to(tl.int64) << OCTAVE_BITS) - HALF_OCTAVE, 0)
    place = tl.program_id(0) * sampled + tl.arange(0, sampled)
    known = place < size
    tensor = tl.load(run_tensors + place // run, mask=known, other=0)
    share = tl.load(row_at(sheet, SAMPLE_SHARE, tensors, tensor))
    magnitude = tl.load(magnitudes + place, mask=known, other=0.0)
    bits = score_bits(magnitude, price_of(sheet, tensors, tensor, known), kind)
    counted = known & (bits >= low) & (bits > 0)
    bin_ = (bits - low) >> SAMPLE_SHIFT
    tl.atomic_add(sheet + OCTAVES + bin_, share, mask=counted & (bin_ < BINS), sem="relaxed")
    above = tl.sum(tl.where(counted & (bin_ >= BINS), share, 0))
    tl.atomic_add(sheet + SAMPLE_ABOVE, above, sem="relaxed")
    of_runs = tl.sum(tl.reshape(tl.where(counted, share, 0), (sampled // run, run)), 1)
    tl.store(runs_above + tl.program_id(0), tl.sum((of_runs > 0).to(tl.int32)))
    pairs = tl.reshape(of_runs, (sampled // run // 2, 2))
    difference = tl.sum(pairs * (1 - 2 * tl.arange(0, 2))[None, :], 1).to(tl.float64) / SHARES
    tl.store(variances + tl.program_id(0), tl.sum(difference * difference))
    if tl.program_id(0) == 0:
        tl.store(sheet + SAMPLE_LOW, low)


@triton.jit
def _expected(
    sheet: tl.tensor,
    variances: tl.tensor,
    runs_above: tl.tensor,
    deviations: tl.tensor,
    unread: tl.tensor,
    programs: tl.tensor,
    few_runs: tl.constexpr,
    programs_at_once: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """Bits of the scores between which the limit ends, as far as the sample tells."""
    place = tl.arange(0, programs_at_once)
    variance = tl.sum(tl.load(variances + place, mask=place < programs, other=0.0))
    runs = tl.sum(tl.load(runs_above + place, mask=place < programs, other=0))
    low, above = tl.load(sheet + SAMPLE_LOW), tl.load(sheet + SAMPLE_ABOVE)
    spent = spent_from(sheet + OCTAVES, above, BINS).to(tl.float64) / SHARES
    limit = tl.load(sheet + LIMIT).to(tl.float64) / SHARES
    # The variance is of all from the lowest bin on: at the limit it is less, in proportion.
    part = tl.minimum(limit / tl.maximum(tl.max(spent), 1e-300), 1.0)
    margin = deviations * tl.sqrt(variance * part * unread) + 1e-9 * limit
    bins = tl.arange(0, BINS)
    first = tl.max(tl.where(spent >= limit + margin, bins, -1)).to(tl.int64)
    last = tl.min(tl.where(spent <= limit - margin, bins, BINS)).to(tl.int64)
    enough = (limit > margin) & ((runs * part >= few_runs) | (unread == 0))
    enough = enough & ((last < BINS) | (above.to(tl.float64) / SHARES <= limit - margin))
    least = tl.where(first >= 0, low + (first << SAMPLE_SHIFT), 0)
    most = tl.where(enough, low + (last << SAMPLE_SHIFT), INFINITE)
    return least, most


@triton.jit
def _lowest_key(price: tl.tensor, score: tl.tensor, kind: tl.constexpr) -> tl.tensor:
    """Lowest key, from 1 on, of a magnitude that scores at least so much; beyond all if none does."""
    low = tl.full(price.shape, 1, tl.int32)
    high = tl.full(price.shape, LARGEST_KEY, tl.int32)
    for _ in range(KEY_BITS):
        middle = low + (high - low) // 2
        found = score_bits(middle.to(tl.float32, bitcast=True), price, kind) >= score
        searching = low <= high
        high = tl.where(searching & found, middle - 1, high)
        low = tl.where(searching & (found == 0), middle + 1, low)
    return low


@triton.jit(do_not_specialize=["tensors", "programs"])
def bracket(
    sheet: tl.tensor,
    variances: tl.tensor,
    runs_above: tl.tensor,
    deviations: tl.tensor,
    unread: tl.tensor,
    tensors: tl.tensor,
    programs: tl.tensor,
    kind: tl.constexpr,
    of_sample: tl.constexpr,
    few_runs: tl.constexpr,
    programs_at_once: tl.constexpr,
) -> None:
    """What is expected of what is known; keys of the lowest magnitudes inside and above it; its bins."""
    least, most = tl.load(sheet + KNOWN_LEAST), tl.load(sheet + KNOWN_MOST)
    if of_sample:
        low, high = _expected(
            sheet, variances, runs_above, deviations, unread, programs, few_runs, programs_at_once
        )
        least = tl.minimum(tl.maximum(low, least), most)
        most = tl.maximum(tl.minimum(high, most), least)
    tensor = tl.program_id(0) * TENSORS_AT_ONCE + tl.arange(0, TENSORS_AT_ONCE)
    known = tensor < tensors
    price = price_of(sheet, tensors, tensor, known)
    low_key, high_key = _lowest_key(price, least, kind), _lowest_key(price, most + 1, kind)
    tl.store(row_at(sheet, LOW_KEY, tensors, tensor), low_key.to(tl.int64), mask=known)
    tl.store(row_at(sheet, HIGH_KEY, tensors, tensor), high_key.to(tl.int64), mask=known)
    if tl.program_id(0) == 0:
        shift = tl.full((), 0, tl.int64)
        while ((most - least) >> shift) >= BINS:
            shift += 1
        tl.store(sheet + LEAST, least)
        tl.store(sheet + MOST, most)
        tl.store(sheet + LOW, least)
        tl.store(sheet + HIGH, most + 1)
        tl.store(sheet + SHIFT, shift)
