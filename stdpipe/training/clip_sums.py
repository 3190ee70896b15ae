"""A run knows its clips by their content: the crc32 of each as it was first read.

Names stay when frames are made anew, so that names alone would let a run go on with other data.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from stdpipe import distributed
from stdpipe.cache.errors import UserError
from stdpipe.data.samples import FILES

UNREAD = -1


class ClipSums:
    """The crc32 of the files of each clip that a run has read, part of its checkpoint."""

    def __init__(self, keys: Sequence[str], out: Path) -> None:
        self.keys, self.out = keys, out
        self.seen = torch.full((len(keys),), UNREAD, dtype=torch.int64)

    def take(self, batch: Mapping[str, Tensor]) -> None:
        """Compare the clips of a batch, before it is moved to a device, with what is known of them.

        Raises UserError, naming both, for a clip whose frames are not those that the run has read.
        """
        clips, crc32 = (batch[name] for name in FILES)
        self._refuse_other(clips, self.seen[clips], crc32)
        self.seen[clips] = crc32

    def share(self) -> None:
        """Let all ranks know what each has read; all call it. Raises as `take` does."""
        mine, everywhere = self.seen, distributed.largest(self.seen)
        every = torch.arange(len(self.keys))
        self._refuse_other(every, everywhere, torch.where(mine == UNREAD, everywhere, mine))
        self.seen = everywhere

    def state_dict(self) -> dict[str, Tensor]:
        return {"crc32": self.seen}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if state["crc32"].shape != self.seen.shape:
            raise UserError(
                f"{self.out / 'checkpoint.pt'} is of {len(state['crc32'])} clips, and the run has "
                f"{len(self.keys)}: restore it, or remove it to begin this run anew"
            )
        self.seen = state["crc32"].clone()

    def _refuse_other(self, clips: Tensor, known: Tensor, crc32: Tensor) -> None:
        other = (known != UNREAD) & (known != crc32)
        if other.any():
            first = int(other.nonzero()[0])
            raise UserError(
                f"the frames of clip {self.keys[int(clips[first])]} are not those that the run in "
                f"{self.out} has learnt from (crc32 {int(crc32[first])} here, {int(known[first])} "
                "there): give it its own data, or choose another --out"
            )


def without(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the batch without what it says of its files."""
    return {name: values for name, values in batch.items() if name not in FILES}
