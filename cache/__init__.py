"""The feature cache on disk between the stages, in numpy and zarr, without torch."""

from stdpipe.cache.codecs import dequantise, encode, quantise
from stdpipe.cache.digest import digest
from stdpipe.cache.errors import CacheError
from stdpipe.cache.layout import ENCODINGS, TARGETS
from stdpipe.cache.location import open_place
from stdpipe.cache.manifest import Manifest, Part
from stdpipe.cache.manifest_files import load_manifest, manifest_exists
from stdpipe.cache.reader import Reader, open_reader
from stdpipe.cache.repair import repair
from stdpipe.cache.verify import Broken, Report, verify
from stdpipe.cache.writer import Writer, open_writer

__all__ = [
    "ENCODINGS", "TARGETS", "Broken", "CacheError", "Manifest", "Part", "Reader", "Report",
    "Writer", "dequantise", "digest", "encode", "load_manifest", "manifest_exists", "open_place",
    "open_reader", "open_writer", "quantise", "repair", "verify",
]  # fmt: skip
