"""A cache in an object store: S3, GCS, Azure, and whatever else obstore and so zarr reach.

An object appears whole or not at all, and cannot be appended to. Nothing here knows whether a
process is alive, so a lock is a lease: an object that its holder rewrites every few seconds. One
that has not changed for LEASE_SECONDS belongs to a dead process and is taken over; no two clocks
are compared. Creation and take-over are conditional writes (If-None-Match, If-Match).
Credentials and endpoints come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from stdpipe.cache.checksum import Buffer
from stdpipe.cache.errors import CacheError
from stdpipe.cache.place import Span

LOG = logging.getLogger(__name__)

LEASE_SECONDS = 20.0
RENEW_SECONDS = 5.0
CONNECTIONS = 16


class ObjectPlace:
    """Objects below a prefix. For the methods' words see place.Place."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._pid = 0
        self._store: Any = None
        _ = self.store

    @property
    def url(self) -> str:
        return self._url

    @property
    def store(self) -> Any:
        """obstore's, made by this very process: its threads do not survive a fork."""
        if self._pid != os.getpid():
            self._store, self._pid = _connect(self._url), os.getpid()
        return self._store

    def __getstate__(self) -> dict[str, Any]:
        return {"_url": self._url, "_pid": 0, "_store": None}

    def read(self, path: str) -> bytes:
        with self._plain_errors("read", path):
            return bytes(_obstore().get(self.store, path).bytes())

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            yield from pool.map(self.read, paths)

    def ranges(self, path: str, spans: Sequence[Span]) -> Iterator[Buffer]:
        """All at once: spans that lie close together share a request."""
        starts, ends = zip(*spans, strict=True)
        with self._plain_errors("read", path):
            found = _obstore().get_ranges(self.store, path, starts=starts, ends=ends)
        for (start, stop), part in zip(spans, found, strict=True):
            if len(part) != stop - start:
                raise EOFError("its object ends early")
            yield memoryview(part)

    def size(self, path: str) -> int:
        with self._plain_errors("look up", path):
            return int(_obstore().head(self.store, path)["size"])

    def write(self, path: str, parts: Sequence[bytes]) -> None:
        with self._plain_errors("write", path):
            _obstore().put(self.store, path, b"".join(parts))

    def create(self, path: str, data: bytes) -> bool:
        return self._put_if(path, data, "create") is not None

    def extend(self, path: str, before: bytes, new: bytes) -> None:
        self.write(path, [before, new])

    def delete(self, paths: Iterable[str]) -> None:
        some = list(paths)
        with self._plain_errors("delete", some[0] if some else ""):
            for path in some:
                try:
                    _obstore().delete(self.store, path)
                except FileNotFoundError:
                    continue

    def names(self, folder: str = "") -> list[str]:
        with self._plain_errors("list", folder):
            listing = _obstore().list_with_delimiter(self.store, folder or None)
        found = [entry["path"] for entry in listing["objects"]] + list(listing["common_prefixes"])
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def leftovers(self, folders: Iterable[str]) -> list[str]:
        return []

    def total_bytes(self) -> int:
        with self._plain_errors("list", ""):
            return sum(e["size"] for batch in _obstore().list(self.store) for e in batch)

    def free_bytes(self) -> int | None:
        return None

    def lock(self, path: str) -> "Lease | None":
        """Waits LEASE_SECONDS where the last holder may have died."""
        tag = self._put_if(path, _lease_text(0), "create")
        if tag is None:
            LOG.warning(
                "stdpipe: %s/%s is locked; waiting %.0f s to see whether its holder is alive",
                self.url,
                path,
                LEASE_SECONDS,
            )
            seen = self._watch([path])[path]
            if seen is None:
                return None
            tag = self._put_if(path, _lease_text(0), {"e_tag": seen} if seen else "create")
        return None if tag is None else Lease(self, path, tag)

    def held(self, paths: Sequence[str]) -> list[str]:
        return [path for path, seen in self._watch(paths).items() if seen is None]

    def tag(self, path: str) -> str:
        """The object's version, empty where there is none."""
        try:
            with self._plain_errors("look up", path):
                return str(_obstore().head(self.store, path)["e_tag"])
        except FileNotFoundError:
            return ""

    def _watch(self, paths: Sequence[str]) -> dict[str, str | None]:
        """Of each lock: its tag where nobody renews it (empty: not there), None where one does."""
        before = {path: self.tag(path) for path in paths}
        until = time.monotonic() + LEASE_SECONDS
        alive: set[str] = set()
        while any(before.values()) and time.monotonic() < until and len(alive) < len(paths):
            time.sleep(min(RENEW_SECONDS, LEASE_SECONDS) / 5)
            alive |= {p for p in paths if p not in alive and self.tag(p) not in ("", before[p])}
        return {path: None if path in alive else self.tag(path) for path in paths}

    def _put_if(self, path: str, data: bytes, mode: Any) -> str | None:
        """The new object's tag, or None where the condition does not hold."""
        errors = _obstore().exceptions
        try:
            with self._plain_errors("write", path):
                return str(_obstore().put(self.store, path, data, mode=mode)["e_tag"])
        except (OSError, errors.AlreadyExistsError, errors.PreconditionError) as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise
            return None
        except (NotImplementedError, errors.NotSupportedError):
            return self._put_unconditionally(path, data, mode)

    def _put_unconditionally(self, path: str, data: bytes, mode: Any) -> str | None:
        """For stores without conditional writes: the check and the write are two requests."""
        LOG.warning("stdpipe: %s has no conditional writes; start writers one by one", self.url)
        if self.tag(path) != ("" if mode == "create" else mode["e_tag"]):
            return None
        self.write(path, [data])
        return self.tag(path)

    @contextmanager
    def _plain_errors(self, verb: str, path: str) -> Iterator[None]:
        """obstore's errors as OSError in one line; conditions and absence pass through."""
        errors = _obstore().exceptions
        passing = (errors.AlreadyExistsError, errors.PreconditionError, errors.NotSupportedError)
        try:
            yield
        except passing:
            raise
        except errors.NotFoundError as error:
            raise FileNotFoundError(f"{self.url}/{path}") from error
        except errors.BaseError as error:
            raise OSError(f"cannot {verb} {self.url}/{path}: {_first_line(error)}") from error


