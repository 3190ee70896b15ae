"""The clips that a training sees: a stream of samples, beside them what a cache's teacher made.

train-student reads the stream itself. CachedClips is the same stream for any other training loop.
Axes: T frames of a clip, C channels, H W HR size, h w LR size.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from stdpipe import cache, distributed
from stdpipe.cache.errors import UserError
from stdpipe.data import named
from stdpipe.data.degrade import degradation as named_degradation
from stdpipe.data.pairs import degradation_of, find_pairs
from stdpipe.data.samples import FILES, Stream, Targets
from stdpipe.data.sizes import are_cut, check_sizes, leave_small, tell_sizes
from stdpipe.data.views import View, full_views
from stdpipe.features.extraction import EXTRACTOR
from stdpipe.features.targets import Decoder, open_targets, refuse_other_frames
from stdpipe.suggest import refuse_text
from stdpipe.training.held_out import held_out

BESIDE = ("lr", "hr", "has_hr", "key", "cache")  # what a batch holds beside the teacher's maps
ROUNDS = 3  # times that all clips are asked for before equal crops are told


def clip_stream(
    data: Path,
    reader: cache.Reader | None,
    degradation: str,
    patch: int,
    seed: int,
    *,
    frames: int = 7,
    hold_out: int = 0,
    resumes: bool = False,
    targets: Targets | None = None,
) -> Stream:
    """Return the samples of the data set's train clips, in the views of a cache if there is one.

    hold_out: clips to leave out. resumes: whether this goes on with a run, since whose beginning
    data and cache may have grown. A warning names clips that are smaller than the patch, which are
    left out. Raises UserError where data and cache hold other clips, and where none is left.
    """
    clips = {c.key: c for c in find_pairs(data, "train", degradation, length=frames)}
    scale, turns = named_degradation(degradation).scale, named_degradation(degradation).turns
    sizes = check_sizes([*clips.values()], scale)
    if reader is None:
        views = full_views(list(clips), seed, len(turns), turns)
    else:
        made_by = reader.manifest.made_by
        _refuse_otherwise_filled(data, made_by, reader.url)
        if made_by.get("views") == "baked":  # smaller ones are not cached
            clips = leave_small(clips, sizes, int(made_by.get("patch") or 1), scale)
        views = [View.parse(entry) for entry in reader.manifest.entries]
        cached = {v.clip for v in views}
        clips = {key: clip for key, clip in clips.items() if key in cached or not resumes}
        if odd := sorted(cached ^ clips.keys()):
            raise UserError(
                f"clip lists differ by {len(odd)} clips, {odd[0]} first ({len(cached)} in "
                f"{reader.url}, {len(clips)} in {data}): use the cache's data, or extract again"
            )
    if reader and made_by.get("extractor") == EXTRACTOR and are_cut(clips, sizes, scale):
        raise UserError(
            f"{reader.url} was made of frames padded to multiples of {scale}, which are cut now: "
            "extract again"
        )
    clips = leave_small(clips, sizes, patch, scale)
    if distributed.first():
        tell_sizes(clips, sizes)
    unseen = held_out(clips, hold_out)
    if len(clips) <= len(unseen):
        raise UserError(f"hold_out={hold_out} leaves none of {len(clips)} clips to train on")
    views = [view for view in views if view.clip in clips and view.clip not in unseen]
    check = partial(refuse_other_frames, reader) if reader else None
    return Stream(clips, views, degradation, patch, seed, targets, check=check)


def _refuse_otherwise_filled(data: Path, made_by: Mapping[str, Any], url: str) -> None:
    """Refuse data whose small frames or short clips are filled up otherwise than the cache's."""
    name = named.parse(data)
    for option, here in (("pad", name.pad), ("repeat", name.repeat)):
        if (there := made_by.get(option, 0)) != here:
            raise UserError(
                f"cache {url} was made from data with {option}={there}, and {data} has "
                f"{option}={int(here)}: name the data as it was then"
            )


