"""Arithmetic of an operator call: what torch's counter says, and what joules are charged for.

``torch.utils.flop_counter`` has the formulas of matrix products, convolutions and attention; its registry is
used as it is, with what users register there. Where it says nothing or too much about the same kind of
arithmetic, the joules follow the formulas of this file, and the difference is named:

    no formula      attention and recurrent layers fused for CPUs, fused inference layers, vector products
    too much        the weight gradient of a grouped convolution, counted as if there were one group

Element-wise arithmetic and reductions have no formula in either; their results are counted and named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.utils import flop_counter

from cwmp.prediction.operands import Operands
from cwmp.tensors import FLOP_TERMS

NO_FORMULA = "torch's counter has no formula for it"
ONE_GROUP = "torch's counter takes the weight gradient of a grouped convolution for that of one group"


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """FLOP of one call.

    Attributes:
        torch_flop: by torch's counter.
        flop: what joules are charged for.
        term: of the energy model for the operands' dtype; empty if there is none.
        dtype: of the operands, for messages.
        elements: results whose arithmetic no formula counts; 0 if one does or there is none.
        difference: why ``flop`` is not ``torch_flop``; empty if it is.
    """

    torch_flop: int = 0
    flop: int = 0
    term: str = ""
    dtype: str = ""
    elements: int = 0
    difference: str = ""


def arithmetic(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], output: object, given: Operands
) -> Arithmetic:
    """FLOP of one call.

    Args:
        func: the operator.
        args: its positional arguments.
        kwargs: its other arguments.
        output: what it returned.
        given: its tensors.
    """
    name = func._schema.name
    formula = flop_counter.flop_registry.get(func.overloadpacket)
    term, dtype = _dtype_of(given)
    if formula is not None:
        counted = int(formula(*args, **kwargs, out_val=output))
        flop, difference = counted, ""
        if name == "aten::convolution_backward" and given.named["groups"] > 1:
            flop = counted - _excess_of_groups(formula, given.named, output)
            difference = ONE_GROUP if flop != counted else ""
        return Arithmetic(torch_flop=counted, flop=flop, term=term, dtype=dtype, difference=difference)
    if name in _FORMULAS and not given.opaque:
        return Arithmetic(flop=_FORMULAS[name](given.named), term=term, dtype=dtype, difference=NO_FORMULA)
    return Arithmetic(elements=0 if name in _ONLY_MOVES else _elements(given))


def _dtype_of(given: Operands) -> tuple[str, str]:
    """Term and dtype of the arithmetic: that of the first floating or complex operand."""
    dtypes = [tensor.dtype for tensor in given.read]
    numbers = [dtype for dtype in dtypes if dtype.is_floating_point or dtype.is_complex] or dtypes
    return (FLOP_TERMS.get(numbers[0], ""), str(numbers[0])) if numbers else ("", "no operand")


def _elements(given: Operands) -> int:
    """Numbers that come out, or that go into a reduction."""
    results = sum(tensor.numel() for tensor in given.made + given.overwritten + given.updated)
    return max([results, *(tensor.numel() for tensor in given.read)])


def _excess_of_groups(formula: Callable[..., int], named: Mapping[str, Any], output: object) -> int:
    """What the weight gradient is counted beyond its own group."""
    if not named["output_mask"][1]:
        return 0
    arguments = {**named, "output_mask": [False, True, False]}
    dense = int(formula(*arguments.values(), out_val=output))
    return dense - dense // int(named["groups"])


def _matmul(first: Tensor, second: Tensor) -> int:
    """Two-dimensional or batched matrix product, or with a vector: each element of the first meets a row."""
    return 2 * first.numel() * (int(second.shape[-1]) if second.dim() > 1 else 1)


def _tokens(tensor: Tensor) -> int:
    return tensor.numel() // tensor.shape[-1]


def _weighted(tokens: int, *weights: Tensor) -> int:
    """Every token meets every weight of the matrices; vectors are biases and norms."""
    return sum(2 * tokens * weight.numel() for weight in weights if weight.dim() > 1)


def _sdpa(query: Sequence[int], key: Sequence[int], value: Sequence[int]) -> int:
    return int(flop_counter.sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _attention(named: Mapping[str, Any]) -> int:
    return _sdpa(*(named[name].shape for name in ("query", "key", "value")))


def _attention_backward(named: Mapping[str, Any]) -> int:
    shapes = (named[name].shape for name in ("grad_out", "query", "key", "value"))
    return int(flop_counter.sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]


def _recurrent(*weights: str, factor: int) -> Callable[[Mapping[str, Any]], int]:
    """Every time step of every sample meets the matrices of the layer; its backward meets them twice."""

    def flop(named: Mapping[str, Any]) -> int:
        given = [named[name] for name in weights]
        flat = [tensor for item in given for tensor in (item if isinstance(item, list | tuple) else [item])]
        return factor * _weighted(_tokens(named["input"]), *flat)

    return flop


def _heads(source: Tensor, heads: int) -> tuple[int, int, int, int]:
    batch, length, width = source.shape
    return batch, heads, length, width // heads


def _multi_head(named: Mapping[str, Any]) -> int:
    """Projections and attention of ``nn.MultiheadAttention`` as one operator."""
    query, key, value = named["query"], named["key"], named["value"]
    shapes = [_heads(source, named["num_head"]) for source in (query, key, value)]
    third = named["qkv_weight"].chunk(3)
    projections = sum(_weighted(_tokens(s), w) for s, w in zip((query, key, value), third, strict=True))
    return projections + _weighted(_tokens(query), named["proj_weight"]) + _sdpa(*shapes)


def _encoder_layer(named: Mapping[str, Any]) -> int:
    """``nn.TransformerEncoderLayer`` as one operator."""
    source = named["src"]
    weights = ("qkv_weight", "proj_weight", "ffn_weight_1", "ffn_weight_2")
    shape = _heads(source, named["num_heads"])
    return _weighted(_tokens(source), *(named[name] for name in weights)) + _sdpa(shape, shape, shape)


_FORMULAS: Mapping[str, Callable[[Mapping[str, Any]], int]] = {
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable_backward": _attention_backward,
    "aten::_native_multi_head_attention": _multi_head,
    "aten::_transformer_encoder_layer_fwd": _encoder_layer,
    "aten::mkldnn_rnn_layer": _recurrent("weight0", "weight1", factor=1),
    "aten::mkldnn_rnn_layer_backward": _recurrent("weight1", "weight2", factor=2),
    "aten::_cudnn_rnn": _recurrent("weight", factor=1),
    "aten::_cudnn_rnn_backward": _recurrent("weight", factor=2),
    "aten::_addmm_activation": lambda named: _matmul(named["mat1"], named["mat2"]),
    "aten::addbmm": lambda named: _matmul(named["batch1"], named["batch2"]),
    "aten::mv": lambda named: _matmul(named["self"], named["vec"]),
    "aten::addmv": lambda named: _matmul(named["mat"], named["vec"]),
    "aten::dot": lambda named: _matmul(named["self"], named["tensor"]),
}
"""A backward of two matrix products, for the inputs and for the weights, is twice its forward."""

_ONLY_MOVES = frozenset(
    f"aten::{name}"
    for name in (
        "_foreach_copy_", "_foreach_zero_", "_local_scalar_dense", "_to_copy", "arange", "as_strided_copy",
        "cat", "clone", "constant_pad_nd", "copy_", "diagonal_backward", "embedding", "eye", "fill", "fill_",
        "flip", "full", "full_like", "gather", "index", "index_copy_", "index_fill_", "index_select",
        "lift_fresh_copy", "masked_fill", "masked_fill_", "masked_select", "max_unpool2d", "new_full",
        "new_ones", "new_zeros", "nonzero", "ones", "ones_like", "pixel_shuffle", "pixel_unshuffle",
        "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "repeat", "replication_pad1d",
        "replication_pad2d", "replication_pad3d", "roll", "scalar_tensor", "scatter_", "select_backward",
        "slice_backward", "stack", "take", "tril", "triu", "unsafe_split", "upsample_nearest1d",
        "upsample_nearest2d", "upsample_nearest3d", "where", "zero_", "zeros", "zeros_like",
    )
)  # fmt: skip
"""Operators that copy or choose numbers and compute none."""
