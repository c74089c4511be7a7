"""The report's figure of a partition: which client holds how many samples of which class.

Drawn from the counts in a run's record, so that the report needs no data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cwmp.report.contents import TrainedRun
from cwmp.report.markup import Html, figure
from cwmp.report.plots import WIDTH_IN, svg_data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOUR_MAP = "Blues"
COLOURS = 20
"""One for every 5 %; matplotlib draws a scale of many colours as a bitmap."""

BAR_COLOUR = "#57606a"
MAX_NUMBERED = 20
"""Clients whose cells still have room for their number of samples."""


def class_mix(runs: Sequence[TrainedRun], provenance: str) -> Iterator[Html]:
    """The partition of the first run; nothing if it was written before class counts were kept."""
    partitions = {run.identity.partition.sha256: run.identity for run in runs}
    identity = next(iter(partitions.values()))
    partition = identity.partition
    if not partition.class_counts:
        return
    counts = np.asarray(partition.class_counts)
    others = f" One of {len(partitions)} partitions, that of seed {identity.config.seed}."
    yield figure(
        svg_data_uri(lambda: plot_class_mix(counts)),
        "Samples of each client, and which share of them each class has",
        f"Samples of each client, and the share of each class in them; by {partition.scheme}, index lists "
        f"{partition.sha256[:12]}.{others if len(partitions) > 1 else ''}",
        provenance,
    )


def plot_class_mix(class_counts: NDArray[np.int64]) -> Figure:
    """Samples of each client as bars, and below them each class's share of them as the depth of a colour.

    Args:
        class_counts: shape (n_clients, n_classes); every client has samples.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    clients, classes = class_counts.shape
    drawing = Figure(figsize=(WIDTH_IN, 1.9 + 0.24 * classes), layout="constrained")
    totals, mix = drawing.subplots(2, 1, sharex=True, height_ratios=(1, 0.22 * classes))
    totals.bar(np.arange(clients), class_counts.sum(axis=1), width=0.8, color=BAR_COLOUR)
    totals.set_ylabel("samples")
    totals.grid(axis="x", visible=False)
    share = 100 * class_counts / class_counts.sum(axis=1, keepdims=True)
    # One path for each cell: an embedded bitmap would be no vector image.
    colours = colormaps[COLOUR_MAP].resampled(COLOURS)
    cells = mix.pcolormesh(np.arange(clients), np.arange(classes), share.T, cmap=colours, vmin=0, vmax=100)
    cells.set_edgecolor("face")
    drawing.colorbar(cells, ax=mix, label="share of the client / %", pad=0.01)
    mix.grid(visible=False)
    mix.invert_yaxis()
    mix.set_yticks(range(classes))
    mix.set_ylabel("class")
    mix.set_xlabel("client")
    mix.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=min(clients, MAX_NUMBERED)))
    if clients <= MAX_NUMBERED:
        _write_numbers(mix, class_counts, share)
    return drawing


def _write_numbers(axes: Axes, class_counts: NDArray[np.int64], share: NDArray[np.float64]) -> None:
    """The number of samples in each cell that holds any, in white on dark ones."""
    for client, label in np.argwhere(class_counts):
        axes.text(
            float(client),
            float(label),
            str(class_counts[client, label]),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if share[client, label] > 60 else "black",
        )
