"""Counted work against torch's own counter, closed forms, and other ways to the same result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from fakes.zoo import ZOO, first
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from calibration_data import MemoryHierarchy, Work
from cwmp.prediction import CountedWork, WorkCounter

MEMORY = MemoryHierarchy(l1_bytes=32_768, l2_bytes=1 << 20, llc_bytes=1 << 25, line_bytes=64, cores=16)
HUGE_L1 = MemoryHierarchy(l1_bytes=2**40, l2_bytes=2**41, llc_bytes=None, line_bytes=64, cores=1)
NO_CACHE = MemoryHierarchy(l1_bytes=64, l2_bytes=64, llc_bytes=None, line_bytes=64, cores=1)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "foreach": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, foreach=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
}


def counted(run: Callable[[], object], memory: MemoryHierarchy = HUGE_L1) -> CountedWork:
    with WorkCounter(memory) as counter:
        run()
    return counter.counted


def torch_counts(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def training_step(name: str, optimizer: str = "sgd") -> Callable[[], None]:
    network, samples = ZOO[name][0](), ZOO[name][1]()
    dense = [p for p in network.parameters() if p.requires_grad]
    stepper = OPTIMIZERS[optimizer](dense)

    def step() -> None:
        stepper.zero_grad()
        first(network(samples)).square().mean().backward()
        stepper.step()

    step()
    return step


def charged_flop(work: CountedWork) -> float:
    return sum(amount for name, amount in work.work.items() if name.startswith("flop_"))


@pytest.mark.parametrize("name", ZOO)
def test_flop_of_a_training_step_are_those_of_torchs_counter(name: str) -> None:
    step = training_step(name)
    assert counted(step).torch_flop == torch_counts(step)


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_flop_of_inference_are_those_of_torchs_counter(name: str, mode: type) -> None:
    network, samples = ZOO[name][0]().eval(), ZOO[name][1]()

    def forward() -> None:
        with mode():
            network(samples)

    assert counted(forward).torch_flop == torch_counts(forward)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_of_optimisers_are_counted(optimizer: str) -> None:
    work = counted(training_step("in place", optimizer))
    layers = {item.layer for item in work.calls}
    assert any(layer.endswith(" step") for layer in layers)
    assert work.torch_flop == torch_counts(training_step("in place", optimizer))


LAYERS = {
    "linear": lambda channels: nn.Conv2d(channels, channels, 1),
    "conv": lambda channels: nn.Conv2d(channels, channels, 3, padding=1),
    "depthwise": lambda channels: nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=channels),
    "transposed": lambda channels: nn.ConvTranspose2d(channels, channels, 3, padding=1),
    "norm": nn.BatchNorm2d,
    "relu": lambda channels: nn.ReLU(),
    "pool": lambda channels: nn.AvgPool2d(3, stride=1, padding=1),
    "dropout": lambda channels: nn.Dropout(),
}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6), st.integers(1, 5), st.integers(2, 4)
)
def test_any_stack_of_layers_agrees_with_torchs_counter(names: list[str], channels: int, batch: int) -> None:
    network = nn.Sequential(nn.Conv2d(2, channels, 1), *(LAYERS[name](channels) for name in names))
    samples = torch.randn(batch, 2, 6, 6)

    def step() -> None:
        network(samples).sum().backward()

    work = counted(step, MEMORY)
    assert work.torch_flop == torch_counts(step)
    assert work.work["launch"] == sum(item.calls for item in work.calls)
    assert not [item for item in work.calls if item.gaps]


@contextmanager
def unfused() -> Iterator[None]:
    """Attention and recurrent layers as matrix products, which torch's counter sees."""
    torch.backends.mha.set_fastpath_enabled(False)
    torch._C._set_mkldnn_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch._C._set_mkldnn_enabled(True)
        torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("name", ["attention", "lstm", "encoder"])
def test_fused_inference_is_charged_as_many_flop_as_unfused(name: str) -> None:
    network, samples = ZOO[name][0]().eval(), ZOO[name][1]()

    def forward() -> None:
        with torch.no_grad():
            network(samples)

    fused = counted(forward)
    with unfused():
        expected = torch_counts(forward)
    assert fused.torch_flop < expected
    assert charged_flop(fused) == expected


