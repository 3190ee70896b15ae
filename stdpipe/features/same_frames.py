"""Compare clips with what their cache entries were made of, before an extraction goes on.

A clip whose files still have the names, sizes and times that they had when it was read is not read
again, as Git does it: a finished cache of a large data set is then looked through in seconds.
"""

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm import tqdm

from stdpipe.data.degrade import degradation
from stdpipe.data.frames import Clip, read_with_crc32
from stdpipe.data.views import View
from stdpipe.distributed import from_torchrun
from stdpipe.features.extraction import Prepared
from stdpipe.features.targets import refuse_other_crc32

SIGN = "_files"  # in an entry's `extra`: no part of what it is
READERS = 2


def sign_of(clip: Clip) -> int:
    """Return a crc32 of the names, sizes and times of a clip's files, and of its LR's."""
    files = [*clip.files, *(clip.lr.files if clip.lr else ())]
    stats = ((file, file.stat()) for file in files)
    told = "".join(f"{file.name} {at.st_size} {at.st_mtime_ns}\n" for file, at in stats)
    return zlib.crc32(told.encode())


def refuse_other_frames(ready: Prepared, views: Sequence[View]) -> None:
    """Raise UserError where a committed view's clip has other frames now, naming both crc32."""
    committed = [view for view in views if str(view) in ready.committed]
    signs = {key: sign_of(ready.clips[key]) for key in {view.clip for view in committed}}
    unsure = [view for view in committed if ready.extra[str(view)].get(SIGN) != signs[view.clip]]
    how = degradation(str(ready.manifest.made_by["degradation"]))
    if not how.of_clip:  # all views of a clip are made of the same frames
        unsure = list({view.clip: view for view in unsure}.values())
    if not unsure:
        return

    def compare(view: View) -> None:
        clip = ready.clips[view.clip]
        crc32 = ready.read(view)[1] if how.of_clip else read_with_crc32(clip)[1]
        there = ready.extra[str(view)].get("source_crc32")
        refuse_other_crc32(view, crc32, there, ready.url)

    hidden = True if from_torchrun()[0] else None
    with ThreadPoolExecutor(READERS) as reading:
        found = reading.map(compare, unsure)
        for _ in tqdm(found, total=len(unsure), unit="clip", desc="compare", disable=hidden):
            pass
