"""The feature cache: what lies on disk between the stages. numpy and zarr; knows no network."""

from stdpipe.cache.codecs import dequantise, encode, quantise
from stdpipe.cache.errors import CacheError
from stdpipe.cache.layout import ENCODINGS, FORMAT_VERSION, TARGETS
from stdpipe.cache.manifest import Manifest, difference, load_manifest
from stdpipe.cache.reader import Reader, open_reader
from stdpipe.cache.verify import Broken, Report, verify
from stdpipe.cache.writer import Writer, open_writer

__all__ = [
    "ENCODINGS",
    "FORMAT_VERSION",
    "TARGETS",
    "Broken",
    "CacheError",
    "Manifest",
    "Reader",
    "Report",
    "Writer",
    "dequantise",
    "difference",
    "encode",
    "load_manifest",
    "open_reader",
    "open_writer",
    "quantise",
    "verify",
]
