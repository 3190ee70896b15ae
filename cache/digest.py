"""One SHA-256 for all that a cache serves, to be kept elsewhere.

Checksums that lie in a cache tell damage, not forgery: whoever writes a cache writes them, too.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from stdpipe.cache.errors import CacheError, DamagedError
from stdpipe.cache.journal import committed, identity, read_journals
from stdpipe.cache.location import open_place
from stdpipe.cache.reader import open_reader
from stdpipe.cache.verify import read_checked


def digest(path: str | Path, progress: Callable[[int, int], None] | None = None) -> str:
    """Return the SHA-256 (hex) of what made a cache, its entries, all their bytes and the tail.

    It is the same however many writers made the cache, and changes when the cache grows. Calls
    progress(done, total) for each entry. Raises CacheError where the cache is not finished, and for
    damage, which `verify` lists.
    """
    reader, place = open_reader(path), open_place(path)
    made, commits = reader.manifest, committed(read_journals(place))
    total = hashlib.sha256(_text([made.cache_id, made.digest]))
    for done, key in enumerate(made.entries, start=1):
        commit, files = commits[key], {}
        for name in made.group(key).arrays:
            try:
                files[name] = hashlib.sha256(read_checked(place, made, commit, name)).hexdigest()
            except (DamagedError, FileNotFoundError) as error:
                told = f"entry {key!r} of cache {place.url}: its {name} is damaged ({error})"
                raise CacheError(f"{told}; run 'stdpipe cache verify' on it") from error
        total.update(_text([key, identity(commit.extra), files]))
        if progress is not None:
            progress(done, len(made.entries))
    if made.needs_tail:
        for name, values in sorted(reader.tail().items()):
            total.update(_text([name, values.shape]) + values.astype("<f4").tobytes())
    return total.hexdigest()


def _text(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
