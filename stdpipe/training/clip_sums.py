"""A run knows its clips by their content: the crc32 of each as it was first read.

Names stay when frames are made anew, so that names alone would let a run go on with other data.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from stdpipe import distributed
from stdpipe.cache.errors import UserError
from stdpipe.data.frames import files_signs
from stdpipe.data.samples import FILES, Stream, clip_crc32

UNREAD = -1
READERS = 2


class ClipSums:
    """The crc32 and the `files_sign` of each clip that a run has read, part of its checkpoint."""

    def __init__(self, stream: Stream, out: Path) -> None:
        self.stream, self.out = stream, out
        self.seen, self.signs = (torch.full((len(stream.keys),), UNREAD) for _ in range(2))

    def take(self, batch: Mapping[str, Tensor]) -> None:
        """Compare the clips of a batch, before it is moved to a device, with what is known of them.

        Raises UserError, naming both, for a clip whose frames are not those that the run has read.
        """
        clips, crc32, signs = (batch[name] for name in FILES)
        self._refuse_other(clips, self.seen[clips], crc32)
        self.seen[clips], self.signs[clips] = crc32, signs

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Take the sums of a checkpoint, and compare them with the clips as they are now: those
        whose files still have the same names, sizes and times are not read. Raises as `take`."""
        self.seen, self.signs = state["crc32"].clone(), state["signs"].clone()
        distributed.from_first(self._compare)

    def _compare(self) -> None:
        known = (self.seen != UNREAD).nonzero().flatten().tolist()
        clips = [self.stream.clips[self.stream.keys[number]] for number in known]
        now = files_signs(clips)
        unsure = [n for n, clip in zip(known, clips, strict=True) if now[clip.key] != self.signs[n]]

        def read(number: int) -> int:
            clip = self.stream.clips[self.stream.keys[number]]
            return clip_crc32(clip, self.stream.degradation)

        with ThreadPoolExecutor(READERS) as pool:
            found = tqdm(pool.map(read, unsure), total=len(unsure), unit="clip", desc="compare",
                         disable=None if unsure else True)  # fmt: skip
            sums = torch.tensor(list(found), dtype=torch.int64)
        self._refuse_other(torch.tensor(unsure, dtype=torch.int64), self.seen[unsure], sums)
        signs = [now[self.stream.keys[n]] for n in unsure]
        self.signs[unsure] = torch.tensor(signs, dtype=torch.int64)

    def share(self) -> None:
        """Let all ranks know what each has read; all call it. Raises as `take` does."""
        mine, everywhere = self.seen, distributed.largest(self.seen)
        every = torch.arange(len(self.seen))
        self._refuse_other(every, everywhere, torch.where(mine == UNREAD, everywhere, mine))
        self.seen, self.signs = everywhere, distributed.largest(self.signs)

    def state_dict(self) -> dict[str, Tensor]:
        return {"crc32": self.seen, "signs": self.signs}

    def _refuse_other(self, clips: Tensor, known: Tensor, crc32: Tensor) -> None:
        other = (known != UNREAD) & (known != crc32)
        if other.any():
            first = int(other.nonzero()[0])
            raise UserError(
                f"the frames of clip {self.stream.keys[int(clips[first])]} are not those that the "
                f"run in {self.out} has learnt from (crc32 {int(crc32[first])} here, "
                f"{int(known[first])} there): give it its own data, or choose another --out"
            )


def without(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch without what it says of its files."""
    return {name: values for name, values in batch.items() if name not in FILES}