def test_fused_training_is_charged_as_many_flop_as_unfused() -> None:
    network = nn.LSTM(5, 8, num_layers=2, batch_first=True)
    samples = torch.randn(3, 4, 5, requires_grad=True)
    state = (torch.randn(2, 3, 8, requires_grad=True), torch.randn(2, 3, 8, requires_grad=True))

    def step() -> None:
        network(samples, state)[0].sum().backward()

    fused = counted(step)
    with unfused():
        expected = torch_counts(step)
    assert fused.torch_flop == 0
    assert charged_flop(fused) == expected


def test_the_backward_of_fused_attention_recomputes_the_scores() -> None:
    query, key, value = (torch.randn(2, 3, 5, 8, requires_grad=True) for _ in range(3))

    def step() -> None:
        nn.functional.scaled_dot_product_attention(query, key, value).sum().backward()

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        fused = charged_flop(counted(step))
    with sdpa_kernel(SDPBackend.MATH):
        plain = torch_counts(step)
    scores = 2 * 2 * 3 * 5 * 5 * 8
    assert fused == plain + scores


@pytest.mark.parametrize("convolution", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_grouped_convolution_is_charged_as_its_groups_apart(convolution: type[nn.Module]) -> None:
    groups = 4
    whole = convolution(8, 12, 3, groups=groups)
    part = convolution(8 // groups, 12 // groups, 3)
    samples = torch.randn(2, 8, 7, 7, requires_grad=True)
    slice_ = torch.randn(2, 8 // groups, 7, 7, requires_grad=True)
    one = torch_counts(lambda: part(slice_).sum().backward())
    work = counted(lambda: whole(samples).sum().backward())
    assert charged_flop(work) == groups * one
    assert work.torch_flop > groups * one
    assert any("group" in item.difference for item in work.calls)


def only(work: CountedWork) -> Work:
    """The work of a single operator call."""
    (item,) = work.calls
    assert item.calls == 1
    return item.work


def test_views_and_allocations_cost_nothing() -> None:
    x = torch.randn(6, 4)

    def views() -> None:
        x.view(4, 6).t()[1:, ::2].unsqueeze(0).expand(3, -1, -1).detach()
        torch.empty(100).as_strided((5, 5), (1, 2)).unflatten(0, (5, 1)).chunk(5)
        torch.ops.aten._unsafe_view(x, (24,)).unfold(0, 5, 2)
        x.new_empty(3).transpose_(0, 0).squeeze_().size()

    assert counted(views).calls == ()


@pytest.mark.parametrize(
    ("run", "loaded", "stored"),
    [
        (lambda x, y: x + y, 8, 4),
        (lambda x, y: x * x, 4, 4),
        (lambda x, y: x.add_(y), 8, 4),
        (lambda x, y: x.relu_(), 4, 4),
        (lambda x, y: x.zero_(), 0, 4),
        (lambda x, y: x.copy_(y), 4, 4),
        (lambda x, y: torch.mul(x, y, out=torch.empty(1000)), 8, 4),
        (lambda x, y: torch._foreach_add_([x, y], 1.0), 8, 8),
        (lambda x, y: torch.cat([x, y]), 8, 8),
        (lambda x, y: torch.zeros(1000), 0, 4),
        (lambda x, y: x.clone(), 4, 4),
        (lambda x, y: x[:500].neg(), 2, 2),
    ],
)
def test_bytes_of_element_wise_operators(
    run: Callable[[Tensor, Tensor], object], loaded: int, stored: int
) -> None:
    x, y = torch.randn(1000), torch.randn(1000)
    assert only(counted(lambda: run(x, y))) == Work({"byte_l1": 1000 * (loaded + stored), "launch": 1})


def test_a_store_first_reads_its_line() -> None:
    """From DRAM: reads x, y and the lines of the result; writes the result."""
    x, y = torch.randn(1000), torch.randn(1000)
    work = only(counted(lambda: x + y, NO_CACHE))
    assert (work["byte_dram_read"], work["byte_dram_write"]) == (12_000, 4_000)
    assert work["byte_l2"] == 16_000
    in_place = only(counted(lambda: x.add_(y), NO_CACHE))
    assert (in_place["byte_dram_read"], in_place["byte_dram_write"]) == (8_000, 4_000)


def test_an_expanded_tensor_moves_what_it_holds() -> None:
    x = torch.randn(10, 1).expand(10, 100)
    assert only(counted(x.exp))["byte_l1"] == 40 + 4000


@pytest.mark.parametrize(
    ("numel", "level"),
    [(2_000, "byte_l1"), (50_000, "byte_l2"), (2_000_000, "byte_llc"), (5_000_000, "byte_dram_read")],
)
def test_operands_live_where_they_all_fit(numel: int, level: str) -> None:
    x = torch.randn(numel)
    work = only(counted(x.neg, MEMORY))
    assert list(work)[-2 if level != "byte_dram_read" else -3] == level


def test_a_lookup_reads_its_rows_where_the_table_lives() -> None:
    table, rows = torch.randn(1000, 24), torch.arange(7)
    lookup = counted(lambda: nn.functional.embedding(rows, table), NO_CACHE)
    work = only(lookup)
    row, line = 24 * 4, 64
    assert work["byte_l1"] == 7 * 8 + 7 * row + 7 * row
    assert work["line_random_dram"] == 7
    # a row of 96 bytes lies in two lines
    assert work["byte_dram_read"] == 7 * 8 + 7 * 2 * line + 7 * row
    assert only(counted(lambda: table.index_select(0, rows), NO_CACHE)) == work
    assert only(counted(lambda: table[rows], NO_CACHE)) == work


def test_a_scatter_touches_its_places_only() -> None:
    big, index, values = torch.zeros(1_000_000), torch.arange(5), torch.ones(5)
    for run in (
        lambda: big.index_add_(0, index, values),
        lambda: big.scatter_add_(0, index, values),
        lambda: big.index_put_((index,), values, accumulate=True),
    ):
        work = only(counted(run, NO_CACHE))
        assert work["byte_l1"] == 5 * 8 + 5 * 4 + 2 * 5 * 4
        assert work["line_random_dram"] == 5
        assert work["byte_dram_write"] == 5 * 64


def test_linear_by_hand() -> None:
    """B samples, F features, C classes: forward, both gradients, and the sum for the bias."""
    b, f, c = 8, 64, 10
    layer, x = nn.Linear(f, c), torch.randn(b, f, requires_grad=True)
    output_gradient = torch.ones(b, c)
    x_bytes, w_bytes, z_bytes, bias_bytes = 4 * b * f, 4 * f * c, 4 * b * c, 4 * c
    work = counted(lambda: layer(x).backward(output_gradient)).work
    assert work["byte_l1"] == (
        (x_bytes + w_bytes + bias_bytes + z_bytes)  # forward
        + (z_bytes + w_bytes + x_bytes)  # gradient of x
        + (z_bytes + x_bytes + w_bytes)  # gradient of the weight
        + (z_bytes + bias_bytes)  # gradient of the bias
    )
    assert work["flop_fp32"] == 3 * 2 * b * f * c
    assert work["launch"] == 4


def test_dtypes_have_their_own_flop_and_bytes() -> None:
    for dtype, term, size in ((torch.float64, "flop_fp64", 8), (torch.bfloat16, "flop_bf16", 2)):
        a, b = torch.ones(4, 5, dtype=dtype), torch.ones(5, 6, dtype=dtype)
        assert only(counted(lambda a=a, b=b: a @ b)) == Work(
            {term: 240, "byte_l1": size * (20 + 30 + 24), "launch": 1}
        )


def test_what_cannot_be_counted_is_a_gap_with_a_reason() -> None:
    whole = torch.ones(3, 3, dtype=torch.int64)
    (item,) = counted(lambda: whole @ whole).calls
    assert item.torch_flop == 54
    assert [(gap.what, gap.amount) for gap in item.gaps] == [("FLOP", 54)]
    assert "int64" in item.gaps[0].reason
    (copy,) = counted(lambda: torch.ones(10).to("meta")).calls[1:]
    assert [(gap.what, gap.amount) for gap in copy.gaps] == [("bytes", 40)]


def test_tensors_whose_memory_cannot_be_seen_are_gaps() -> None:
    blocked = torch.ones(4, 4).to_mkldnn()
    (item,) = counted(blocked.relu).calls
    assert [(gap.what, gap.amount) for gap in item.gaps] == [("bytes", None)]
    assert item.work == Work({"launch": 1})


def test_sparse_tensors_move_their_indices_and_values() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 5, 7]]), torch.ones(3), (1000,), check_invariants=True)
    work = counted(lambda: sparse * 2.0)
    assert not [item for item in work.calls if item.gaps]
    assert 3 * (8 + 4) <= work.work["byte_l1"] < 1000


