"""The whole loss: its terms, their weights, and where gradients go."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stdpipe.distill.affinity import affinity_loss
from stdpipe.distill.attention import attention_map, sd_loss, teacher_map
from stdpipe.distill.charbonnier import charbonnier
from stdpipe.distill.kd import kd_mean2_loss
from stdpipe.distill.pisr import Adapters, laplace_loss
from stdpipe.distill.schemes import parse_scheme
from stdpipe.distill.term import LossInputs
from stdpipe.distill.terms import TERMS, build_helpers, scheme_loss
from stdpipe.distill.time import memory_cells, td_loss
from stdpipe.models.base import Features
from stdpipe.models.convlstm import ConvLSTM
from stdpipe.models.luma import luma

EMPTY = torch.empty(0)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def student(seed: int = 0) -> Features:
    """Of a clip, B T = 2 3: f_lr of 5 channels, 3 x 4 pixels, f_sr of 4, 12 x 16 pixels."""
    f_lr, f_sr, sr = (
        normal(2, 3, channels, *size, seed=seed + i).requires_grad_()
        for i, (channels, size) in enumerate(((5, (3, 4)), (4, (12, 16)), (3, (12, 16))))
    )
    return Features(f_lr, EMPTY, f_sr, sr)


def batch() -> dict[str, Tensor]:
    """A teacher of 6 channels in f_lr."""
    return {
        "hr": normal(2, 3, 3, 12, 16, seed=8),
        "f_sr": normal(2, 3, 4, 12, 16, seed=9),
        "f_lr": normal(2, 3, 6, 3, 4, seed=10),
        "sr": normal(2, 3, 3, 12, 16, seed=11),
    }


@pytest.fixture
def memory() -> ConvLSTM:
    torch.manual_seed(0)
    return ConvLSTM(4, 4)


def learners(memory: nn.Module, f_lr: tuple[int, int] = (5, 6)) -> dict[str, nn.Module]:
    """What `helpers` builds for all terms, but for maps of few channels."""
    torch.manual_seed(1)
    others = build_helpers(dict.fromkeys(TERMS, 1.0), (64, 64), f_lr)
    return {**others, "memory": memory, "adapter": nn.Identity(), "pisr_sr": Adapters(4, 4)}


def loss(
    s: Features, b: dict[str, Tensor], memory: nn.Module, scheme: str, **options: str
) -> dict[str, Tensor]:
    return scheme_loss(LossInputs(s, b, learners(memory), **options), parse_scheme(scheme))[0]


SUMS: list[tuple[str, tuple[float, float]]] = [
    ("none", (0, 0)), ("sd", (2, 0)), ("td", (0, 30)), ("std", (2, 30)),
    ("td=5", (0, 5)), ("td=0.5,sd", (2, 0.5)),
]  # fmt: skip


@pytest.mark.parametrize(("scheme", "weights"), SUMS)
def test_the_papers_loss_bit_for_bit(
    memory: ConvLSTM, scheme: str, weights: tuple[float, float]
) -> None:
    """L = L_rec + lambda1 L_SD + lambda2 L_TD, a scheme's terms alone; others are not computed."""
    s, b = student(), batch()
    parts, _ = scheme_loss(LossInputs(s, b, learners(memory)), parse_scheme(scheme, 2.0, 30.0))
    expected = charbonnier(s.sr, b["hr"])
    if weights[0]:
        expected = expected + weights[0] * sd_loss(attention_map(s.f_sr), attention_map(b["f_sr"]))
    if weights[1]:
        expected = expected + weights[1] * td_loss(*memory_cells(memory, b["f_sr"], s.f_sr))
    assert torch.equal(parts["loss"], expected)
    named = ({"sd"} if weights[0] else set()) | ({"td", "cell_var"} if weights[1] else set())
    assert parts.keys() == {"loss", "rec"} | named


ZERO = [name for name in TERMS if not name.startswith(("pisr", "output-hr"))]


@pytest.mark.parametrize("name", ZERO)
def test_equal_features_cost_nothing(memory: ConvLSTM, name: str) -> None:
    """A term is zero where student equals teacher; L_rec is what is left. pisr: below."""
    b = batch()
    s = Features(b["f_lr"].clone(), EMPTY, b["f_sr"].clone(), b["sr"].clone())
    inputs = LossInputs(s, b, learners(memory, (6, 6)))
    parts, _ = scheme_loss(inputs, {name: 3.0})
    assert float(parts[name].detach()) == pytest.approx(0, abs=1e-7)
    torch.testing.assert_close(parts["loss"], parts["rec"])


