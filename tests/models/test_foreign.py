"""Names: ours -> published ones, written out here a second time, and back by reading a file."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from stdpipe.cache.errors import UserError
from stdpipe.models import zoo
from stdpipe.models.checkpoints import Header, load_network, load_state, read_checkpoint
from stdpipe.models.edvr import EDVR
from stdpipe.models.fastdvdnet import DenoisingBlock
from stdpipe.models.foreign import to_ours

State = dict[str, Tensor]
Keys = Callable[[str], dict[str, Any]]

# BasicSR -> the original EDVR, from the published conversion's list of differences.
TO_ORIGINAL = [
    (r"^conv_l(\d)_(\d)\.", r"fea_L\1_conv\2."),
    (r"\.dcn_pack\.l(\d)\.", r".L\1_dcnpack."),
    (r"\.offset_conv(\d)\.l(\d)\.", r".L\2_offset_conv\1."),
    (r"\.feat_conv\.l(\d)\.", r".L\1_fea_conv."),
    (r"\.conv_offset\.", ".conv_offset_mask."),
    (r"^fusion\.temporal_attn1\.", "fusion.tAtt_2."),  # crosswise
    (r"^fusion\.temporal_attn2\.", "fusion.tAtt_1."),
    (r"^fusion\.feat_fusion\.", "fusion.fea_fusion."),
    (r"^fusion\.spatial_attn_add(\d)\.", r"fusion.sAtt_add_\1."),
    (r"^fusion\.spatial_attn_l(\d)\.", r"fusion.sAtt_L\1."),
    (r"^fusion\.spatial_attn(\d)\.", r"fusion.sAtt_\1."),
    (r"^fusion\.", "tsa_fusion."),
    (r"^reconstruction\.", "recon_trunk."),
    (r"^conv_hr\.", "HRconv."),
    (r"^predeblur\.conv_first\.", "pre_deblur.conv_first_1."),
    (r"^predeblur\.stride_conv_hr1\.", "pre_deblur.conv_first_2."),
    (r"^predeblur\.stride_conv_hr2\.", "pre_deblur.conv_first_3."),
    (r"^predeblur\.stride_conv_l(\d)\.", r"pre_deblur.deblur_L\1_conv."),
    (r"^predeblur\.resblock_l3\.", "pre_deblur.RB_L3_1."),
    (r"^predeblur\.resblock_l2_(\d)\.", r"pre_deblur.RB_L2_\1."),
]


def original(key: str) -> str:
    for pattern, name in TO_ORIGINAL:
        key = re.sub(pattern, name, key)
    return re.sub(
        r"^predeblur\.resblock_l1\.(\d)\.", lambda m: f"pre_deblur.RB_L1_{int(m[1]) + 1}.", key
    )


def state_of(**options: Any) -> State:
    """A small EDVR's parameters, each told from all others by its values."""
    net = EDVR(num_feat=8, num_frame=3, num_reconstruct_block=2, **options)
    return {k: torch.full_like(v, n) for n, (k, v) in enumerate(net.state_dict().items())}


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in expected)


@pytest.mark.parametrize("size", ["M5", "L7"])
def test_from_mmagic(edvr_keys: Keys, size: str) -> None:
    """All names of mmagic's published networks, under its prefix and with its step counter."""
    values = {k: torch.tensor(n) for n, k in enumerate(edvr_keys(size))}
    theirs = {f"generator.{name}": values[k] for k, (name, _) in edvr_keys(size).items()}
    theirs["step_counter"] = torch.zeros(1)
    assert sum("pcd_alignment" in k for k in theirs) == 40  # not BasicSR's names already
    assert_same(to_ours(theirs, "theirs.pth"), values)


@pytest.mark.parametrize(
    "options",
    [{}, {"with_tsa": False}, {"with_predeblur": True, "hr_in": True}],
    ids=["tsa", "no-tsa", "predeblur"],
)
def test_from_the_original(options: dict[str, Any]) -> None:
    """Every parameter finds back; the two temporal attentions cross over."""
    ours = state_of(**options)
    theirs = {original(k): v for k, v in ours.items()}
    assert len(theirs) == len(ours)
    assert_same(to_ours(theirs, "theirs.pth"), ours)


