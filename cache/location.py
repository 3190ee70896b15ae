"""Open the place behind a path or URL: a local folder or an object store."""

from pathlib import Path

from stdpipe.cache.errors import CacheError
from stdpipe.cache.files import refuse_secrets
from stdpipe.cache.local import LocalPlace
from stdpipe.cache.objects import ObjectPlace
from stdpipe.cache.place import Place


def open_place(url: str | Path) -> Place:
    """Open a path, file:///path, or a URL that obstore takes (s3://bucket/prefix, gs://, az://).

    Raises CacheError for anything else, and where the library for object stores is not installed;
    UserError for an address with credentials, which belong into the environment.
    """
    refuse_secrets(str(url), "the cache")
    scheme, mark, rest = str(url).partition("://")
    if not mark:
        return LocalPlace(Path(url))
    if scheme != "file":
        return ObjectPlace(str(url))
    if not rest.startswith("/"):
        raise CacheError(f"cache {str(url)!r}: a file URL reads file:///absolute/path")
    return LocalPlace(Path(rest))