@pytest.mark.parametrize(("name", "of"), [("pisr", "f_lr"), ("pisr-sr", "f_sr")])
def test_pisr_asks_nothing_of_a_student_whose_adapter_gives_the_teachers(
    memory: ConvLSTM, name: str, of: str
) -> None:
    """Adapters set to the identity: log 2b is left, and no gradient reaches the student by mu."""
    b = batch()
    modules = learners(memory, (6, 6))
    adapters: Any = modules[name.replace("-", "_")]
    for layer in adapters.mean[::2]:
        nn.init.dirac_(layer.weight)
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(adapters.scale[2].weight)
    nn.init.zeros_(adapters.scale[2].bias)
    adapters.mean[1].weight.data.fill_(1)  # PReLU as the identity
    mine = b[of].clone().requires_grad_()
    student = Features(EMPTY, EMPTY, EMPTY, b["sr"])._replace(**{of: mine})
    value = scheme_loss(LossInputs(student, b, modules), {name: 1.0})[0][name]
    value.backward()
    scale = 0.1 * math.log(2) + 1e-8  # softplus(0)
    assert float(value.detach()) == pytest.approx(math.log(2 * scale), rel=1e-5)
    assert mine.grad is not None
    assert mine.grad.abs().max() == 0


REACHED = {
    "sd": ("f_sr",), "td": ("f_sr", "memory"), "kd-mse": ("f_sr",), "kd-mean2": ("f_lr",),
    "sd-lr": ("f_lr", "adapter_lr"), "td-lr": ("f_lr", "adapter_lr", "memory_lr"),
    "pisr": ("f_lr", "pisr"), "pisr-sr": ("f_sr", "pisr_sr"), "affinity": ("f_lr",),
    "output": ("sr",), "output-hr": ("sr",),
}  # fmt: skip


@pytest.mark.parametrize("name", TERMS)
def test_gradients(memory: ConvLSTM, name: str) -> None:
    """Into the student and what is trained with it, nowhere else; never into the teacher, even if
    it asks for one."""
    s, b, modules = student(), batch(), learners(memory)
    teacher = [b[key].requires_grad_() for key in ("f_sr", "f_lr", "sr")]
    scheme_loss(LossInputs(s, b, modules), {name: 1.0})[0][name].backward()
    assert all(t.grad is None for t in teacher)
    leaves = {key: [getattr(s, key)] for key in ("f_lr", "f_sr", "sr")}
    leaves |= {role: list(module.parameters()) for role, module in modules.items()}
    reached = {role for role, tensors in leaves.items()
               if any(x.grad is not None and x.grad.abs().max() > 0 for x in tensors)}  # fmt: skip
    assert reached == set(REACHED[name])


def test_terms_add_up(memory: ConvLSTM) -> None:
    """Each weight meets its own term, divided by none."""
    s, b = student(), batch()
    weights = {name: 0.5 + i for i, name in enumerate(TERMS)}
    parts, _ = scheme_loss(LossInputs(s, b, learners(memory)), weights)
    expected = parts["rec"] + sum(w * parts[name] for name, w in weights.items())
    torch.testing.assert_close(parts["loss"], expected)
    assert parts.keys() == {"loss", "rec", "cell_var", "cell_var_lr", *TERMS}


def test_terms_on_f_lr_are_their_namesakes(memory: ConvLSTM) -> None:
    """Through the 1x1 adapter, and a ConvLSTM of the teacher's channels (Table 4)."""
    s, b, modules = student(), batch(), learners(memory)
    parts, _ = scheme_loss(LossInputs(s, b, modules), dict.fromkeys(("sd-lr", "td-lr"), 1.0))
    mine = modules["adapter_lr"](s.f_lr.flatten(0, 1)).unflatten(0, (2, 3))
    assert mine.shape == b["f_lr"].shape
    torch.testing.assert_close(parts["sd-lr"], sd_loss(attention_map(mine),
                                                       attention_map(b["f_lr"])))  # fmt: skip
    cells = memory_cells(modules["memory_lr"], b["f_lr"], mine)
    torch.testing.assert_close(parts["td-lr"], td_loss(*cells))