def test_examples_of_the_originals_names() -> None:
    """The reverse table above is checked at its corners: names as in the original's own file."""
    known = {
        "tsa_fusion.tAtt_1.weight": "fusion.temporal_attn2.weight",
        "tsa_fusion.tAtt_2.weight": "fusion.temporal_attn1.weight",
        "pcd_align.L3_dcnpack.conv_offset_mask.bias": "pcd_align.dcn_pack.l3.conv_offset.bias",
        "pcd_align.cas_dcnpack.conv_offset_mask.bias": "pcd_align.cas_dcnpack.conv_offset.bias",
        "pcd_align.L2_offset_conv3.bias": "pcd_align.offset_conv3.l2.bias",
        "recon_trunk.9.conv1.weight": "reconstruction.9.conv1.weight",
        "fea_L3_conv2.weight": "conv_l3_2.weight",
        "HRconv.weight": "conv_hr.weight",
    }
    assert list(to_ours({k: torch.zeros(1) for k in known}, "theirs.pth")) == list(known.values())


@pytest.mark.parametrize("prefix", ["module.", "generator.", "module.generator."])
def test_wrappers_prefixes(prefix: str) -> None:
    """DataParallel's and mmagic's wrappers leave their names in front; names inside stay."""
    ours = state_of()
    assert_same(to_ours({prefix + k: v for k, v in ours.items()}, "theirs.pth"), ours)


def test_basicsrs_names_stay() -> None:
    """What needs no translation gets none."""
    assert_same(to_ours(state_of(), "ours.pth"), state_of())


class Published(NamedTuple):
    """A network's published names: ours -> theirs, in steps; and some as their repository has
    them, with what they are here."""

    network: str
    to_theirs: list[tuple[str, str | Callable[[re.Match[str]], str]]]
    examples: dict[str, str]


