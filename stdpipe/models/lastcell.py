"""The last cell of a ConvLSTM (C^SR of the paper's Eq. 6), with a backward pass of its own: most of
a step's arithmetic.

What it does that autograd's does not:
- All sequences go through in one batch, and only those that ask for a gradient get
  one (the teacher's does not).
- The input half of all frames runs before the first step, and so does its weights' gradient after
  the last.
- The first frame has no forget gate (its state is zero) and the last no output gate (its hidden
  state is not looked at): neither is computed.
- Gates become activations, and those become gradients, in one buffer; a step goes in bands of
  pixels that stay in the processor's cache.
- Under autocast, convolutions and what is kept of the gates are in its precision; sums, activations
  and cells in the weights'.
- With `recompute`, hidden states and cells are kept instead of gates: far less memory, a third
  more convolutions.
- Maps lie in memory as the weights do, channels last or first.
Axes: T frames, N sequences of the batch, C channels, H W size.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BAND = 2048  # pixels: 64 channels of them are half a megabyte
GATES = (2, 0, 3, 1)  # output, input, candidate, forget: what edge frames lack is at the ends


def last_cell(
    sequences: Sequence[Tensor],
    input_weight: Tensor,
    bias: Tensor,
    hidden_weight: Tensor,
    recompute: bool = False,
) -> Tensor:
    """Sequences of (B, T, C, H, W) -> the last cell (sum of B, hidden, H, W), in the weights'
    dtype. The backward pass can run once, also under retain_graph.

    Weights: (4 * hidden, C or hidden, 3, 3), rows in the order input, forget, output, candidate.
    """
    kind = input_weight.device.type
    dtype, given = input_weight.dtype, (input_weight, bias, hidden_weight, *sequences)
    if not torch.amp.is_autocast_available(kind):  # e.g. meta
        return _LastCell.apply(dtype, recompute, *given)  # type: ignore[no-any-return]
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False):
        return _LastCell.apply(dtype, recompute, *given)  # type: ignore[no-any-return]


class _LastCell(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, recompute: bool, *given: Tensor) -> Tensor:
        input_weight, bias, hidden_weight, *sequences = given
        steps = _Steps(dtype, input_weight, bias, hidden_weight, sequences)
        wanted = any(ctx.needs_input_grad)
        cell = steps.forward(wanted and not recompute, wanted and recompute)
        if wanted:
            ctx.save_for_backward(*given)
            ctx.steps = steps
        return cell

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises for a second pass, and for inputs changed meanwhile
        if ctx.steps is None:
            raise RuntimeError("last_cell's backward pass runs once: run the forward pass again")
        steps, ctx.steps = ctx.steps, None
        _, _, *asked = ctx.needs_input_grad
        found = steps.backward(gradient, any(asked[:3]), asked[3:])
        return None, None, *found


class _Steps:
    """Both passes, and what the second needs of the first."""

    def __init__(
        self,
        dtype: torch.dtype,
        input_weight: Tensor,
        bias: Tensor,
        hidden_weight: Tensor,
        sequences: Sequence[Tensor],
    ) -> None:
        self.dtype, self.state = dtype, input_weight.dtype
        self.layout = _layout(input_weight)
        self.width = hidden_weight.shape[1]
        self.input_weight, self.hidden_weight = (
            _reorder(w, GATES).to(dtype).contiguous(memory_format=self.layout)
            for w in (input_weight, hidden_weight)
        )
        self.bias = _reorder(bias, GATES).to(dtype)
        self.sequences = sequences
        self.last = sequences[0].shape[1] - 1
        self.frames: list[Tensor] = []  # by group
        self.grouped: list[Tensor] = []  # gates, by group
        self.hidden: list[Tensor] = []
        self.cells: list[Tensor] = []

    def rows(self, t: int) -> slice:
        """Of the gates that frame t needs."""
        return slice(self.width if t == self.last else 0, self.width * (3 if t == 0 else 4))

    def groups(self) -> list[tuple[int, int]]:
        """Runs of frames that need the same gates: the first, those between, the last."""
        last = self.last
        return [(a, b) for a, b in ((0, 1), (1, last), (max(1, last), last + 1)) if a < b]

    def forward(self, keep_gates: bool, keep_hidden: bool) -> Tensor:
        if keep_gates:
            for start, stop in self.groups():
                self.frames.append(self.stack(start, stop))
                self.grouped.append(self.input_half(self.frames[-1], start))
        ready = self.by_frame()
        cell: Tensor | None = None
        hidden: Tensor | None = None
        for t in range(self.last + 1):
            gates = ready[t] if ready else self.input_half(self.stack(t, t + 1), t)
            cell, hidden = self.step(t, gates, cell, hidden)
            if hidden is None:
                break  # the last: nothing looks back at its cell, and to keep an output would leak
            if keep_gates or keep_hidden:
                self.cells.append(cell)
            if keep_hidden:
                self.hidden.append(hidden)
        assert cell is not None
        return cell

    def stack(self, start: int, stop: int) -> Tensor:
        """Frames of all sequences in one batch: ((stop - start) * N, C, H, W)."""
        sizes = [s.shape[0] for s in self.sequences]
        like = self.sequences[0]
        shape = (stop - start, sum(sizes), *like.shape[2:])
        out = _empty(shape, self.layout, self.dtype, like.device)
        for target, s in zip(out.split(sizes, 1), self.sequences, strict=True):
            target.copy_(s[:, start:stop].transpose(0, 1))
        return out.flatten(0, 1)

    def input_half(self, frames: Tensor, t: int) -> Tensor:
        rows = self.rows(t)
        return F.conv2d(frames, self.input_weight[rows], self.bias[rows], padding=1)

    def by_frame(self) -> list[Tensor]:
        """The kept gates of each frame, (N, rows, H, W)."""
        return [
            gates
            for (start, stop), group in zip(self.groups(), self.grouped, strict=False)
            for gates in group.chunk(stop - start)
        ]

    def split(self, t: int, gates: Tensor) -> tuple[Tensor | None, Tensor, Tensor, Tensor | None]:
        """Output, input, candidate and forget gate as views, None for what frame t lacks."""
        parts = list(gates.split(self.width, 1))
        o = parts.pop(0) if t < self.last else None
        return o, parts[0], parts[1], parts[2] if t else None

    def step(
        self, t: int, gates: Tensor, cell: Tensor | None, hidden: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Frame t's cell and hidden state; `gates`, their input half, become activations."""
        shape = (len(gates), self.width, *gates.shape[2:])
        new = _empty(shape, self.layout, self.state, gates.device)
        seen = torch.empty_like(new, dtype=self.dtype) if t < self.last else None
        more = None
        if hidden is not None:
            more = F.conv2d(hidden, self.hidden_weight[self.rows(t)], padding=1)
        for band in _bands(gates):
            act = gates[band].to(self.state)
            if more is not None:
                act += more[band]
            o, i, g, f = self.split(t, act)
            torch.mul(i.sigmoid_(), g.tanh_(), out=new[band])
            if f is not None and cell is not None:
                new[band].addcmul_(f.sigmoid_(), cell[band])
            if o is not None and seen is not None:
                seen[band].copy_(new[band].tanh().mul_(o.sigmoid_()))
            if self.dtype != self.state:
                gates[band].copy_(act)
        return new, seen

    def backward(self, d_cell: Tensor, weights: bool, asked: Sequence[bool]) -> list[Tensor | None]:
        """Gradients of the weights and of the sequences that ask for one; what was kept goes."""
        d_cell = d_cell.to(self.state, memory_format=self.layout, copy=True)
        gradients = _Gradients(self, weights, asked)
        ready = self.by_frame()
        d_hidden: Tensor | None = None
        after: Tensor | None = None
        for t in reversed(range(self.last + 1)):
            gates, frames = ready[t] if ready else None, None
            before = self.cells[t - 1] if t else None
            if gates is None:
                frames = self.stack(t, t + 1)
                gates = self.input_half(frames, t)
                self.step(t, gates, before, self.hidden[t - 1] if t else None)
            hidden = self.step_back(t, gates, before, d_cell, d_hidden)
            if hidden is not None and after is not None:
                gradients.add_hidden(t + 1, hidden, after)
            if frames is not None:
                gradients.add_input(t, frames, gates)
            gradients.set_frame(t, gates)
            if t:
                d_hidden = _input_gradient(gates, self.hidden_weight[self.rows(t)])
            after = gates
        for (start, _), frames, gates in zip(
            self.groups(), self.frames, self.grouped, strict=False
        ):
            gradients.add_input(start, frames, gates)
        return gradients.all()

    def step_back(
        self, t: int, gates: Tensor, before: Tensor | None, d_cell: Tensor, d_hidden: Tensor | None
    ) -> Tensor | None:
        """Activations become the gates' gradients, d_cell that of the cell before; returns the
        hidden state of frame t."""
        seen = None if d_hidden is None else torch.empty_like(d_hidden)
        for band in _bands(gates):
            kept, dc = gates[band], d_cell[band]
            o, i, g, f = self.split(t, kept.to(self.state))
            d_o, d_i, d_g, d_f = self.split(t, kept)
            if o is not None and d_o is not None and d_hidden is not None and seen is not None:
                dh, tanh = d_hidden[band].to(self.state), self.cells[t][band].tanh()
                seen[band].copy_(tanh * o)
                dc += torch.ops.aten.tanh_backward(dh * o, tanh)
                d_o.copy_(torch.ops.aten.sigmoid_backward(dh.mul_(tanh), o))
            of_i = torch.ops.aten.sigmoid_backward(dc * g, i)
            d_g.copy_(torch.ops.aten.tanh_backward(dc * i, g))
            d_i.copy_(of_i)
            if f is not None and d_f is not None and before is not None:
                of_f = torch.ops.aten.sigmoid_backward(dc * before[band], f)
                dc *= f
                d_f.copy_(of_f)
        return seen