class CachedClips(Dataset[dict[str, Any]]):
    """A map-style dataset of random crops with the teacher's maps, for any DataLoader and sampler.

    data: what every command takes as --data. cache: a cache's path or URL; None gives LR and HR
    alone. targets: some of "sr", "f_sr", "attention" and "f_lr". patch: the side of the crop in HR
    pixels, a multiple of the scale. degradation: without a cache, LR that lies beside
    HR, else `bd`.

    An item is a dict of lr (T, 3, h, w) and hr (T, 3, H, W), float32 RGB in [0, 1], the targets by
    name, float32 without gradient (sr (T, 3, H, W), or luma alone (T, 1, H, W); f_sr (T, C, H, W);
    attention (T, H, W); f_lr (T, C, h, w)), and text: key, the clip's name, and cache, its id.
    Where clips of LR alone are among them, has_hr (T,) is 1 where there is HR, and 0 where black
    stands for it, which Distillation knows.

    Item p is a function of (seed, p) alone: of one clip in one orientation of the cache, the crop
    at random. There are len() views; p may be any larger number, and then counts on into later
    epochs, so that `sampler=range(start, stop)` is an endless, shuffled order that can be resumed,
    and train-student's own. With shuffle=True or a DistributedSampler call `set_epoch` before each
    epoch, or every epoch has the same crops.

    decode=False leaves the maps as they are stored; `decode` then makes of a whole batch, on the
    device that its LR lies on, what they stand for: less work for the loader's processes.

    Clips of which no crop of that side can be cut are left out, with a warning. Raises UserError
    where data and cache do not fit, where no clip is left, and for a target that the cache lacks.

        clips = stdpipe.CachedClips("data", cache="c.zarr", targets=["sr"], patch=64, seed=0)
        loader = DataLoader(clips, batch_size=2, sampler=range(2 * 1000), num_workers=1)
    """

    def __init__(
        self,
        data: str | os.PathLike[str],
        cache: str | os.PathLike[str] | None = None,
        targets: Sequence[str] = (),
        patch: int = 64,
        seed: int = 0,
        *,
        degradation: str | None = None,
        frames: int = 7,
        decode: bool = True,
    ) -> None:
        refuse_text(targets, "targets")
        self.targets, self.decodes = tuple(targets), decode
        if degradation or cache is None:
            degradation = degradation_of(Path(data), degradation)
        self.reader = _open(cache, degradation, frames)
        self._decoders: dict[torch.device, Decoder] = {}
        read = None
        if self.reader is None:
            if self.targets:
                told = f"targets {', '.join(self.targets)} come from a cache, and none is given"
                raise UserError(f"{told}: give cache, or leave them out")
        else:
            degradation = str(self.reader.manifest.made_by["degradation"])
            if self.targets:
                cpu = torch.device("cpu")
                read, self._decoders[cpu] = open_targets(self.reader, self.targets, cpu)
        scale = named_degradation(degradation or "bd").scale
        if not isinstance(patch, int) or patch < scale or patch % scale:
            raise UserError(f"patch is a side on the LR grid, a multiple of {scale}, got {patch}")
        self.stream = clip_stream(
            Path(data), self.reader, degradation or "bd", patch, seed, frames=frames, targets=read
        )
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # workers see it change
        self._asked = 0

    def __len__(self) -> int:
        return len(self.stream.views)

    def set_epoch(self, epoch: int) -> None:
        """Choose the crops of items 0 to len() - 1; the loader's processes see it, too."""
        if not isinstance(epoch, int) or epoch < 0:
            raise UserError(f"epochs count from 0, got {epoch!r}")
        self.epoch.fill_(epoch)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Give one epoch, where Python would go on through all positions."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index < 0:
            raise IndexError(f"positions begin at 0, got {index}")
        position = int(self.epoch) * len(self) + index
        self._warn_of_equal_crops(position)
        sample: dict[str, Any] = self.stream[position]
        for name in FILES:
            del sample[name]
        if self.decodes and self.targets:
            batch = {name: values[None] for name, values in sample.items()}
            sample = {name: values[0] for name, values in self.decode(batch).items()}
        view, _ = self.stream.view(position)
        return {**sample, "key": view.clip, "cache": self.cache_id}

    @property
    def degradation(self) -> str:
        """How LR is made of HR: measure students by the same."""
        return self.stream.degradation

    @property
    def cache_id(self) -> str:
        """The identity of the cache; "" without one."""
        return self.reader.manifest.cache_id if self.reader else ""

    def decode(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch with its stored maps decoded to the targets, on the device of its LR."""
        if self.reader is None or not self.targets:
            return dict(batch)
        device = batch["lr"].device
        if device not in self._decoders:
            self._decoders[device] = open_targets(self.reader, self.targets, device)[1]
        made = self._decoders[device](batch)
        maps = {name: made[name].float() for name in self.targets}
        return {name: batch[name] for name in BESIDE if name in batch} | maps

    def _warn_of_equal_crops(self, position: int) -> None:
        self._asked += 1
        if self._asked > ROUNDS * len(self) and position < len(self):
            self._asked = -(2**62)  # once
            warnings.warn(
                "CachedClips gives the crops of epoch 0 again: call set_epoch before each epoch, "
                "or take sampler=range(start, stop), which counts on",
                stacklevel=3,
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_decoders": {}}


def _open(
    url: str | os.PathLike[str] | None, degradation: str | None, frames: int
) -> cache.Reader | None:
    if url is None:
        return None
    expect: dict[str, Any] = {"frames": frames}
    return cache.open_reader(
        os.fspath(url), expect | ({"degradation": degradation} if degradation else {})
    )