def test_terms_that_need_no_equal_channels(memory: ConvLSTM) -> None:
    """kd-mean2, affinity and pisr see the student's own f_lr, frame by frame."""
    s, b, modules = student(), batch(), learners(memory)
    names = ("kd-mean2", "affinity", "pisr")
    parts, _ = scheme_loss(LossInputs(s, b, modules), dict.fromkeys(names, 1.0))
    mine, theirs = s.f_lr.flatten(0, 1), b["f_lr"].flatten(0, 1)
    torch.testing.assert_close(parts["kd-mean2"], kd_mean2_loss(mine, theirs))
    torch.testing.assert_close(parts["affinity"], affinity_loss(mine, theirs))
    torch.testing.assert_close(parts["pisr"], laplace_loss(*modules["pisr"](mine), theirs))


def test_modulesof_a_scheme() -> None:
    """A student begins alike in every scheme: memory and adapter are drawn first, and always."""
    assert build_helpers({}, (64, 64)).keys() == build_helpers(parse_scheme("std"), (64, 64)).keys()
    torch.manual_seed(3)
    plain = build_helpers({}, (32, 64))
    torch.manual_seed(3)
    many = build_helpers(dict.fromkeys(TERMS, 1.0), (32, 64), (5, 6))
    for role in ("memory", "adapter"):
        for name, value in plain[role].state_dict().items():
            assert torch.equal(value, many[role].state_dict()[name])
    assert many.keys() == {"memory", "adapter", "adapter_lr", "memory_lr", "pisr", "pisr_sr"}
    assert isinstance(many["pisr"], Adapters)
    assert isinstance(build_helpers({"sd-lr": 1.0}, (64, 64), (7, 7))["adapter_lr"], nn.Identity)


def test_sd_reads_cached_attention(memory: ConvLSTM) -> None:
    """The map alone, as a float16 cache gives it, does for f_sr; f_sr comes first if both are."""
    s, b = student(), batch()
    cached = attention_map(b["f_sr"])
    alone = {"hr": b["hr"], "attention": cached}
    from_map, from_f_sr = (loss(s, x, memory, "sd")["loss"] for x in (alone, b))
    torch.testing.assert_close(from_map, from_f_sr)
    assert teacher_map({"attention": cached.half()}, "sum2").dtype == torch.float32
    torch.testing.assert_close(teacher_map({**b, "attention": 0 * cached}, "sum2"), cached)


@pytest.mark.parametrize(("attention", "norm"), [("sum", "none"), ("max2", "l2"), ("sum2", "l2")])
def test_options_of_sd(memory: ConvLSTM, attention: str, norm: str) -> None:
    """Both maps are made the same way."""
    s, b = student(), batch()
    maps = attention_map(s.f_sr, attention), attention_map(b["f_sr"], attention)
    parts = loss(s, b, memory, "sd", attention=attention, attention_norm=norm)
    torch.testing.assert_close(parts["sd"], sd_loss(*maps, norm))


def test_scaled_td_by_hand(memory: ConvLSTM) -> None:
    """td_scale="variance": L_TD over the variance of the teacher's cell; "td" itself unscaled."""
    s, b = student(), batch()
    cell = memory(b["f_sr"]).detach()
    parts = loss(s, b, memory, "td=10", td_scale="variance")
    plain = loss(s, b, memory, "td=10")
    variance = cell.var(dim=(0, 2, 3)).mean()  # constant channels that differ are no memory
    torch.testing.assert_close(parts["cell_var"], variance)
    assert parts["td"] == plain["td"]
    torch.testing.assert_close(parts["loss"], parts["rec"] + 10 * parts["td"] / variance)


@pytest.mark.parametrize("scheme", ["none", "sd=2"])
def test_a_second_reconstruction_loss_on_luma(memory: ConvLSTM, scheme: str) -> None:
    s, b = student(), batch()
    inputs, terms = LossInputs(s, b, learners(memory)), parse_scheme(scheme)
    plain, parts = scheme_loss(inputs, terms)[0], scheme_loss(inputs, terms, 0.5)[0]
    torch.testing.assert_close(parts["luma"], charbonnier(luma(s.sr), luma(b["hr"])))
    torch.testing.assert_close(parts["loss"], plain["loss"] + 0.5 * parts["luma"])
    assert parts.keys() == plain.keys() | {"luma"}


SIZES = {"f_sr": 30, "f_lr": 30}  # times as large, as another teacher's maps might be