class Lease:
    """A lock in an object store, renewed by a thread until it is released."""

    def __init__(self, place: ObjectPlace, path: str, tag: str) -> None:
        self._place, self._path, self._tag = place, path, tag
        self._renewed = time.monotonic()
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)
        self._thread.start()

    def check(self) -> None:
        if self._lost or time.monotonic() - self._renewed > LEASE_SECONDS - RENEW_SECONDS:
            raise CacheError(
                f"lost the lock {self._place.url}/{self._path}: another writer took over, or the "
                "store was out of reach for too long; run the same command again"
            )

    def release(self) -> None:
        if not self._stop.is_set():
            self._stop.set()
            self._thread.join()
            if not self._lost:
                self._place.delete([self._path])

    def _renew(self) -> None:
        turn = 0
        while not self._stop.wait(RENEW_SECONDS):
            turn += 1
            try:
                began = time.monotonic()
                tag = self._place._put_if(self._path, _lease_text(turn), {"e_tag": self._tag})
            except OSError as error:  # out of reach for now: `check` tells once it lasts
                LOG.debug("lease not renewed: %s", error)
                continue
            if tag is None:
                self._lost = True
                return
            self._tag, self._renewed = tag, began


def _lease_text(turn: int) -> bytes:
    """Differs each time, since some stores' tags are but a digest of the content."""
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "turn": turn}
    return json.dumps({**holder, "id": uuid.uuid4().hex}).encode()


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        raise CacheError(
            "a cache in an object store needs obstore: pip install 'stdpipe[objects]'"
        ) from None
    return obstore


def _connect(url: str) -> Any:
    _obstore()
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    try:
        return from_url(url)
    except (BaseError, ValueError) as error:
        raise CacheError(f"cache {url!r}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """The store's own words: what follows in obstore's messages is its whole configuration."""
    return (str(error).splitlines() or ["no details"])[0][:300]
