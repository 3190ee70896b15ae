"""TensorFlow's variables: ours -> published names and layouts, written out here, and back."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from stdpipe.cache.errors import UserError
from stdpipe.models import zoo
from stdpipe.models.checkpoints import load_network

SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


class Published(NamedTuple):
    """A network; whether its names carry SUFFIX; ours -> theirs, in steps; examples, theirs ->
    ours."""

    network: str
    suffix: str
    to_theirs: list[tuple[str, str | Callable[[re.Match[str]], str]]]
    examples: dict[str, str]


PUBLISHED = {
    "rlsp": Published(  # dariofuoli/RLSP
        "rlsp:num_feat=4,phase=0,published=true",
        "",
        [
            (r"^conv_first/", "layer0/"),
            (r"^body/(\d)/", lambda m: f"layer{int(m[1]) + 1}/"),
            (r"^conv_hidden/", "layer6/"),
            (r"^last/conv_last/", "layer7/"),
        ],
        {"layer5/kernel": "body.4.weight", "layer7/bias": "last.conv_last.bias"},
    ),
    "rrn": Published(  # MediaTek-NeuroPilot/mai22-real-time-video-sr
        "rrn:num_feat=4,published=true",
        SUFFIX,
        [
            (r"^last/", ""),
            (r"^recon_trunk/(\d)/", r"recon_trunk/layer_with_weights-\1/"),
            (r"^", "model/"),
        ],
        {
            "model/recon_trunk/layer_with_weights-4/conv2/kernel": "recon_trunk.4.conv2.weight",
            "model/conv_last/kernel": "last.conv_last.weight",
        },
    ),
    "swrn": Published(  # shermanlian/swrn
        "swrn:num_feat=4,published=true",
        SUFFIX,
        [
            (r"^last/", ""),
            (r"^(recon_trunk\w*)/(\d)/",
             lambda m: f"{m[1]}/layer_with_weights-{int(m[2]) // 2}/conv/"),
            (r"^", "model/"),
        ],
        {
            "model/conv_first_backward/kernel": "conv_first_backward.weight",
            "model/recon_trunk/layer_with_weights-1/conv/bias": "recon_trunk.2.bias",
            "model/recon_trunk_backward/layer_with_weights-0/conv/bias": (
                "recon_trunk_backward.0.bias"
            ),
            "model/conv_fusion/kernel": "conv_fusion.weight",
            "model/conv_hidden_forward/bias": "conv_hidden_forward.bias",
        },
    ),
}  # fmt: skip


def numbered(network: str) -> dict[str, Tensor]:
    """A network's state of whole numbers, which differ within a tensor and between tensors."""
    state = zoo.parse(network).build().state_dict()
    return {
        k: torch.arange(v.numel(), dtype=torch.float32).reshape(v.shape) + n
        for n, (k, v) in enumerate(state.items())
    }


def as_theirs(name: str, ours: dict[str, Tensor]) -> dict[str, NDArray[Any]]:
    """The variables: kernels (H, W, I, O), biases of values up to 255, colours within pixels."""
    found = {}
    for key, value in ours.items():
        theirs = key.replace(".weight", "/kernel").replace(".bias", "/bias").replace(".", "/")
        for pattern, there in PUBLISHED[name].to_theirs:
            theirs = re.sub(pattern, there, theirs)
        values = value
        if key.startswith("last.") and len(value) == 48:
            values = torch.stack([value[16 * c + pixel] for pixel in range(16) for c in range(3)])
        kernel = values.ndim == 4
        found[theirs] = (values.permute(2, 3, 1, 0) if kernel else values * 255).numpy()
    assert len(found) == len(ours)
    return found


def write(path: Path, name: str) -> dict[str, Tensor]:
    """A file of all that a checkpoint holds, the optimiser's too. Returns its weights, as ours."""
    ours = numbered(PUBLISHED[name].network)
    theirs, suffix = as_theirs(name, ours), PUBLISHED[name].suffix
    first = next(iter(theirs))
    beside = {
        "beta1_power": np.float32(0.9),
        f"{first}/Adam": theirs[first],
        f"{first}/Adam_1": theirs[first],
    }
    if suffix:
        beside = {
            "_CHECKPOINTABLE_OBJECT_GRAPH": b"graph",
            f"save_counter{suffix}": np.int64(98),
            f"step{suffix}": np.int64(196_000),
            f"optimizer/learning_rate{suffix}": np.float32(1e-4),
            f"optimizer/_variables/3{suffix}": theirs[first],
            f"{first}/.OPTIMIZER_SLOT/optimizer/m{suffix}": theirs[first],
        }
    np.savez(path, **{k + suffix: v for k, v in theirs.items()}, **beside)
    return ours


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_variables_fill_the_network(tmp_path: Path, name: str) -> None:
    """Every weight finds its place and layout; counters, slots and text are left out. Images of
    published files: test_causal.py."""
    ours = write(tmp_path / "theirs.npz", name)
    theirs = as_theirs(name, ours)
    for there, here in PUBLISHED[name].examples.items():
        assert theirs[there].size == ours[here].numel()
        assert theirs[there].flat[0] == ours[here].flatten()[0] * (1 if "kernel" in there else 255)
    state = load_network(PUBLISHED[name].network, str(tmp_path / "theirs.npz"))[0].state_dict()
    assert state.keys() == ours.keys()
    assert [k for k in ours if not torch.equal(state[k], ours[k])] == []


@pytest.mark.parametrize("name", PUBLISHED)
def test_other_options_than_published(tmp_path: Path, name: str) -> None:
    """The name to give is told, since the same shapes would make other images; it then loads."""
    write(tmp_path / "theirs.npz", name)
    asked = f"{name}:num_feat=4"
    with pytest.raises(UserError, match="published=true") as error:
        load_network(asked, str(tmp_path / "theirs.npz"))
    named = next(word for word in str(error.value).split() if "published=true" in word)
    _, facts = load_network(named, str(tmp_path / "theirs.npz"))
    assert facts["network"] == str(zoo.parse(PUBLISHED[name].network))


def test_phase_of_published_weights(tmp_path: Path) -> None:
    """RLSP's LR pixels lie on HR pixels, unless the name says otherwise."""
    write(tmp_path / "theirs.npz", "rlsp")
    for asked, phase in (("", 0.0), (",phase=1", 1.0)):
        name = f"rlsp:num_feat=4,published=true{asked}"
        assert load_network(name, str(tmp_path / "theirs.npz"))[0].phase == phase


def test_training_from_published_weights(
    tmp_path: Path, tiny: Path, train: Any, refused: Any
) -> None:
    """train-student and train-teacher ask for the same options."""
    write(tmp_path / "theirs.npz", "rrn")
    init = ("--init", tmp_path / "theirs.npz", "--degradation", "bi")
    out, net = tmp_path / "run", "rrn:num_feat=4"
    student = train(out, tiny, *init, "--student", net, "--scheme", "none")
    teacher = ["train-teacher", "--data", tiny, "--out", out, "--teacher", net, *init]
    teacher += ["--set", "patch=16"]
    for arguments in (student, teacher):
        assert "rrn:num_feat=4,published=true" in refused(*arguments)
    assert not (out / "weights.pt").exists()
