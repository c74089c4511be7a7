"""The figure of a partition shows every client's samples, at ten clients and at two hundred."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from cwmp.report.class_mix import MAX_NUMBERED, class_mix, plot_class_mix
from cwmp.report.plots import svg_data_uri


def counts(clients: int, classes: int = 10) -> np.ndarray:
    return np.random.default_rng(clients).integers(0, 50, (clients, classes)) + np.eye(1, classes, dtype=int)


@pytest.mark.parametrize("clients", [1, 10, 200])
def test_bars_are_the_samples_and_colours_the_shares(clients: int) -> None:
    drawn = counts(clients)
    totals, mix, *_ = plot_class_mix(drawn).axes
    assert [bar.get_height() for bar in totals.patches] == drawn.sum(axis=1).tolist()
    (cells,) = mix.collections
    shares = np.asarray(cells.get_array()).reshape(10, clients)
    np.testing.assert_allclose(shares.sum(axis=0), 100)
    np.testing.assert_allclose(shares / 100 * drawn.sum(axis=1), drawn.T)


def test_numbers_are_written_while_there_is_room() -> None:
    drawn = counts(MAX_NUMBERED)
    written = plot_class_mix(drawn).axes[1].texts
    places = {tuple(map(int, text.get_position())): text.get_text() for text in written}
    assert places == {tuple(place): str(drawn[tuple(place)]) for place in np.argwhere(drawn).tolist()}
    assert not plot_class_mix(counts(MAX_NUMBERED + 1)).axes[1].texts


def test_every_axis_is_labelled_and_the_same_figure_gives_the_same_bytes() -> None:
    totals, mix, bar = plot_class_mix(counts(10)).axes
    assert (totals.get_ylabel(), mix.get_ylabel(), mix.get_xlabel()) == ("samples", "class", "client")
    assert "share" in bar.get_ylabel()
    first, again = (svg_data_uri(lambda: plot_class_mix(counts(200))) for _ in range(2))
    assert first == again
    assert len(first) < 1_000_000


def run(sha256: str, class_counts: tuple[tuple[int, ...], ...], seed: int = 0) -> SimpleNamespace:
    partition = SimpleNamespace(sha256=sha256, class_counts=class_counts, scheme="a-scheme")
    return SimpleNamespace(identity=SimpleNamespace(partition=partition, config=SimpleNamespace(seed=seed)))


def test_the_caption_names_the_scheme_and_the_digest_and_old_records_have_no_figure() -> None:
    (one,) = class_mix([run("ab" * 32, ((1, 2), (3, 4)))] * 2, "simulated")
    assert "a-scheme, index lists abababababab." in one
    assert "One of" not in one
    (many,) = class_mix([run("ab" * 32, ((1, 2),), 7), run("cd" * 32, ((2, 1),), 8)], "simulated")
    assert "One of 2 partitions, that of seed 7." in many
    assert not list(class_mix([run("ab" * 32, ())], "simulated"))