def test_operators_without_a_formula_are_named_and_movers_are_not() -> None:
    x = torch.randn(5, 5)
    work = counted(lambda: (x.relu().softmax(0).clone(), x.relu(), torch.cat([x, x])))
    assert work.without_formula == {"aten::_softmax": 1, "aten::relu": 2}


@pytest.mark.parametrize("name", ["encoder", "depthwise", "embedding", "pools", "gru"])
def test_flop_of_each_module_are_those_of_torchs_counter(name: str) -> None:
    """Torch counts a module with everything in it; ours are of the innermost one."""
    network, samples = ZOO[name][0](), ZOO[name][1]()

    def forward() -> None:
        network(samples)

    ours: defaultdict[str, int] = defaultdict(int)
    for item in counted(forward).calls:
        parts = item.layer.split(".")
        for depth in range(1, len(parts) + 1):
            ours[".".join(parts[:depth])] += item.torch_flop * item.calls
    with FlopCounterMode(display=False) as counter:
        forward()
    expected = {
        path: sum(flop.values()) for path, flop in counter.get_flop_counts().items() if path != "Global"
    }
    assert {path: ours[path] for path in expected} == expected
    assert {path for path, flop in ours.items() if flop} - set(expected) <= {"TransformerEncoder.layers"}


def test_backward_belongs_to_the_layer_whose_forward_made_it() -> None:
    """Each linear layer: its product forward, and twice as many FLOP backward."""
    network = nn.Sequential(
        nn.Linear(4, 8), nn.Tanh(), nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 2)
    )
    samples = torch.randn(3, 4, requires_grad=True)
    flop: defaultdict[str, int] = defaultdict(int)
    for item in counted(lambda: network(samples).sum().backward()).calls:
        flop[item.layer] += item.torch_flop * item.calls
    assert {name: count for name, count in flop.items() if count} == {
        "Sequential.0": 3 * 2 * 3 * 4 * 8,
        "Sequential.2.0": 3 * 2 * 3 * 8 * 16,
        "Sequential.3": 3 * 2 * 3 * 16 * 2,
    }
    assert {"Sequential.1", "Sequential.2.1", "outside modules"} < set(flop)


