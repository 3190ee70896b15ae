"""CachedClips: train-student's own stream as a dataset, for any loader."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler

from stdpipe import cache
from stdpipe.cache.errors import UserError
from stdpipe.features.targets import open_targets
from stdpipe.training.clips import CachedClips, clip_stream

SETTINGS: dict[str, Any] = {"patch": 16, "seed": 3}
CPU = torch.device("cpu")


def test_items_are_those_of_the_stream(tiny: Path, tiny_cache: Path) -> None:
    """Position by position, into later epochs, with maps decoded as a training decodes them."""
    names = ("sr", "f_sr", "attention")
    clips = CachedClips(tiny, tiny_cache, names, **SETTINGS)
    reader = cache.open_reader(tiny_cache)
    read, decode = open_targets(reader, names, CPU)
    stream = clip_stream(tiny, reader, "bd", 16, 3, targets=read)
    assert len(clips) == len(stream.views) == 6
    for position in (0, 5, 6, 20):
        item = clips[position]
        batch = decode({name: x[None] for name, x in stream[position].items()})
        assert item["key"] == stream.view(position)[0].clip
        assert item["cache"] == reader.manifest.cache_id
        for name in ("lr", "hr", *names):
            assert torch.equal(item[name], batch[name][0].float()), name
    with pytest.raises(IndexError):
        clips[-1]
    assert [item["key"] for item in clips] == [stream.view(p)[0].clip for p in range(6)]
    item = clips[0]
    assert item["lr"].shape == (7, 3, 4, 4)
    assert item["sr"].shape == item["hr"].shape == (7, 3, 16, 16)


def test_raw_maps_are_decoded_by_the_batch(tiny: Path, tiny_cache: Path) -> None:
    whole = CachedClips(tiny, tiny_cache, ["f_sr"], **SETTINGS)
    raw = CachedClips(tiny, tiny_cache, ["f_sr"], decode=False, **SETTINGS)
    first, second = (next(iter(DataLoader(x, batch_size=2))) for x in (whole, raw))
    made = raw.decode(second)
    assert made["key"] == first["key"]
    assert torch.equal(made["f_sr"], first["f_sr"])


def test_epochs_reach_processes_that_stay(tiny: Path, tiny_cache: Path) -> None:
    """set_epoch chooses the positions len() * epoch on, in workers that began before, too."""
    clips = CachedClips(tiny, tiny_cache, **SETTINGS)
    loader = DataLoader(
        clips, batch_size=None, num_workers=1, persistent_workers=True,
        multiprocessing_context="forkserver",
    )  # fmt: skip
    first = [item["hr"] for item in loader]
    clips.set_epoch(1)
    second = [item["hr"] for item in loader]
    clips.set_epoch(0)
    assert all(torch.equal(x, clips[n]["hr"]) for n, x in enumerate(first))
    assert all(torch.equal(x, clips[6 + n]["hr"]) for n, x in enumerate(second))
    assert torch.equal(pickle.loads(pickle.dumps(clips))[2]["hr"], first[2])


def test_equal_crops_are_told(tiny: Path) -> None:
    """Where the loader begins epoch after epoch at 0, once; not where positions count on."""
    clips = CachedClips(tiny, **SETTINGS)
    assert len(clips) == 24  # eight orientations of three clips
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for position in range(100):
            clips[position]
    clips = CachedClips(tiny, **SETTINGS)
    with pytest.warns(UserWarning, match="set_epoch"):
        assert [clips[position] for position in [*range(24)] * 4]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"targets": ["attentoin"]}, "attentoin.*did you mean 'attention'"),
        ({"targets": ["f_lr"]}, "needs f_lr.*it has sr, f_sr, attention"),
        ({"degradation": "bi"}, "bi"),
        ({"frames": 5}, "frames"),
        ({"patch": 18}, "multiple of 4"),
        ({"patch": 64}, "smaller than the patch"),
        ({"cache": None, "targets": ["sr"]}, "none is given"),
    ],
)
def test_what_does_not_fit(tiny: Path, tiny_cache: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises((UserError, cache.CacheError), match=told):
        CachedClips(tiny, **{"cache": tiny_cache, **SETTINGS, **given})


def test_the_usual_distributed_sampler(tiny: Path, tiny_cache: Path) -> None:
    """Two ranks share out each epoch's items, whose crops change with set_epoch."""
    clips = CachedClips(tiny, tiny_cache, ["sr"], **SETTINGS)
    seen: list[list[torch.Tensor]] = []
    for epoch in range(2):
        clips.set_epoch(epoch)
        items = []
        for rank in range(2):
            sampler = DistributedSampler(clips, num_replicas=2, rank=rank, shuffle=True, seed=1)
            sampler.set_epoch(epoch)
            items += [batch["hr"][0] for batch in DataLoader(clips, 1, sampler=sampler)]
        expected = [clips[i]["hr"] for i in range(len(clips))]
        assert len(items) == len(clips) == 6
        assert all(any(torch.equal(x, y) for y in items) for x in expected)
        seen.append(expected)
    assert not any(torch.equal(x, y) for x, y in zip(*seen, strict=True))