PUBLISHED = {
    "d3dnet": Published(  # XinyiYing/D3Dnet, code/model.py of 2020
        "d3dnet:channels=1,num_feat=4",
        [(r"^bottleneck\.", "TA."), (r"^reconstruction\.", "reconstruct.")],
        {
            "input.0.weight": "input.0.weight",
            "residual_layer.4.dcn1.conv_offset.bias": "residual_layer.4.dcn1.conv_offset.bias",
            "TA.weight": "bottleneck.weight",
            "reconstruct.5.dcn1.bias": "reconstruction.5.dcn1.bias",
            "upscale.3.weight": "upscale.3.weight",
        },
    ),
    "d3dnet, later": Published(  # the same file, later
        "d3dnet:channels=1,num_feat=4",
        [(r"^reconstruction\.", "reconstruct.")],
        {"bottleneck.bias": "bottleneck.bias"},
    ),
    "sofvsr": Published(  # The-Learning-And-Vision-Atelier-LAVA/SOF-VSR, TIP/modules.py
        "sofvsr:num_feat=8,channels=1,residual=false",
        [
            (r"\.pointwise1\.", ".body.0."),
            (r"\.depthwise\.", ".body.2."),
            (r"\.pointwise2\.", ".body.3."),
            (r"^body\.", "SR.body.2.body."),
            (r"^first\.", "SR.body.0."),
            (r"^up\.conv1\.", "SR.body.3."),
            (r"^up\.conv2\.", "SR.body.6."),
            (r"^conv_last\.", "SR.body.9."),
            (r"^flow\.first\.", "OFR.RNN1.0."),
            (r"^flow\.blocks\.", "OFR.RNN1.2.body."),
            (r"^flow\.to_flow\.", "OFR.RNN2.0."),
            (r"^flow\.hr_blocks\.", "OFR.SR.0.body."),
            (r"^flow\.hr_up\.conv1\.", "OFR.SR.1."),
            (r"^flow\.hr_up\.conv2\.", "OFR.SR.4."),
            (r"^flow\.hr_to_flow\.", "OFR.SR.7."),
        ],
        {
            "OFR.RNN1.2.body.2.body.3.weight": "flow.blocks.2.pointwise2.weight",
            "OFR.RNN2.0.weight": "flow.to_flow.weight",
            "OFR.SR.0.body.1.body.2.weight": "flow.hr_blocks.1.depthwise.weight",
            "OFR.SR.7.weight": "flow.hr_to_flow.weight",
            "SR.body.2.body.7.body.0.weight": "body.7.pointwise1.weight",
            "SR.body.6.weight": "up.conv2.weight",
            "SR.body.9.bias": "conv_last.bias",
        },
    ),
    "vespcn": Published(  # LoSealL/VideoSuperResolution, Vespcn.py, Ops/Motion.py, Ops/Blocks.py
        "vespcn:channels=1,residual=false",
        [
            (r"^flow\.(\w+)\.(\d)\.", lambda m: f"mc.flownet.{m[1]}_flow.{int(m[2]) // 2}.0."),
            (r"^body\.", "sr.body."),
            (r"^entry\.", "sr.entry.body.0."),
            (r"^up\.", "sr.conv.body.0."),
            (r"^conv_last\.", "sr.exit.body.0."),
        ],
        {
            "mc.flownet.coarse_flow.0.0.weight": "flow.coarse.0.weight",
            "mc.flownet.fine_flow.4.0.bias": "flow.fine.8.bias",
            "sr.entry.body.0.weight": "entry.weight",
            "sr.body.2.conv1.weight": "body.2.conv1.weight",
            "sr.conv.body.0.bias": "up.bias",
            "sr.exit.body.0.bias": "conv_last.bias",
        },
    ),
    "vsrnet": Published(  # usstdqq/vsrnet_pytorch, model.py
        "vsrnet:num_frame=5,channels=1,residual=false",
        [
            (r"^merge\.conv1\.(\d)\.", lambda m: f"conv1_f{2 - int(m[1])}."),
            (r"^merge\.conv2\.", "conv2."),
            (r"^conv_last\.", "conv3."),
        ],
        {
            "conv1_f0.weight": "merge.conv1.2.weight",
            "conv1_f2.bias": "merge.conv1.0.bias",
            "conv2.weight": "merge.conv2.weight",
            "conv3.weight": "conv_last.weight",
        },
    ),
    "vdsr": Published(  # twtygqyy/pytorch-vdsr, vdsr.py, as quoted in repositories built on it
        "vdsr:channels=1,num_feat=4",
        [
            (r"^body\.0\.", "input."),
            (r"^body\.(\d+)\.", lambda m: f"residual_layer.{int(m[1]) // 2 - 1}.conv."),
            (r"^conv_last\.", "output."),
        ],
        {
            "input.weight": "body.0.weight",
            "residual_layer.0.conv.weight": "body.2.weight",
            "residual_layer.17.conv.weight": "body.36.weight",
            "output.weight": "conv_last.weight",
        },
    ),
    "vdsr, a trunk": Published(  # Lornatang/VDSR-PyTorch, model.py
        "vdsr:channels=1,num_feat=4",
        [
            (r"^body\.0\.", "conv1.0."),
            (r"^body\.(\d+)\.", lambda m: f"trunk.{int(m[1]) // 2 - 1}.conv."),
            (r"^conv_last\.", "conv2."),
        ],
        {"conv1.0.weight": "body.0.weight", "trunk.17.conv.weight": "body.36.weight"},
    ),
    "vdsr, a list": Published(  # LoSealL/VideoSuperResolution, Classic.py, Ops/Blocks.py
        "vdsr:channels=1,num_feat=4",
        [
            (r"^body\.(\d+)\.", lambda m: f"net.{int(m[1]) // 2}.body.0."),
            (r"^conv_last\.", "net.19.body.0."),
        ],
        {"net.18.body.0.bias": "body.36.bias", "net.19.body.0.weight": "conv_last.weight"},
    ),
    "pisr": Published(  # cvlab-yonsei/PISR, fsrcnn.py, encoder.py; around ours
        "pisr:student=vdsr:num_feat=4;num_layer=2",
        [(r"^encoder\.", "backbone.network.encoder.0."), (r"^student\.", "backbone.network.")],
        {
            "backbone.network.encoder.0.1.weight": "encoder.1.weight",  # PReLU's slope
            "backbone.network.encoder.0.6.bias": "encoder.6.bias",
            "backbone.network.conv_last.bias": "student.conv_last.bias",
        },
    ),
}
NO_BIASES = ("vdsr", "vdsr, a trunk")