class _Gradients:
    """Sums of the weights' gradients, rows in GATES' order, and the sequences' gradients."""

    def __init__(self, steps: _Steps, weights: bool, asked: Sequence[bool]) -> None:
        self.steps = steps
        self.weights = weights
        self.of_input, self.of_bias, self.of_hidden = (
            torch.zeros_like(w, dtype=steps.state)
            for w in (steps.input_weight, steps.bias, steps.hidden_weight)
        )
        self.of_sequences = [
            _empty(s.shape, steps.layout, s.dtype, s.device) if wanted else None
            for s, wanted in zip(steps.sequences, asked, strict=True)
        ]

    def add_input(self, t: int, frames: Tensor, gates: Tensor) -> None:
        """From frame t, or a group that begins with it."""
        if self.weights:
            rows = self.steps.rows(t)
            weight, bias = _weight_gradient(gates, frames, self.steps.input_weight[rows])
            self.of_input[rows] += weight
            self.of_bias[rows] += bias

    def add_hidden(self, t: int, hidden: Tensor, gates: Tensor) -> None:
        """From frame t, whose gates looked at `hidden`."""
        if self.weights:
            rows = self.steps.rows(t)
            weight, _ = _weight_gradient(gates, hidden, self.steps.hidden_weight[rows])
            self.of_hidden[rows] += weight

    def set_frame(self, t: int, gates: Tensor) -> None:
        """Frame t of the sequences that ask for it."""
        weight = self.steps.input_weight[self.steps.rows(t)]
        parts = gates.split([len(s) for s in self.steps.sequences])
        for target, part in zip(self.of_sequences, parts, strict=True):
            if target is not None:
                target[:, t].copy_(_input_gradient(part, weight))

    def all(self) -> list[Tensor | None]:
        back = [GATES.index(k) for k in range(4)]
        of_weights = (self.of_input, self.of_bias, self.of_hidden)
        found = [_reorder(w, back) if self.weights else None for w in of_weights]
        return [*found, *self.of_sequences]


