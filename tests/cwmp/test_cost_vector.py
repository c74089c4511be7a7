"""Prices against arithmetic by hand, masks against counting lines, uncertainty against sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from fakes.known_costs import known_cost_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from calibration_data import MemoryHierarchy, UsageError, Work
from cost_models import CostModel, MissingCoefficientError
from cwmp.cost_vector import CostVector, cost_vector
from cwmp.errors import EmptyNetworkError, InvalidCostError, UnknownMemoryError
from cwmp.links import LINKS
from cwmp.op_counts import Touched, apply_work, index_bytes, pack_work
from cwmp.selection import select
from cwmp.tensors import expected_groups, residence, touched_groups, trainable_tensors
from profiler.simulated_spec import load_spec

TRUTH = load_spec("server-cpu").truth
RATE = load_spec("server-cpu").rates
CORES = load_spec("server-cpu").memory.cores
BUSY_W = TRUTH["awake_w"] + CORES * TRUTH["core_w"]
# Footprints (gradient + weight) on the server: 32 KiB in L1, 1 MiB in L2, 32 MiB in the last level.
SHAPES = {"l1": (64, 50), "l2": (300, 400), "llc": (1000, 1200), "dram": (2200, 2000)}


def network() -> dict[str, Tensor]:
    return {level: torch.zeros(shape) for level, shape in SHAPES.items()}


def priced(density: float, model: CostModel | None = None, **options: object) -> CostVector:
    return cost_vector(network(), model or known_cost_model(), boundary="update", density=density, **options)  # type: ignore[arg-type]


def random_masks(vector: CostVector, density: float, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(cost.layout.shape, generator=generator) < density
        for name, cost in vector.tensors.items()
    }


class TestLineSharing:
    @given(st.integers(1, 5000), st.integers(1, 64))
    def test_isolated_coordinates_open_a_line_each_and_dense_ones_share_it(self, numel: int, m: int) -> None:
        assert expected_groups(numel, m, 1e-9) == pytest.approx(1, rel=1e-5)
        assert expected_groups(numel, m, 1.0) == pytest.approx(math.ceil(numel / m) / numel)

    @given(st.integers(1, 5000), st.integers(1, 64), st.floats(1e-3, 1), st.floats(1e-3, 1))
    def test_sharing_grows_with_density(self, numel: int, m: int, first: float, second: float) -> None:
        low, high = sorted((first, second))
        assert expected_groups(numel, m, high) <= expected_groups(numel, m, low) * (1 + 1e-9)

    @pytest.mark.parametrize(("density", "share"), [(0.01, 0.93), (0.2, 0.30), (1.0, 1 / 16)])
    def test_values_for_sixteen_coordinates_in_a_line(self, density: float, share: float) -> None:
        assert expected_groups(16_000, 16, density) == pytest.approx(share, abs=0.006)

    def test_expectation_is_the_mean_over_random_masks(self) -> None:
        generator = torch.Generator().manual_seed(5)
        masks = [torch.rand(37, generator=generator) < 0.2 for _ in range(4000)]
        mean = sum(touched_groups(mask, 16) for mask in masks) / 4000
        # Three lines, the last of five coordinates; the deviation of the mean is below 0.01.
        assert mean == pytest.approx(37 * 0.2 * expected_groups(37, 16, 0.2), abs=0.04)

    @given(st.lists(st.booleans(), max_size=100), st.integers(1, 40))
    def test_touched_lines_are_counted_one_by_one(self, bits: list[bool], m: int) -> None:
        lines = {index // m for index, bit in enumerate(bits) if bit}
        assert touched_groups(torch.tensor(bits, dtype=torch.bool), m) == len(lines)


class TestPricesByHand:
    def test_residence_is_the_smallest_level_that_holds_gradient_weight_and_optimiser(self) -> None:
        memory = load_spec("server-cpu").memory
        layouts = trainable_tensors({**network(), "edge": torch.zeros(4096)})
        assert [residence(layout, memory, 0) for layout in layouts] == ["l1", "l2", "llc", "dram", "l1"]
        assert residence(layouts[-1], memory, 1) == "l2"
        gpu = load_spec("datacenter-gpu").memory
        assert residence(layouts[2], gpu, 0) == "l2"

    def test_price_of_a_coordinate_that_lives_in_the_first_level(self) -> None:
        cost = priced(0.1).tensors["l1"]
        # Pack: 8 B written and read through L1 and L2. Apply: 4 B loaded and stored, one multiply-add.
        pack_j = 16 * (TRUTH["byte_l1"] + TRUTH["byte_l2"])
        apply_j = 8 * TRUTH["byte_l1"] + 2 * TRUTH["flop_fp32"]
        pack_s = max(16 / RATE["byte_l1"], 16 / RATE["byte_l2"])
        apply_s = max(8 / RATE["byte_l1"], 2 / RATE["flop_fp32"])
        expected_j = pack_j + apply_j + BUSY_W * (pack_s + apply_s)
        assert cost.price_j.value == pytest.approx(expected_j, rel=1e-12)
        assert cost.block.open_j == 0

    @pytest.mark.parametrize("streams", [0, 1, 2, 3])
    def test_price_of_a_coordinate_that_lives_in_dram(self, streams: int) -> None:
        cost = priced(0.05, optimizer_streams=streams).tensors["dram"]
        n = 2200 * 2000
        arrays = 1 + streams
        line_bytes = 64 * (1 - 0.95**16) / (16 * 0.05) * arrays
        rows = (n // 2048 * (1 - 0.95**2048) + 1 - 0.95 ** (n % 2048)) / (n * 0.05) * arrays
        flop = (2, 4, 13, 14)[streams]
        amounts = {
            "byte_l1": 8 * arrays,
            "byte_l2": 2 * line_bytes,
            "byte_llc": 2 * line_bytes,
            "byte_dram_read": line_bytes,
            "byte_dram_write": line_bytes,
            "line_random_dram": rows,
            "flop_fp32": flop,
        }
        apply_s = max(amount / RATE[term] for term, amount in amounts.items())
        apply_j = sum(TRUTH[term] * amount for term, amount in amounts.items()) + BUSY_W * apply_s
        pack_j = 16 * (TRUTH["byte_l1"] + TRUTH["byte_l2"]) + BUSY_W * 16 / RATE["byte_l2"]
        assert cost.price_j.value == pytest.approx(apply_j + pack_j, rel=1e-9)

    def test_fixed_work_reads_and_compares_every_gradient_once(self) -> None:
        vector = priced(0.01)
        sizes = {level: 4 * math.prod(shape) for level, shape in SHAPES.items()}
        work = vector.fixed_work
        assert work["byte_l1"] == sum(sizes.values())
        assert work["byte_l2"] == sum(sizes.values()) - sizes["l1"]
        assert work["byte_llc"] == sizes["llc"] + sizes["dram"]
        assert work["byte_dram_read"] == sizes["dram"]
        assert work["byte_dram_write"] == 0
        assert work["flop_fp32"] == sum(sizes.values()) / 4
        assert work["launch"] == 3 * len(SHAPES)
        assert work["core_w"] == pytest.approx(CORES * work["awake_w"])
        assert work["idle_w"] == 0
        expected_j = sum(TRUTH[term] * amount for term, amount in work.items())
        assert vector.fixed_j.value == pytest.approx(expected_j)

    def test_variance_of_log_price_counts_every_coordinate_once(self) -> None:
        vector = priced(0.01)
        logs = np.concatenate(
            [np.full(cost.layout.numel, np.log(cost.price_j.value)) for cost in vector.tensors.values()]
        )
        assert vector.var_ln_c == pytest.approx(np.var(logs), rel=1e-9)
        near = {"a": torch.zeros(7), "b": torch.zeros(64, 9)}
        assert cost_vector(near, known_cost_model(), boundary="update", density=0.01).var_ln_c == 0


class TestMonotone:
    def test_a_price_grows_with_the_distance_of_the_tensor(self) -> None:
        tensor = {"w": torch.zeros(1000)}
        far = [(32768, 1 << 20, 1 << 25), (512, 1 << 20, 1 << 25), (512, 1024, 1 << 25), (512, 1024, 2048)]
        prices = []
        for l1, l2, llc in far:
            memory = MemoryHierarchy(l1_bytes=l1, l2_bytes=l2, llc_bytes=llc, line_bytes=64, cores=16)
            vector = cost_vector(tensor, known_cost_model(memory=memory), boundary="update", density=0.01)
            prices.append((vector.tensors["w"].level, vector.prices_j["w"]))
        assert [level for level, _ in prices] == ["l1", "l2", "llc", "dram"]
        assert [price for _, price in prices] == sorted({price for _, price in prices})

    @given(st.floats(1e-4, 1), st.floats(1e-4, 1))
    @settings(max_examples=20, deadline=None)
    def test_a_price_falls_as_neighbours_share_lines(self, first: float, second: float) -> None:
        low, high = sorted((first, second))
        sparse, dense = priced(low).prices_j, priced(high).prices_j
        assert all(dense[level] <= sparse[level] * (1 + 1e-9) for level in SHAPES)

    @pytest.mark.parametrize("device", ["server-cpu", "edge-board", "datacenter-gpu"])
    def test_a_further_optimiser_state_costs_more(self, device: str) -> None:
        model = known_cost_model(device)
        prices = [priced(0.01, model, optimizer_streams=streams).prices_j for streams in range(4)]
        for fewer, more in itertools.pairwise(prices):
            assert all(fewer[level] < more[level] for level in SHAPES)


class TestMasks:
    @pytest.mark.parametrize("device", ["server-cpu", "edge-board", "datacenter-gpu"])
    @pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 1.0])
    @pytest.mark.parametrize("coding", ["raw32", "golomb"])
    def test_prices_describe_random_masks_of_their_density(
        self, device: str, density: float, coding: str
    ) -> None:
        vector = priced(density, known_cost_model(device), index_coding=coding)
        cost = vector.evaluate(random_masks(vector, density))
        assert cost.priced_j == pytest.approx(cost.marginal_j.value, rel=0.02)

    def test_clustered_masks_cost_less_than_their_price(self) -> None:
        vector = priced(0.01)
        row = {name: torch.zeros(SHAPES[name], dtype=torch.bool) for name in SHAPES}
        row["dram"][:30] = True
        cost = vector.evaluate(row)
        assert cost.marginal_j.value < 0.2 * cost.priced_j

    def test_lines_and_rows_of_a_mask_are_those_it_touches(self) -> None:
        vector = priced(0.01)
        masks = random_masks(vector, 0.01, seed=2)
        touched = vector.evaluate(masks).touched["dram"]
        kept = masks["dram"].reshape(-1).nonzero().squeeze(1)
        assert touched.kept == len(kept)
        assert touched.lines == len(set((kept // 16).tolist()))
        assert touched.rows == len(set((kept // 2048).tolist()))

    def test_work_is_what_is_counted_for_each_tensor(self) -> None:
        vector = priced(0.01, optimizer_streams=2)
        cost, memory = vector.evaluate(random_masks(vector, 0.02)), vector.pricing.memory
        for name, works in cost.work.items():
            layout, touched = vector.tensors[name].layout, cost.touched[name]
            pack = pack_work(memory, 4 + 4) * touched.kept
            apply = apply_work(layout, residence(layout, memory, 2), memory, touched, 2)
            assert dict(works["pack"].without_times()) == pytest.approx(dict(pack), rel=1e-15)
            assert dict(works["apply"].without_times()) == pytest.approx(dict(apply), rel=1e-15)
            assert works["apply"]["awake_w"] == vector.pricing.model.duration_s(apply)

    def test_a_selection_costs_what_its_booleans_cost(self) -> None:
        vector = priced(0.01, index_coding="golomb")
        generator = torch.Generator().manual_seed(3)
        update = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
        selection = select(update, vector.prices_j, 0.05 * sum(vector.prices_j.values()) * 1e6, rule="cwmp")
        assert 0 < selection.kept < vector.coordinates
        assert vector.evaluate(selection.bitmasks) == vector.evaluate(selection.masks)

    def test_counts_do_as_well_as_masks(self) -> None:
        vector = priced(0.01)
        cost = vector.evaluate(random_masks(vector, 0.01))
        assert vector.evaluate(dict(cost.touched)) == cost

    def test_the_prices_in_two_parts_add_up_to_the_price(self) -> None:
        for vector in (priced(0.01), priced(0.3, optimizer_streams=2)):
            masks = random_masks(vector, next(iter(vector.tensors.values())).density)
            exact = vector.evaluate(masks)
            blocks_j = 0.0
            for name, cost in vector.tensors.items():
                assert cost.block.line_coordinates == 16
                touched = exact.touched[name]
                blocks_j += cost.block.open_j * touched.lines + cost.block.element_j * touched.kept
            assert blocks_j == pytest.approx(exact.marginal_j.value, rel=0.02)

    def test_fixed_and_marginal_joules_are_the_total(self) -> None:
        vector = cost_vector(
            network(), known_cost_model(), boundary="update+uplink", link="wifi-2012", density=0.01
        )
        cost = vector.evaluate(random_masks(vector, 0.01))
        assert cost.total_j.value == pytest.approx(vector.fixed_j.value + cost.marginal_j.value)
        assert cost.marginal_j.value == pytest.approx(cost.update_j.value + cost.uplink_j.value)
        work = cost.phase_work("pack") + cost.phase_work("apply")
        assert cost.update_j.value == pytest.approx(vector.pricing.model.predict_j(work).value)

    def test_an_empty_mask_costs_only_what_is_fixed(self) -> None:
        vector = priced(0.01)
        for nothing in ({}, {"l1": torch.zeros(SHAPES["l1"], dtype=torch.bool)}):
            cost = vector.evaluate(nothing)
            assert (cost.kept, cost.marginal_j.value, cost.payload_bytes) == (0, 0, 0)
            assert cost.total_j.value == pytest.approx(vector.fixed_j.value)

    def test_a_full_message_needs_no_indices(self) -> None:
        vector = priced(0.01)
        full = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
        cost = vector.evaluate(full)
        assert cost.payload_bytes == 4 * vector.coordinates
        dense = vector.at_density(1.0)
        assert dense.evaluate(full).priced_j == pytest.approx(cost.marginal_j.value)
        full["l1"][0, 0] = False
        assert vector.evaluate(full).payload_bytes == 8 * (vector.coordinates - 1)

    def test_masks_of_another_network_are_refused(self) -> None:
        vector = priced(0.01)
        with pytest.raises(UsageError, match="no tensor other"):
            vector.evaluate({"other": torch.ones(2, dtype=torch.bool)})
        with pytest.raises(UsageError, match="shape"):
            vector.evaluate({"l1": torch.ones(2, dtype=torch.bool)})
        with pytest.raises(UsageError, match="cannot be kept"):
            vector.evaluate({"l1": Touched(kept=3201, lines=200, rows=2)})


class TestUncertainty:
    @pytest.mark.parametrize("correlation", [0.0, 0.9])
    def test_it_is_that_of_sampled_coefficients(self, correlation: float) -> None:
        model = known_cost_model(relative_u=0.05, correlation=correlation)
        vector = priced(0.02, model)
        names = model.document.covariance.names
        rng = np.random.default_rng(7)
        draws = rng.multivariate_normal(model.values(names), model.covariance(names), size=20_000)
        masked = vector.evaluate(random_masks(vector, 0.02))
        works = {
            "price": (
                vector.tensors["dram"].work["pack"] + vector.tensors["dram"].work["apply"],
                vector.tensors["dram"].price_j,
            ),
            "fixed": (vector.fixed_work, vector.fixed_j),
            "mask": (masked.phase_work("pack") + masked.phase_work("apply"), masked.marginal_j),
        }
        for work, estimate in works.values():
            sampled = draws @ np.array([work[name] for name in names])
            # 20 000 draws know a deviation to 0.5 %.
            assert estimate.standard_uncertainty == pytest.approx(sampled.std(), rel=0.03)
            assert estimate.value == pytest.approx(sampled.mean(), rel=0.01)

    def test_the_error_of_a_link_is_one_error_of_all_that_it_sends(self) -> None:
        vector = cost_vector(
            network(), known_cost_model(), boundary="update+uplink", link="lte-2012", density=0.01
        )
        cost = vector.evaluate(random_masks(vector, 0.01))
        assert cost.uplink_j.standard_uncertainty == pytest.approx(0.06 * cost.uplink_j.value)
        sent_j = cost.uplink_j.value + 12.76
        assert cost.total_j.standard_uncertainty == pytest.approx(0.06 * sent_j)


class TestBoundary:
    def test_the_uplink_adds_the_bits_of_a_pair(self) -> None:
        near = priced(0.01)
        for name, link in LINKS.items():
            far = cost_vector(
                network(), known_cost_model(), boundary="update+uplink", link=name, density=0.01
            )
            bits_j = 8 * (4 + 4) * link.kappa * link.up_nj_per_bit * 1e-9
            for level in SHAPES:
                assert far.tensors[level].uplink_j == pytest.approx(bits_j)
                assert far.prices_j[level] - near.prices_j[level] == pytest.approx(bits_j)
            assert far.fixed_j.value - near.fixed_j.value == pytest.approx(link.wake_j or 0)
            assert any("wake energy" in note for note in far.notes) == (link.wake_j is None)

    def test_a_radio_makes_prices_equal(self) -> None:
        radio = cost_vector(
            network(), known_cost_model(), boundary="update+uplink", link="wifi-2012", density=0.01
        )
        assert radio.var_ln_c < 1e-4 < 0.1 < priced(0.01).var_ln_c

    def test_golomb_indices_are_shorter(self) -> None:
        # Entropy of a mask of density p, per kept coordinate: 8.1 bits at 1 %, 4.7 at 10 %.
        assert 8 * index_bytes("golomb", 0.01) == pytest.approx(8.1, abs=0.05)
        assert 8 * index_bytes("golomb", 0.1) == pytest.approx(4.7, abs=0.1)
        assert index_bytes("raw32", 0.01) == 4
        assert 8 * index_bytes("golomb", 1.0) == pytest.approx(1.0, abs=0.05)

    def test_boundary_and_link_must_fit(self) -> None:
        model = known_cost_model()
        for boundary, link in (("update", "wifi-2012"), ("update+uplink", None), ("universe", None)):
            with pytest.raises(UsageError):
                cost_vector(network(), model, boundary=boundary, link=link, density=0.1)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="Links: lte-2012"):
            cost_vector(network(), model, boundary="update+uplink", link="pigeon", density=0.1)

    def test_provenance_is_the_worst_of_the_parts(self) -> None:
        simulated = known_cost_model()
        coefficients = tuple(
            c.model_copy(update={"provenance": "measured"}) for c in simulated.document.coefficients
        )
        measured = CostModel(
            simulated.document.model_copy(update={"provenance": "measured", "coefficients": coefficients})
        )
        assert priced(0.1).provenance == "simulated"
        assert priced(0.1, measured).provenance == "measured"
        assert priced(0.1, measured.with_assumed({"launch": 1e-6})).provenance == "literature"
        sent = {"boundary": "update+uplink", "link": "wifi-2012", "density": 0.1}
        assert cost_vector(network(), measured, **sent).provenance == "literature"  # type: ignore[arg-type]
        assert cost_vector(network(), simulated, **sent).provenance == "simulated"  # type: ignore[arg-type]

    def test_without_an_awake_power_time_is_free_and_that_is_said(self) -> None:
        document = known_cost_model().document.model_copy(update={"time_attribution": "idle"})
        vector = priced(0.1, CostModel(document))
        assert vector.fixed_work["awake_w"] == 0
        assert "time is not charged" in vector.notes[0]
        assert all(vector.prices_j[level] < priced(0.1).prices_j[level] for level in SHAPES)


class TestNetworks:
    def test_any_module_is_priced_by_its_trainable_parameters(self) -> None:
        shared = nn.Linear(5, 5)
        net = nn.ModuleDict(
            {
                "conv": nn.Conv2d(3, 8, 3),
                "norm": nn.BatchNorm2d(8),
                "lstm": nn.LSTM(4, 6),
                "embedding": nn.Embedding(10, 3),
                "one": shared,
                "again": shared,
            }
        )
        net["norm"].requires_grad_(False)
        vector = cost_vector(net, known_cost_model(), boundary="update", density=0.1)
        wanted = {name: p for name, p in net.named_parameters() if p.requires_grad}
        assert list(vector.tensors) == list(wanted)
        assert vector.coordinates == sum(p.numel() for p in wanted.values())

    @pytest.mark.parametrize(("dtype", "size"), [(torch.float64, 8), (torch.float32, 4)])
    def test_a_wider_dtype_moves_more_bytes(self, dtype: torch.dtype, size: int) -> None:
        tensors = {"w": torch.zeros(100, dtype=dtype)}
        cost = cost_vector(tensors, known_cost_model(), boundary="update", density=0.1).tensors["w"]
        assert cost.work["pack"]["byte_l1"] == 2 * (size + 4)
        assert cost.work["apply"][f"flop_fp{8 * size}"] == 2

    def test_what_has_no_coordinates_is_refused(self) -> None:
        model = known_cost_model()
        frozen = nn.Linear(2, 2).requires_grad_(False)
        for empty in (nn.ReLU(), frozen, {}, {"w": torch.empty(0, 3)}):
            with pytest.raises(EmptyNetworkError):
                cost_vector(empty, model, boundary="update", density=0.1)
        with pytest.raises(UsageError, match="no shape yet"):
            cost_vector(nn.LazyLinear(3), model, boundary="update", density=0.1)
        with pytest.raises(UsageError, match="dtype"):
            cost_vector({"w": torch.zeros(3, dtype=torch.int8)}, model, boundary="update", density=0.1)

    @pytest.mark.parametrize("density", [0.0, -0.1, 1.1, math.nan, {"l1": 0.1}])
    def test_a_density_is_a_fraction_for_every_tensor(self, density: float | dict[str, float]) -> None:
        with pytest.raises(UsageError, match="density"):
            cost_vector(network(), known_cost_model(), boundary="update", density=density)

    def test_densities_can_differ_by_tensor(self) -> None:
        densities = {"l1": 0.5, "l2": 0.1, "llc": 0.01, "dram": 0.001}
        vector = cost_vector(network(), known_cost_model(), boundary="update", density=densities)
        for level, density in densities.items():
            assert vector.tensors[level].price_j == priced(density).tensors[level].price_j
        assert vector.at_density(0.01).prices_j == priced(0.01).prices_j


class TestModels:
    @pytest.mark.parametrize("term", ["byte_dram_write", "awake_w", "line_random_dram"])
    def test_a_refused_coefficient_is_named(self, term: str) -> None:
        model = known_cost_model(refused=frozenset({term}))
        with pytest.raises(MissingCoefficientError, match=term):
            priced(0.1, model)
        assert priced(0.1, model.with_assumed({term: TRUTH[term]})).prices_j == priced(0.1).prices_j

    def test_a_coefficient_that_is_not_needed_may_be_refused(self) -> None:
        model = known_cost_model(refused=frozenset({"byte_llc", "byte_dram_read", "flop_fp64"}))
        small = {"w": torch.zeros(10)}
        assert cost_vector(small, model, boundary="update", density=0.1).prices_j["w"] > 0

    def test_a_model_without_a_device_gives_tensors_no_place(self) -> None:
        document = known_cost_model().document.model_copy(update={"device": None})
        with pytest.raises(UnknownMemoryError):
            priced(0.1, CostModel(document))

    def test_a_coordinate_that_costs_nothing_is_refused(self) -> None:
        free = {term: 0.0 for term in TRUTH if term != "launch"}
        with pytest.raises(InvalidCostError, match="l1 would cost 0"):
            priced(0.1, known_cost_model(overrides=free))

    def test_an_unknown_optimiser_or_coding_is_refused(self) -> None:
        with pytest.raises(UsageError, match="Codings: raw32, golomb"):
            priced(0.1, index_coding="morse")
        with pytest.raises(UsageError, match="4 states"):
            priced(0.1, optimizer_streams=4)


def test_work_of_whole_masks_is_linear_in_what_they_touch() -> None:
    vector = priced(0.01)
    one = vector.evaluate({"llc": Touched(kept=10, lines=5, rows=2)})
    two = vector.evaluate({"llc": Touched(kept=20, lines=10, rows=4)})
    for phase in ("pack", "apply"):
        assert dict(two.phase_work(phase)) == pytest.approx(dict(2 * one.phase_work(phase)))  # type: ignore[arg-type]
    assert isinstance(one.phase_work("pack"), Work)
