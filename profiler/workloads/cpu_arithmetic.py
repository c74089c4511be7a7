"""Kernels of fused multiply-adds, written in the compiler's own vectors so that every one is counted.

Each step is x ← x·x − c, one fused multiply-add. With c = 1.9 this map is chaotic and stays in [−c, c² − c]
for every |x| below 1.96: both factors keep changing their sign and mantissa, and nothing overflows, settles,
or leaves the normal numbers. (With constant factors it would converge, and bits would stop toggling. In
single precision an orbit ends in a cycle, of some hundred values.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from profiler.workloads.compiled import compiled, compiled_reordering_sums

ADDEND = -1.9
"""−c of the map x ← x·x − c."""

CHAINS = 10
"""Independent vectors in flight: latency 4 or 5 cycles times two units, and they fit in 16 registers."""


def host_features() -> dict[str, bool]:
    """What this CPU can, by LLVM's names."""
    return dict(llvmlite.binding.get_host_cpu_features())


def vector_bits() -> int:
    """Width of this CPU's widest floating-point registers."""
    features = host_features()
    if features.get("avx512f"):
        return 512
    return 256 if features.get("avx") else 128


def chain_elements(itemsize: int) -> int:
    """Elements that the registers of the ``fma`` kernel hold."""
    return CHAINS * vector_bits() // (8 * itemsize)


def _fused_step(builder: ir.IRBuilder, x: Any, addend: Any) -> Any:
    """Emit x·x + addend for scalars or vectors: fused where the CPU can, else multiplied and then added."""
    vector = isinstance(x.type, ir.VectorType)
    name = "f32" if isinstance(x.type.element if vector else x.type, ir.FloatType) else "f64"
    if vector:
        name = f"v{x.type.count}{name}"
    signature = ir.FunctionType(x.type, [x.type] * 3)
    fmuladd = cgutils.get_or_insert_function(builder.module, signature, f"llvm.fmuladd.{name}")
    return builder.call(fmuladd, [x, x, addend])


def _type_advance(typingctx: Any, state: Any, steps: Any, addend: Any) -> Any:
    """Step every element of ``state`` in registers: loaded once, stored once."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        scalar = context.get_value_type(signature.args[0].dtype)
        itemsize = 4 if isinstance(scalar, ir.FloatType) else 8
        vector = ir.VectorType(scalar, vector_bits() // (8 * itemsize))
        addends = ir.Constant(vector, ir.Undefined)
        for lane in range(vector.count):
            addends = builder.insert_element(addends, arguments[2], ir.Constant(ir.IntType(32), lane))
        memory = builder.bitcast(array.data, vector.as_pointer())
        places = [builder.gep(memory, [ir.Constant(ir.IntType(64), chain)]) for chain in range(CHAINS)]
        registers = [cgutils.alloca_once(builder, vector) for _ in places]
        for place, register in zip(places, registers, strict=True):
            builder.store(builder.load(place, align=itemsize), register)
        with cgutils.for_range(builder, arguments[1]):
            for register in registers:
                builder.store(_fused_step(builder, builder.load(register), addends), register)
        for place, register in zip(places, registers, strict=True):
            builder.store(builder.load(register), place, align=itemsize)
        return context.get_dummy_value()

    return types.void(state, steps, addend), generate


_advance: Any = intrinsic(_type_advance)


@compiled
def fma(state: NDArray[Any], steps: int) -> None:
    """Step each element of ``state`` so often: ``steps · state.size`` multiply-adds.

    Args:
        state: shape (``chain_elements(itemsize)``,), no other; read before the first step, written after
            the last.
        steps: of each element.
    """
    _advance(state, steps, state.dtype.type(ADDEND))


@compiled
def fma_adding(state: NDArray[Any], steps: int, addend: Any) -> None:
    """The same with the map x ← x·x + addend; zeros stay zeros if nothing is added to them."""
    _advance(state, steps, addend)


@functools.cache
def intensity_kernel(fma_per_element: int) -> Callable[[NDArray[Any], int], Any]:
    """A kernel that reads each element once per loop, steps it so often and adds it to a sum.

    The number of steps is a constant of the compiled code; the elements of a vector step together. It does
    ``2·fma_per_element + 1`` FLOP per element, and a few additions at the end of each loop to join the
    lanes of the sum (below 1 % for 2000 elements).

    Returns:
        ``kernel(elements, loops)``, which returns the sum of all results.
    """

    def type_stepped(typingctx: Any, x: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            (value,) = arguments
            for _ in range(fma_per_element):
                value = _fused_step(builder, value, ir.Constant(value.type, ADDEND))
            return value

        return x(x), generate

    stepped: Any = intrinsic(type_stepped)

    @compiled_reordering_sums
    def intensity(elements: NDArray[Any], loops: int) -> Any:
        total = elements.dtype.type(0)
        for _ in range(loops):
            for index in range(elements.size):
                total += stepped(elements[index])
        return total

    return intensity