def _reorder(rows: Tensor, order: Sequence[int]) -> Tensor:
    """The four gates' rows of a weight or bias, in another order."""
    gates = rows.detach().chunk(4)
    return torch.cat([gates[k] for k in order])


def _layout(weight: Tensor) -> torch.memory_format:
    last = torch.channels_last
    return last if weight.is_contiguous(memory_format=last) else torch.contiguous_format


def _empty(
    shape: Sequence[int], layout: torch.memory_format, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(..., C, H, W), in memory as asked for."""
    *lead, channels, height, width = shape
    if layout == torch.contiguous_format:
        return torch.empty(*shape, dtype=dtype, device=device)
    return torch.empty(*lead, height, width, channels, dtype=dtype, device=device).movedim(-1, -3)


def _bands(maps: Tensor) -> Iterator[tuple[Any, ...]]:
    """Indices that cut (N, C, H, W) into bands of rows; a GPU takes all in one."""
    count, _, height, width = maps.shape
    rows = max(1, BAND // (count * width)) if maps.device.type == "cpu" else height
    for y in range(0, height, rows):
        yield slice(None), slice(None), slice(y, y + rows)


def _input_gradient(gradient: Tensor, weight: Tensor) -> Tensor:
    """Of a 3x3 convolution with padding 1: one with the kernel turned round."""
    turned = weight.flip(2, 3).transpose(0, 1).contiguous(memory_format=_layout(weight))
    return F.conv2d(gradient, turned, padding=1)


def _weight_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Of the same convolution: its weight's and its bias's."""
    _, of_weight, of_bias = torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
        [False, True, True],
    )  # fmt: skip
    return of_weight, of_bias