def test_recomputed_layers_are_counted_where_they_run() -> None:
    layer, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), torch.randn(2, 4, requires_grad=True)

    def step() -> None:
        checkpoint(layer, x, use_reentrant=False).sum().backward()

    work = counted(step)
    assert work.torch_flop == torch_counts(step) == 4 * 2 * 2 * 4 * 4
    assert sum(i.torch_flop * i.calls for i in work.calls if i.layer == "Sequential.0") == work.torch_flop


def test_layers_survive_an_exception_and_two_networks_of_one_class() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("no")

    first_network, second_network, x = (
        nn.Sequential(nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2)),
        torch.ones(1, 2),
    )
    with WorkCounter(HUGE_L1) as counter:
        with pytest.raises(ValueError, match="no"):
            Broken()(x)
        x.neg()
        first_network(x)
        second_network(x)
    assert [item.layer for item in counter.counted.calls] == [
        "outside modules",
        "Sequential.0",
        "Sequential#2.0",
    ]


def test_it_works_beside_torchs_counter_and_starts_anew() -> None:
    a = torch.ones(3, 3)
    counter = WorkCounter(HUGE_L1)
    for _ in range(2):
        with FlopCounterMode(display=False) as theirs, counter:
            a @ a
        assert theirs.get_total_flops() == counter.counted.torch_flop == 54


def test_counting_changes_no_result() -> None:
    network, samples = ZOO["encoder"][0](), ZOO["encoder"][1]()
    torch.manual_seed(1)
    expected = network(samples)
    torch.manual_seed(1)
    with WorkCounter(MEMORY):
        found = network(samples)
    assert torch.equal(found, expected)