@pytest.mark.parametrize("name", ["sd", "sd-lr"])
def test_normalised_sd_has_no_unit(memory: ConvLSTM, name: str) -> None:
    """Maps 30 times as large on both sides cost the same, where plain L_SD grows by 30^4; "sd"
    itself is logged plain."""
    modules = learners(memory, (6, 6))
    found = []
    for size in (1, 30):
        b = {k: x * (size if k in SIZES else 1) for k, x in batch().items()}
        mine = Features(b["f_lr"] * 0.9, EMPTY, b["f_sr"] * 0.9, b["sr"])
        parts, _ = scheme_loss(LossInputs(mine, b, modules, normalise=True), {name: 1.0})
        variance = attention_map(b["f_sr" if name == "sd" else "f_lr"]).var()
        torch.testing.assert_close(parts["loss"] - parts["rec"], parts[name] / variance)
        found.append(parts)
    torch.testing.assert_close(found[0]["loss"], found[1]["loss"])
    torch.testing.assert_close(found[0][name] * 30**4, found[1][name])


def test_a_flat_map_outweighs_no_other(memory: ConvLSTM) -> None:
    """Black frames: the spread of the teacher's map vanishes, and a tenth off it costs what a tenth
    of a map's size may cost at most."""
    b = batch() | {"f_sr": torch.ones(2, 3, 4, 12, 16)}
    s = student()._replace(f_sr=1.05 * b["f_sr"])
    parts, _ = scheme_loss(LossInputs(s, b, learners(memory), normalise=True), {"sd": 1.0})
    expected = (1.05**2 - 1) ** 2 / 1e-4
    torch.testing.assert_close(
        parts["loss"] - parts["rec"], torch.tensor(expected), rtol=1e-3, atol=0
    )


def test_normalised_td_is_scaled_td(memory: ConvLSTM) -> None:
    """One key for both terms does for TD what its own key does."""
    s, b = student(), batch()
    one, _ = scheme_loss(LossInputs(s, b, learners(memory), normalise=True), {"td": 10.0})
    other, _ = scheme_loss(LossInputs(s, b, learners(memory), td_scale="variance"), {"td": 10.0})
    assert torch.equal(one["loss"], other["loss"])


@pytest.mark.parametrize(("name", "level", "side"), [("td", "f_sr", 4), ("td-lr", "f_lr", 1)])
def test_td_on_a_crop(memory: ConvLSTM, name: str, level: str, side: int) -> None:
    """In HR pixels, on F^LR a quarter of them; its value is that of the whole cells' crop."""
    s, b, modules = student(), batch(), learners(memory)
    parts, _ = scheme_loss(LossInputs(s, b, modules, td_crop=(4, 8, 4)), {name: 1.0})
    inputs = LossInputs(s, b, modules)
    mine = inputs.f_sr if level == "f_sr" else inputs.f_lr
    cells = memory_cells(modules["memory" if level == "f_sr" else "memory_lr"], b[level], mine)
    inside = (..., slice(side, 2 * side), slice(2 * side, 3 * side))
    torch.testing.assert_close(parts[name], td_loss(cells[0][inside], cells[1][inside]))


class Scaled(torch.nn.Module):
    """A memory that can shrink its cells, and nothing else."""

    def __init__(self, inner: ConvLSTM) -> None:
        super().__init__()
        self.inner = inner.requires_grad_(False)
        self.scale = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, *f_sr: Tensor) -> Tensor:
        scaled: Tensor = self.scale * self.inner(*f_sr)
        return scaled


@pytest.mark.parametrize("td_scale", ["none", "variance"])
def test_shrinking_the_cells_gains_nothing_if_scaled(memory: ConvLSTM, td_scale: str) -> None:
    """The plain L_TD pulls towards small cells; over the variance, that pull is gone, in value
    and in gradient. Collapse by other ways than scale is not ruled out.
    """
    scaled = Scaled(memory)
    parts = loss(student(), batch(), scaled, "td=10", td_scale=td_scale)
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
    parts = loss(s, batch(), memory, "td=10", td_scale="variance")
    parts["loss"].backward()
    assert parts["loss"].isfinite()
    leaves: Any = [s.f_sr, *memory.parameters()]
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("scheme", ["std", ",".join(TERMS)])
def test_half_precision_features(memory: ConvLSTM, scheme: str) -> None:
    """Under autocast, a bfloat16 student against a float16 cache: parts are float32 and close."""
    s, b = student(), batch()
    exact = loss(s, b, memory, scheme)
    half = Features(*(x.bfloat16() for x in s))
    stored = {k: v if k == "hr" else v.half() for k, v in b.items()}
    with torch.autocast("cpu", torch.bfloat16):
        parts = loss(half, stored, memory, scheme)
    for name, part in parts.items():
        assert part.dtype == torch.float32, name
        torch.testing.assert_close(part, exact[name], rtol=0.05, atol=2e-3)
