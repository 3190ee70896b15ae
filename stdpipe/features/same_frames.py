"""Compare clips with what their cache entries were made of, before an extraction goes on.

A clip whose files still have the names, sizes and times that they had when it was read is not read
again, as Git does it: a finished cache of a large data set is then looked through in seconds.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

from tqdm import tqdm

from stdpipe.data.degrade import degradation
from stdpipe.data.frames import files_signs, whole_crc32
from stdpipe.data.views import View
from stdpipe.distributed import from_torchrun
from stdpipe.features.extraction import Prepared
from stdpipe.features.targets import refuse_other_crc32

SIGN = "_files"  # in an entry's `extra`: no part of what it is
READERS = 2


def refuse_other_frames(ready: Prepared, views: Sequence[View]) -> None:
    """Raise UserError where a committed view's clip has other frames now, naming both crc32."""
    committed = [view for view in views if str(view) in ready.committed]
    signs = files_signs([ready.clips[key] for key in {view.clip for view in committed}])
    unsure = [view for view in committed if ready.extra[str(view)].get(SIGN) != signs[view.clip]]
    if not unsure:
        return
    of_clip = degradation(str(ready.manifest.made_by["degradation"])).of_clip
    by_clip = [[*some] for _, some in groupby(unsure, lambda view: view.clip)]

    def compare(some: list[View]) -> None:
        # all views of a clip are made of the same frames, but where LR is a part of them
        crc32 = 0 if of_clip else whole_crc32(ready.clips[some[0].clip])
        for view in some:
            here = ready.read(view)[1] if of_clip else crc32
            there = ready.extra[str(view)].get("source_crc32")
            refuse_other_crc32(view, here, there, ready.url)

    hidden = True if from_torchrun()[0] else None
    with ThreadPoolExecutor(READERS) as reading:
        found = reading.map(compare, by_clip)
        for _ in tqdm(found, total=len(by_clip), unit="clip", desc="compare", disable=hidden):
            pass
