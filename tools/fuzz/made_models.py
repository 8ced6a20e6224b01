"""Small random models for the native engine, each around one operator.

Networks use few of the forms that operators have. These use them all: every operator, with its
options drawn at random, between neurons that make live spikes of the input and a sum over time and
places that makes logits of the output. They are seeds of the fuzzer, and models for tests.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from primesvt_deploy.artifact.native_file import EarlyStage, native_bytes
from primesvt_deploy.lowering.native.products import LARGEST_COUNT, largest_count
from primesvt_deploy.lowering.native.program import NativeProgram
from primesvt_deploy.lowering.native.records import (
    AttentionOp,
    Buffer,
    CopyOp,
    Data,
    DenseOp,
    ElementwiseOp,
    Function,
    MatMulOp,
    NeuronOp,
    NeuronRef,
    OperandKind,
    OperandRef,
    Operator,
    PixelsOp,
    ReduceOp,
    Reduction,
    SinkKind,
    SinkRef,
    SparseOp,
    SpikeAddOp,
    SpikeAndOp,
    SpikePoolOp,
    SpikesRef,
    ValuePoolOp,
    ValuesRef,
    WeightFormat,
    WindowRef,
)
from primesvt_deploy.lowering.native.stores import ValueStore, View, new_spikes, new_values

__all__ = ["made_models"]

_INT8 = 127
_FILLED = 6
"""Axes of an operand in a file."""


def made_models(each: int = 12, seed: int = 0) -> dict[str, bytes]:
    """Model files by name: `each` around every operator, four times as many around convolutions."""
    models = {}
    for name, make in _MAKERS.items():
        for number in range(each * 4 if name in _OFTEN else each):
            maker = _Maker.begun(seed * 1000 + number)
            program = make(maker)
            channels = 0 if program.frames or maker.pick(0, 1) else program.input_shape[0]
            mean, std = (0.5,) * channels, (0.25,) * channels
            models[f"{name}-{number}"] = native_bytes(program, mean=mean, std=std)
    return models | {f"stages-{number}": _stages(seed * 1000 + number) for number in range(each)}


def _stages(seed: int) -> bytes:
    """A model of two stages, of which the second may not run."""
    begun = _Maker.begun(seed)
    given = new_values(1, begun.elements).ref
    most = max(begun.steps, 2)
    first, last = (
        _neuron(replace(begun, steps=steps, given=given, operators=[]))
        for steps in (most // 2, most)
    )
    margin = (0.0, 0.25, float("inf"))[seed % 3]
    return native_bytes(last, early=[EarlyStage(first, margin)])


@dataclass
class _Maker:
    """A program that is being made.

    Args:
        random: where options come from.
        steps: T.
        shape: of the input, (channels, height, width).
        given: what the input is written to: an image, or as many frames as steps.
    """

    random: np.random.Generator
    steps: int
    shape: tuple[int, int, int]
    given: ValuesRef
    operators: list[Operator] = field(default_factory=list)

    @classmethod
    def begun(cls, seed: int) -> _Maker:
        random = np.random.default_rng(seed)
        steps = int(random.choice([1, 2, 3, 4, 7, 8, 9, 17, 32]))
        channels, height, width = (int(x) for x in random.integers(1, (21, 7, 7)))
        frames = int(random.choice([1, steps]))
        given = new_values(frames, channels * height * width).ref
        return cls(random, steps, (channels, height, width), given)

    def pick(self, *options: int) -> int:
        return int(self.random.choice(options))

    @property
    def name(self) -> Data:
        return Data(np.frombuffer(b"made\0", dtype=np.uint8))

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))

    def floats(self, *shape: int) -> Data:
        return Data(self.random.normal(0, 0.5, shape).astype("<f4"))

    def neuron(self, levels: int) -> NeuronRef:
        plain = levels == 1 and bool(self.pick(0, 1))
        return NeuronRef(
            decay=0.5,
            gain=1.0 if plain else 0.75,
            first_shift=0.0 if plain else 0.125,
            shift=0.0 if plain else 0.25,
            threshold=float(self.random.choice([0.5, 1.0])),
            v_reset=0.0,
            hard_reset=int(levels == 1 and (plain or bool(self.pick(0, 1)))),
            levels=levels,
            half_up=self.pick(0, 1),
        )

    def levels(self) -> int:
        """Largest count of neurons whose spikes fit what the engine fires at a time."""
        groups = -(-self.steps // 8)
        return self.pick(*[x for x in (1, 1, 2, 3, 4, 8, 16) if x * groups <= 16])

    def fired(self, levels: int, *, in_bits: bool = True) -> SpikesRef:
        """Spikes of neurons on the input, in the bits of a byte if it holds them, or in planes."""
        ref = new_spikes(self.steps, self.elements, levels=levels).ref
        if not in_bits:
            each = min(self.steps, 8)
            groups = -(-self.steps // each)
            ref = SpikesRef(
                buffer=Buffer(groups * levels * self.elements),
                steps=self.steps,
                groups=groups,
                planes=levels,
                step_bits=1,
                steps_per_group=each,
                elements=self.elements,
            )
        neuron = self.neuron(levels)
        self.operators.append(NeuronOp(name=self.name, input=self.given, neuron=neuron, output=ref))
        return ref

    def spikes(self) -> SpikesRef:
        """The input as spikes of any form."""
        form = self.pick(0, 0, 1, 2)
        if form < 2:
            return self.fired(self.levels(), in_bits=form == 0)
        total = self.fired(1)
        for _ in range(self.pick(1, 2, 3)):
            total = self.added(total, self.fired(1))
        return total

    def added(self, a: SpikesRef, b: SpikesRef) -> SpikesRef:
        """Sum of two counts of binary planes, which are the same for one plane."""
        planes = (_largest_of(a) + _largest_of(b)).bit_length()
        buffer = Buffer(a.groups * planes * a.elements)
        output = replace(a, buffer=buffer, planes=planes, binary=1)
        self.operators.append(SpikeAddOp(name=self.name, a=a, b=b, output=output))
        return output

    def window(self, *, pool: bool = False) -> WindowRef:
        """A window over the input that meets it everywhere."""
        channels, height, width = self.shape
        ky, kx, sy, sx = (int(x) for x in self.random.integers(1, 4, 4))
        dy, dx = (1, 1) if pool else (self.pick(1, 1, 2), self.pick(1, 1, 2))
        top, left = int(self.random.integers(0, ky)), int(self.random.integers(0, kx))
        return WindowRef(
            channels=channels,
            height=height,
            width=width,
            kernel_height=ky,
            kernel_width=kx,
            stride_y=sy,
            stride_x=sx,
            pad_top=top,
            pad_left=left,
            dilation_y=dy,
            dilation_x=dx,
            out_height=(height - 1 + top) // sy + 1,
            out_width=(width - 1 + left) // sx + 1,
        )

    def sink(self, window: WindowRef, outputs: int, steps: int) -> SinkRef:
        """Any sink; `result` is what it writes."""
        pooled, pool = {}, window
        if self.pick(0, 1):
            whole, self.shape = self.shape, (outputs, window.out_height, window.out_width)
            pool = self.window(pool=True)
            pooled, self.shape = {"pooled": 1, "pool": pool}, whole
        elements = pool.out_height * pool.out_width * outputs
        common = {"steps": steps, "width": window.out_width, **pooled}
        kind = SinkKind(self.pick(1, 1, 2, 3))
        if kind is SinkKind.NEURON:
            levels = self.levels()
            store = new_spikes(self.steps, elements, levels=levels)
            neuron = self.neuron(levels)
            return SinkRef(kind=kind, neuron=neuron, spikes=store.ref, **common)
        values = new_values(steps, elements).ref
        if kind is SinkKind.VALUES:
            return SinkRef(kind=kind, values=values, **common)
        other = new_values(self.pick(1, steps), elements).ref
        self.fill(other)
        return SinkRef(kind=kind, values=values, other=other, **common)

    def fill(self, values: ValuesRef) -> None:
        """Write constants."""
        shape = (values.steps, values.elements)
        data = self.floats(values.elements)
        self.operators.append(
            CopyOp(
                name=self.name,
                rank=2,
                sizes=_filled(shape),
                input=OperandRef(
                    kind=OperandKind.DATA,
                    strides=_filled((0, 1)),
                    values=ValuesRef(buffer=data, steps=1, elements=values.elements),
                ),
                output=_values(values, shape),
            )
        )

    def ended(
        self, result: SpikesRef | ValuesRef, channels: int, *, stored: bool = True
    ) -> NativeProgram:
        """The program whose logits are the sums of a result by channel."""
        steps, places = result.steps, result.elements // channels
        if isinstance(result, SpikesRef):
            values = new_values(steps, result.elements).ref
            shape = (steps, result.elements)
            source = _spikes(result, shape, unit=0.5)
            target = _values(values, shape)
            self.operators.append(
                CopyOp(name=self.name, rank=2, sizes=_filled(shape), input=source, output=target)
            )
            result = values
        logits = new_values(1, channels)
        self.operators.append(
            ReduceOp(
                name=self.name,
                function=Reduction.SUM,
                rank=3,
                kept=1,
                sizes=_filled((channels, steps, places)),
                input=OperandRef(
                    kind=OperandKind.VALUES,
                    strides=_filled((1, result.elements, channels)),
                    values=result,
                ),
                output=OperandRef(
                    kind=OperandKind.VALUES, strides=_filled((1,)), values=logits.ref
                ),
            )
        )
        frames = self.given.steps
        shape = (frames, 1, *self.shape)
        places_in = np.arange(frames * self.elements).reshape(shape)
        seen = View(ValueStore(ref=self.given), shape, places_in)
        return NativeProgram(
            operators=tuple(self.operators),
            timesteps=self.steps,
            frames=frames if frames > 1 else 0,
            input_shape=self.shape,
            input=seen if stored else None,
            logits=View(logits, (1, channels), np.arange(channels).reshape(1, -1)),
            integer_layers=(),
            float_layers={},
            observed={},
        )

    def ended_sink(self, sink: SinkRef, outputs: int, *, stored: bool = True) -> NativeProgram:
        result = sink.spikes if sink.kind is SinkKind.NEURON else sink.values
        return self.ended(result, outputs, stored=stored)


def _largest_of(spikes: SpikesRef) -> int:
    """Largest count that spikes can hold."""
    return 2**spikes.planes - 1 if spikes.binary else spikes.planes * spikes.step_bits


def _like(spikes: SpikesRef, elements: int) -> SpikesRef:
    """Spikes of the same form for other neurons."""
    buffer = Buffer(spikes.groups * spikes.planes * elements)
    return replace(spikes, buffer=buffer, elements=elements)


def _filled(axes: tuple[int, ...]) -> tuple[int, ...]:
    return (*axes, *[0] * (_FILLED - len(axes)))


def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))


def _values(ref: ValuesRef, shape: tuple[int, ...]) -> OperandRef:
    """Values as an operand of a shape whose first axis is time."""
    strides = _strides(shape)
    if ref.steps == 1:
        strides = (0, *strides[1:])
    return OperandRef(kind=OperandKind.VALUES, strides=_filled(strides), values=ref)


def _spikes(ref: SpikesRef, shape: tuple[int, ...], unit: float = 1.0) -> OperandRef:
    strides = _filled((0, *_strides(shape)[1:]))
    return OperandRef(kind=OperandKind.SPIKES, strides=strides, spikes=ref, unit=unit)


def _sparse(m: _Maker) -> NativeProgram:
    spikes, window = m.spikes(), m.window()
    outputs = m.pick(1, 3, 16, 33, 65, 100, 193)
    rows = window.kernel_height * window.kernel_width * window.channels
    codes = m.random.integers(-_INT8, _INT8 + 1, (rows, outputs)).astype(np.int8)
    stored = {"weights": WeightFormat.INT8, "rows": Data(codes)}
    if m.pick(0, 1):
        nibbles = m.random.integers(0, 256, (rows, (outputs + 1) // 2)).astype(np.uint8)
        group = m.pick(2, 16)
        factors = m.random.integers(1, 16, (-(-rows // group), outputs)).astype(np.uint8)
        stored = {
            "weights": WeightFormat.INT4,
            "rows": Data(nibbles),
            "multipliers": Data(factors),
            "group_rows": group,
        }
    tile = m.pick(0, 1, 3, 9)
    sink = m.sink(window, outputs, m.steps)
    m.operators.append(
        SparseOp(
            name=m.name,
            observed=outputs,
            input=spikes,
            window=window,
            outputs=outputs,
            **stored,
            scale=Data(m.random.uniform(0.001, 0.01, outputs).astype("<f4")),
            bias=m.floats(outputs),
            block_rows=m.pick(0, 2, 15),
            together=m.pick(1, 2),
            set_bits=m.pick(1, 2, 4),
            tile=tile,
            listed=0 if tile else m.pick(0, 5, rows),
            gathered=m.pick(0, 1, 3) if largest_count(spikes) <= LARGEST_COUNT else 0,
            sink=sink,
        )
    )
    return m.ended_sink(sink, outputs)


def _dense(m: _Maker) -> NativeProgram:
    given: dict[str, object] = {"input_is_spikes": 0, "values": m.given}
    if m.pick(0, 1):
        given = {"input_is_spikes": 1, "spikes": m.spikes(), "unit": 0.5}
    window = m.window()
    groups = m.pick(*[x for x in range(1, window.channels + 1) if window.channels % x == 0])
    outputs = groups * m.pick(1, 2, 17, 33)
    rows = window.kernel_height * window.kernel_width * (window.channels // groups)
    weights: dict[str, object] = {
        "weights": WeightFormat.FLOAT,
        "rows": m.floats(rows, outputs),
    }
    if m.pick(0, 1):
        codes = m.random.integers(-_INT8, _INT8 + 1, (rows, outputs)).astype(np.int8)
        scale = Data(m.random.uniform(0.001, 0.01, outputs).astype("<f4"))
        weights = {"weights": WeightFormat.INT8, "rows": Data(codes), "scale": scale}
    sink = m.sink(window, outputs, m.steps if given["input_is_spikes"] else m.given.steps)
    m.operators.append(
        DenseOp(
            name=m.name,
            observed=outputs,
            **given,
            **weights,
            window=window,
            outputs=outputs,
            groups=groups,
            bias=m.floats(outputs),
            sink=sink,
        )
    )
    return m.ended_sink(sink, outputs)


def _neuron(m: _Maker) -> NativeProgram:
    return m.ended(m.spikes(), m.shape[0])


def _spike_pool(m: _Maker) -> NativeProgram:
    spikes, window = m.fired(m.levels(), in_bits=bool(m.pick(0, 1))), m.window(pool=True)
    elements = window.out_height * window.out_width * window.channels
    output = _like(spikes, elements)
    m.operators.append(SpikePoolOp(name=m.name, input=spikes, window=window, output=output))
    return m.ended(output, window.channels)


def _value_pool(m: _Maker) -> NativeProgram:
    window = m.window(pool=True)
    elements = window.out_height * window.out_width * window.channels
    output = new_values(m.given.steps, elements).ref
    m.operators.append(ValuePoolOp(name=m.name, input=m.given, window=window, output=output))
    return m.ended(output, window.channels)


def _spike_add(m: _Maker) -> NativeProgram:
    return m.ended(m.added(m.added(m.fired(1), m.fired(1)), m.fired(1)), m.shape[0])


def _spike_and(m: _Maker) -> NativeProgram:
    a, b = m.fired(1), m.fired(1)
    output = new_spikes(m.steps, m.elements).ref
    channels, height, width = m.shape
    sizes = (height, width, channels)
    m.operators.append(
        SpikeAndOp(
            name=m.name,
            rank=3,
            sizes=_filled(sizes),
            base_a=m.elements - 1,
            base_b=0,
            base_output=0,
            strides_a=_filled(tuple(-x for x in _strides(sizes))),
            strides_b=_filled((0, channels, 1)),
            strides_output=_filled(_strides(sizes)),
            a=a,
            b=b,
            output=output,
        )
    )
    return m.ended(output, channels)


def _operand(m: _Maker, shape: tuple[int, ...]) -> OperandRef:
    """Any operand of a shape `[steps, elements]`."""
    kind = OperandKind(m.pick(1, 2, 3, 4))
    if kind is OperandKind.VALUES:
        return _values(m.given, shape)
    if kind is OperandKind.SPIKES:
        return _spikes(m.spikes(), shape, unit=0.75)
    if kind is OperandKind.SCALAR:
        return OperandRef(kind=kind, unit=1.5)
    ref = ValuesRef(buffer=m.floats(m.elements), steps=1, elements=m.elements)
    return OperandRef(kind=kind, strides=_filled((0, 1)), values=ref)


def _elementwise(m: _Maker) -> NativeProgram:
    shape = (m.steps, m.elements)
    output = new_values(*shape).ref
    a, b = _operand(m, shape), _operand(m, shape)
    m.operators.append(
        ElementwiseOp(
            name=m.name,
            function=Function(m.pick(1, 2, 3, 5)),
            rank=2,
            sizes=_filled(shape),
            a=a,
            b=b,
            output=_values(output, shape),
        )
    )
    return m.ended(output, m.shape[0])


def _reduce(m: _Maker) -> NativeProgram:
    channels, height, width = m.shape
    sizes = (m.steps, channels, height * width)
    strides = _filled((0, 1, channels))
    source = OperandRef(kind=OperandKind.SPIKES, strides=strides, spikes=m.spikes(), unit=0.5)
    if m.pick(0, 1):
        strides = _filled((m.elements if m.given.steps > 1 else 0, 1, channels))
        source = OperandRef(kind=OperandKind.VALUES, strides=strides, values=m.given)
    output = new_values(m.steps, channels).ref
    m.operators.append(
        ReduceOp(
            name=m.name,
            function=Reduction(m.pick(1, 2, 3)),
            rank=3,
            kept=2,
            sizes=_filled(sizes),
            input=source,
            output=_values(output, sizes[:2]),
        )
    )
    return m.ended(output, channels)


def _matmul(m: _Maker) -> NativeProgram:
    channels, height, width = m.shape
    places = height * width
    sizes = (m.steps, places, places, channels)
    output = new_values(m.steps, places * places).ref
    left = _values(m.given, (m.steps, places, 1, channels))
    if m.pick(0, 1):
        left = _spikes(m.spikes(), (m.steps, places, 1, channels), unit=0.5)
    right = _values(m.given, (m.steps, 1, places, channels))
    m.operators.append(
        MatMulOp(
            name=m.name,
            rank=4,
            sizes=_filled(sizes),
            a=_without(left, 2),
            b=_without(right, 1),
            output=_values(output, sizes[:3]),
        )
    )
    return m.ended(output, places)


def _without(operand: OperandRef, axis: int) -> OperandRef:
    """An operand that is the same along an axis."""
    strides = tuple(0 if i == axis else x for i, x in enumerate(operand.strides))
    return replace(operand, strides=strides)


def _pixels(m: _Maker) -> NativeProgram:
    m.given = replace(m.given, steps=1)
    window, outputs = m.window(pool=True), m.pick(1, 3, 16, 33)
    pairs = (window.kernel_width * (window.channels + 1) + 1) // 2
    codes = m.random.integers(-_INT8, _INT8 + 1, (window.kernel_height, pairs, outputs, 2))
    sink = m.sink(window, outputs, 1)
    m.operators.append(
        PixelsOp(
            name=m.name,
            observed=outputs,
            window=window,
            outputs=outputs,
            rows=Data(codes.astype("<i2")),
            centre=Data(m.random.integers(0, 256, window.channels).astype(np.uint8)),
            scale=Data(m.random.uniform(0.00001, 0.0001, outputs).astype("<f4")),
            bias=m.floats(outputs),
            sink=sink,
        )
    )
    return m.ended_sink(sink, outputs, stored=False)


def _attention(m: _Maker) -> NativeProgram:
    m.steps = min(m.steps, 8)
    heads, key, value = m.pick(1, 2, 4), m.pick(1, 3, 8), m.pick(1, 5, 33)
    positions, windows = m.pick(1, 2, 9), m.pick(1, 1, 2, 3)
    columns = m.pick(*(n for n in range(1, positions + 1) if positions % n == 0))
    chunk = m.pick(*(n for n in range(1, m.steps + 1) if m.steps % n == 0))
    places = positions * windows**2
    m.shape = (1, places, heads * max(key, value))
    m.given = new_values(m.pick(1, m.steps), m.elements).ref

    def spikes(size: int) -> SpikesRef:
        store = new_spikes(m.steps, places * heads * size)
        source = replace(m.given, elements=store.ref.elements)
        m.operators.append(
            NeuronOp(name=m.name, input=source, neuron=m.neuron(1), output=store.ref)
        )
        return store.ref

    q, k, v = spikes(key), spikes(key), spikes(value)
    output = new_spikes(m.steps, places * heads * value).ref
    m.operators.append(
        AttentionOp(
            name=m.name,
            q=q,
            k=k,
            v=v,
            positions=positions,
            heads=heads,
            key_size=key,
            value_size=value,
            chunk=chunk,
            windows=windows,
            columns=columns,
            unit=0.25,
            neuron=m.neuron(1),
            output=output,
        )
    )
    return m.ended(output, heads * value)


def _copy(m: _Maker) -> NativeProgram:
    channels, height, width = m.shape
    sizes = (1, height, width, channels)
    spikes = m.spikes()
    moved = {"rank": 4, "sizes": _filled(sizes)}
    turned = OperandRef(
        kind=OperandKind.SPIKES,
        strides=_filled((0, channels, channels * height, 1)),
        spikes=_like(spikes, m.elements),
    )
    m.operators.append(CopyOp(name=m.name, **moved, input=_spikes(spikes, sizes), output=turned))
    return m.ended(turned.spikes, channels)


_MAKERS: dict[str, Callable[[_Maker], NativeProgram]] = {
    "sparse": _sparse,
    "dense": _dense,
    "neuron": _neuron,
    "spike-pool": _spike_pool,
    "value-pool": _value_pool,
    "spike-add": _spike_add,
    "elementwise": _elementwise,
    "spike-and": _spike_and,
    "reduce": _reduce,
    "matmul": _matmul,
    "pixels": _pixels,
    "attention": _attention,
    "copy": _copy,
}

_OFTEN = ("sparse", "dense", "pixels")


def main() -> None:
    """Write the models to a directory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--each", type=int, default=12, help="models of an operator")
    options = parser.parse_args()
    for name, content in made_models(options.each).items():
        (options.directory / f"{name}.svit").write_bytes(content)


if __name__ == "__main__":
    main()