def numbered(net: nn.Module) -> State:
    """A network's state, each tensor told from all others by its values."""
    return {k: torch.full_like(v, n + 1) for n, (k, v) in enumerate(net.state_dict().items())}


def renamed(state: State, steps: list[tuple[str, Any]]) -> State:
    def theirs(name: str) -> str:
        for pattern, name_there in steps:
            name = re.sub(pattern, name_there, name)
        return name

    return {theirs(k): v for k, v in state.items()}


@pytest.mark.parametrize("source", PUBLISHED)
def test_published_names_fill_the_network(tmp_path: Path, source: str) -> None:
    """Every parameter finds its place. The files are ours under published names: no published
    file was at hand, so their values and scores are not shown."""
    network, steps, examples = PUBLISHED[source]
    ours = numbered(zoo.parse(network).build())
    kept = {k: v for k, v in ours.items() if source not in NO_BIASES or not k.endswith("bias")}
    theirs = renamed(kept, steps)
    assert len(theirs) == len(kept)
    for name, here in examples.items():
        assert torch.equal(theirs[name], ours[here]), name
    torch.save({"epoch": 35, "state_dict": theirs}, tmp_path / "theirs.pth.tar")
    net, _ = load_network(network, str(tmp_path / "theirs.pth.tar"))
    expected = {k: v if k in kept else torch.zeros_like(v) for k, v in ours.items()}
    assert_same(net.state_dict(), expected)


