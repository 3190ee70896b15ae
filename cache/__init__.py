"""The feature cache: what lies on disk between the stages. numpy and zarr; knows no network."""

from stdpipe.cache.errors import CacheError
from stdpipe.cache.layout import FORMAT_VERSION, TARGETS
from stdpipe.cache.manifest import Manifest, difference, load_manifest
from stdpipe.cache.reader import Reader, open_reader
from stdpipe.cache.verify import Broken, Report, verify
from stdpipe.cache.writer import Writer, open_writer

__all__ = [
    "FORMAT_VERSION",
    "TARGETS",
    "Broken",
    "CacheError",
    "Manifest",
    "Reader",
    "Report",
    "Writer",
    "difference",
    "load_manifest",
    "open_reader",
    "open_writer",
    "verify",
]
