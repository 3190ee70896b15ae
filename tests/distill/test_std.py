"""The whole loss: its parts, their weights, and where gradients go."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stdpipe.distill.attention import attention_map, sd_loss
from stdpipe.distill.charbonnier import charbonnier
from stdpipe.distill.std import Weights, scheme_weights, std_loss, teacher_map
from stdpipe.distill.time import memory_cells, td_loss
from stdpipe.models.base import Features
from stdpipe.models.convlstm import ConvLSTM

EMPTY = torch.empty(0)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def student(seed: int = 0) -> Features:
    """Of a clip, B T = 2 3, f_sr of 4 channels, 6 x 8 pixels."""
    f_sr = normal(2, 3, 4, 6, 8, seed=seed).requires_grad_()
    return Features(EMPTY, EMPTY, f_sr, normal(2, 3, 3, 6, 8, seed=seed + 1).requires_grad_())


def batch() -> dict[str, Tensor]:
    return {"hr": normal(2, 3, 3, 6, 8, seed=8), "f_sr": normal(2, 3, 4, 6, 8, seed=9)}


@pytest.fixture
def memory() -> ConvLSTM:
    torch.manual_seed(0)
    return ConvLSTM(4, 4)


@pytest.mark.parametrize(
    ("scheme", "weights"),
    [("none", (0, 0)), ("sd", (2, 0)), ("td", (0, 30)), ("std", (2, 30))],
)
def test_schemes(memory: ConvLSTM, scheme: str, weights: tuple[float, float]) -> None:
    """L = L_rec + lambda1 L_SD + lambda2 L_TD, a scheme's parts alone; others are not computed."""
    chosen = scheme_weights(scheme, 2.0, 30.0)
    assert chosen == weights
    s, b = student(), batch()
    parts = std_loss(s, b, chosen, memory)
    rec = charbonnier(s.sr, b["hr"])
    sd = sd_loss(attention_map(s.f_sr), attention_map(b["f_sr"]))
    td = td_loss(*memory_cells(memory, b["f_sr"], s.f_sr))
    expected = rec + weights[0] * sd + weights[1] * td
    torch.testing.assert_close(parts["loss"], expected)
    named = {"sd": {"sd"}, "td": {"td", "cell_var"}, "std": {"sd", "td", "cell_var"}}
    assert parts.keys() == {"loss", "rec"} | named.get(scheme, set())


def test_equal_features_cost_nothing(memory: ConvLSTM) -> None:
    """L_SD and L_TD are zero where student equals teacher; L_RD is what is left."""
    s, b = student(), batch()
    s = s._replace(f_sr=b["f_sr"].clone())
    parts = std_loss(s, b, Weights(1, 100), memory)
    assert parts["sd"] == 0
    assert parts["td"] == 0
    assert torch.equal(parts["loss"], parts["rec"])


def test_gradients(memory: ConvLSTM) -> None:
    """To the student's two outputs and the memory; none to the teacher, even if it asks for one."""
    s, b = student(), batch()
    teacher = b["f_sr"].requires_grad_()
    std_loss(s, b, scheme_weights("td", 1, 100), memory)["loss"].backward()
    assert teacher.grad is None
    for leaf in (s.f_sr, s.sr, memory.input_gates.weight, memory.hidden_gates.weight):
        assert leaf.grad is not None
        assert leaf.grad.abs().max() > 0


def test_sd_reads_cached_attention(memory: ConvLSTM) -> None:
    """The map alone, as a float16 cache gives it, does for f_sr; f_sr comes first if both are."""
    s, b = student(), batch()
    cached = attention_map(b["f_sr"])
    alone = {"hr": b["hr"], "attention": cached}
    weights = scheme_weights("sd", 1, 100)
    from_map, from_f_sr = (std_loss(s, x, weights, memory)["loss"] for x in (alone, b))
    torch.testing.assert_close(from_map, from_f_sr)
    assert teacher_map({"attention": cached.half()}, "sum2").dtype == torch.float32
    torch.testing.assert_close(teacher_map({**b, "attention": 0 * cached}, "sum2"), cached)


@pytest.mark.parametrize(("attention", "norm"), [("sum", "none"), ("max2", "l2"), ("sum2", "l2")])
def test_options_of_sd(memory: ConvLSTM, attention: str, norm: str) -> None:
    """Both maps are made the same way."""
    s, b = student(), batch()
    maps = attention_map(s.f_sr, attention), attention_map(b["f_sr"], attention)
    parts = std_loss(s, b, Weights(1, 0), memory, attention=attention, attention_norm=norm)
    torch.testing.assert_close(parts["sd"], sd_loss(*maps, norm))


def test_scaled_td_by_hand(memory: ConvLSTM) -> None:
    """td_scale="variance": L_TD over the variance of the teacher's cell; "td" itself unscaled."""
    s, b = student(), batch()
    cell = memory(b["f_sr"]).detach()
    parts = std_loss(s, b, Weights(0, 10), memory, td_scale="variance")
    plain = std_loss(s, b, Weights(0, 10), memory)
    variance = cell.var(dim=(0, 2, 3)).mean()  # constant channels that differ are no memory
    torch.testing.assert_close(parts["cell_var"], variance)
    assert parts["td"] == plain["td"]
    torch.testing.assert_close(parts["loss"], parts["rec"] + 10 * parts["td"] / variance)


class Scaled(torch.nn.Module):
    """A memory that can shrink its cells, and nothing else."""

    def __init__(self, inner: ConvLSTM) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.scale = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, f_sr: Tensor) -> Tensor:
        scaled: Tensor = self.scale * self.inner(f_sr)
        return scaled


@pytest.mark.parametrize("td_scale", ["none", "variance"])
def test_shrinking_the_cells_gains_nothing_if_scaled(memory: ConvLSTM, td_scale: str) -> None:
    """The plain L_TD pulls towards small cells; over the variance, that pull is gone, in value
    and in gradient. Collapse by other ways than scale is not ruled out.
    """
    scaled = Scaled(memory)
    parts = std_loss(student(), batch(), Weights(0, 10), scaled, td_scale=td_scale)
    parts["loss"].backward()
    assert scaled.scale.grad is not None
    pull = float(scaled.scale.grad)
    if td_scale == "none":
        assert pull == pytest.approx(2 * 10 * float(parts["td"].detach()) / 0.7, rel=1e-4)
    else:
        assert abs(pull) < 1e-4


def test_a_collapsed_cell_is_no_nan(memory: ConvLSTM) -> None:
    """Variance zero, as after a collapse: the loss and all gradients stay finite."""
    for parameter in memory.parameters():
        torch.nn.init.zeros_(parameter)
    s = student()
    parts = std_loss(s, batch(), Weights(0, 10), memory, td_scale="variance")
    parts["loss"].backward()
    assert parts["loss"].isfinite()
    leaves: Any = [s.f_sr, *memory.parameters()]
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_half_precision_features(memory: ConvLSTM) -> None:
    """Under autocast, a bfloat16 student against a float16 cache: parts are float32 and close."""
    s, b = student(), batch()
    exact = std_loss(s, b, Weights(1, 100), memory)
    half = Features(EMPTY, EMPTY, s.f_sr.bfloat16(), s.sr.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        parts = std_loss(half, {**b, "f_sr": b["f_sr"].half()}, Weights(1, 100), memory)
    for name, part in parts.items():
        assert part.dtype == torch.float32, name
        torch.testing.assert_close(part, exact[name], rtol=0.05, atol=1e-3)