@pytest.mark.parametrize("source", ["sofvsr", "vespcn", "vsrnet"])
def test_published_names_without_their_options(tmp_path: Path, source: str) -> None:
    """A residual has the same shapes as the image itself: refused, with the name to give."""
    network, steps, _ = PUBLISHED[source]
    state = zoo.parse(network).build().state_dict()
    torch.save({f"module.{k}": v for k, v in renamed(state, steps).items()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="residual=false"):
        load_network(network.replace(",residual=false", ""), str(tmp_path / "x.pth"))


TO_TASSANO = [  # m-tassano/fastdvdnet, models.py
    (r"^stage(\d)\.", r"temp\1."),
    (r"\.inc\.3\.(\d)\.", lambda m: f".inc.convblock.{3 + int(m[1])}."),
    (r"\.inc\.(\d)\.", r".inc.convblock.\1."),
    (r"\.down(\d)\.0\.", r".downc\1.convblock."),
    (r"\.down(\d)\.1\.", r".downc\1.convblock.3.convblock."),
    (r"\.down(\d)\.2\.(\d)\.", lambda m: f".downc{m[1]}.convblock.3.convblock.{3 + int(m[2])}."),
    (r"\.up(\d)\.0\.", lambda m: f".upc{int(m[1]) + 1}.convblock.0.convblock."),
    (r"\.up(\d)\.1\.(\d)\.",
     lambda m: f".upc{int(m[1]) + 1}.convblock.0.convblock.{3 + int(m[2])}."),
    (r"\.up(\d)\.2\.", lambda m: f".upc{int(m[1]) + 1}.convblock.1."),
    (r"\.out\.0\.", ".outc.convblock."),
    (r"\.out\.1\.", ".outc.convblock.3."),
]  # fmt: skip


def test_published_denoising_blocks(tmp_path: Path) -> None:
    """Both blocks fill ours with batch norm, less the noise map's filters; as a network for
    super-resolution they lack a stage and the head, which is told."""
    blocks = nn.ModuleDict({f"stage{i}": DenoisingBlock(3, "batch") for i in (1, 2)})
    ours = numbered(blocks)
    theirs = renamed(ours, TO_TASSANO)
    for name, here in {
        "temp1.inc.convblock.4.running_var": "stage1.inc.3.1.running_var",
        "temp1.downc1.convblock.3.convblock.3.weight": "stage1.down1.2.0.weight",
        "temp2.upc2.convblock.0.convblock.1.bias": "stage2.up1.0.1.bias",
        "temp2.upc1.convblock.1.weight": "stage2.up0.2.weight",
        "temp2.outc.convblock.3.weight": "stage2.out.1.weight",
    }.items():
        assert torch.equal(theirs[name], ours[here]), name
    for block in ("temp1", "temp2"):
        rgb = theirs[f"{block}.inc.convblock.0.weight"]
        theirs[f"{block}.inc.convblock.0.weight"] = torch.cat((rgb, rgb[:, :1] + 100), 1)
    path = tmp_path / "model.pth"
    torch.save({f"module.{k}": v for k, v in theirs.items()}, path)
    state, header = read_checkpoint(path)
    assert_same(state, ours)
    load_state(blocks, state, header, str(path))
    with pytest.raises(ValueError, match=r"it lacks \d+ \(conv_hr.bias, .*\)$"):
        load_network("fastdvdnet:norm=batch", str(path))


@pytest.mark.parametrize("name", zoo.ZOO)
def test_our_own_names_are_nobody_elses(name: str) -> None:
    """Not even of a file without a header, read without the network's name."""
    with torch.device("meta"):
        state = zoo.parse(name).build().state_dict()
    assert to_ours(state, "ours.pth").keys() == state.keys()


@pytest.mark.parametrize("part", ["net", "model", "module", "generator", "residual_layer.0.conv"])
def test_names_that_fit_the_network_stay(tmp_path: Path, part: str) -> None:
    """However much they look like others': a user's network, saved by hand."""
    names = (f"{part}.weight", "input.weight", "output.weight") if "." in part else (f"{part}.w",)
    net = nn.Module()
    for name in names:
        *parents, last = name.split(".")
        inner = net
        for parent in parents:
            inner.add_module(parent, nn.Module())
            inner = inner.get_submodule(parent)
        inner.register_parameter(last, nn.Parameter(torch.ones(2)))
    torch.save(net.state_dict(), tmp_path / "mine.pt")
    state, header = read_checkpoint(tmp_path / "mine.pt", net)
    assert state.keys() == set(names)
    assert header == Header()
    assert read_checkpoint(tmp_path / "mine.pt")[0].keys() != set(names)


class Wrapping(nn.Module):
    """A network whose own names begin as wrappers' prefixes do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "net.", "_orig_mod.", "model.module."])
def test_prefixes_come_off_until_the_names_fit(tmp_path: Path, prefix: str) -> None:
    net = Wrapping()
    ours = numbered(net)
    torch.save({prefix + k: v for k, v in ours.items()}, tmp_path / "mine.pt")
    assert_same(read_checkpoint(tmp_path / "mine.pt", net)[0], ours)


@pytest.mark.parametrize("prefix", ["net.", "model.", "generator.", "model.module."])
def test_parts_beside_the_network(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, prefix: str
) -> None:
    """Lightning's file holds its losses' buffers and other networks too; they are told."""
    network, steps, _ = PUBLISHED["d3dnet"]
    ours = numbered(zoo.parse(network).build())
    theirs = {prefix + k: v for k, v in renamed(ours, steps).items()}
    beside = {"loss.window": torch.ones(3), "discriminator.0.weight": torch.ones(2)}
    torch.save({"state_dict": {**beside, **theirs}}, tmp_path / "theirs.ckpt")
    assert_same(load_network(network, str(tmp_path / "theirs.ckpt"))[0].state_dict(), ours)
    assert "loss" in caplog.text
    assert "discriminator" in caplog.text


def test_absurd_prefixes(tmp_path: Path) -> None:
    """A name of a thousand prefixes is unknown; it exhausts nothing."""
    torch.save({"net." * 1000 + "weight": torch.ones(1)}, tmp_path / "theirs.pt")
    with pytest.raises(UserError, match="does not fit"):
        load_network("vdsr:num_feat=4,num_layer=2", str(tmp_path / "theirs.pt"))
