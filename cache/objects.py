"""A cache in an object store: S3, GCS, Azure, and whatever else obstore reaches.

An object appears whole or not at all, and cannot be appended to. A store does not know whether a
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
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from stdpipe.cache.checksum import Buffer
from stdpipe.cache.errors import CacheError
from stdpipe.cache.place import MOST_TEXT, Span, refuse_longer

LOG = logging.getLogger(__name__)

LEASE_SECONDS = 20.0
RENEW_SECONDS = 5.0
RETRY_SECONDS = 60.0  # for so long, failed requests are tried again
CONNECTIONS = 16
GAP_BYTES = 1 << 20  # a gap of this size costs less than a second request
REQUEST_BYTES = 16 << 20  # more bytes arrive sooner in several requests at once

_users: set[int] = set()  # processes that opened a store: obstore's threads do not survive a fork


class ObjectPlace:
    """Objects below a prefix; place.Place documents the methods."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._store = _connect(self.url)

    @property
    def store(self) -> Any:
        """The store of obstore, which this very process must have opened."""
        _refuse_fork(self.url)
        return self._store

    def __reduce__(self) -> tuple[type["ObjectPlace"], tuple[str]]:
        return ObjectPlace, (self.url,)  # each process connects for itself

    def read(self, path: str, most: int | None = None) -> bytes:
        with self._plain_errors("read", path):
            found = _obstore().get(self.store, path)
            refuse_longer(self.url, path, found.meta["size"], most)
            return bytes(found.bytes())

    def read_all(self, paths: Sequence[str]) -> Iterator[bytes]:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            yield from pool.map(lambda path: self.read(path, MOST_TEXT), paths)

    def ranges(self, path: str, spans: Sequence[Span]) -> Iterator[Buffer]:
        """Request all spans at once, in one request where they lie close together.

        obstore's get_ranges is not used: it ends the process where an object is too short.
        """
        requests = merged(spans)
        with ThreadPoolExecutor(min(len(requests), CONNECTIONS) or 1) as pool:
            found = list(pool.map(lambda span: self._range(path, *span), requests))
        starts = [start for start, _ in requests]
        for start, stop in spans:
            number = bisect_right(starts, start) - 1
            yield found[number][start - starts[number] : stop - starts[number]]

    def _range(self, path: str, start: int, stop: int) -> memoryview:
        try:
            with self._plain_errors("read", path):
                found = memoryview(_obstore().get_range(self.store, path, start=start, end=stop))
        except FileNotFoundError:
            raise
        except OSError:  # a store's answer to a range behind the object's end
            if self.size(path) >= stop:
                raise
            found = memoryview(b"")
        if len(found) != stop - start:
            raise EOFError("its object ends early")
        return found

    def size(self, path: str) -> int:
        with self._plain_errors("look up", path):
            return int(_obstore().head(self.store, path)["size"])

    def write(self, path: str, parts: Sequence[bytes]) -> None:
        with self._plain_errors("write", path):
            _obstore().put(self.store, path, b"".join(parts))

    def create(self, path: str, data: bytes) -> bool:
        return self._put_if(path, data, "create") is not None

    def extend(self, path: str, before: bytes, new: bytes) -> None:
        """Implements Place.extend; raises CacheError where another writer took the lock over."""
        found, tag = self._get(path)
        if found == before:
            if self._put_if(path, before + new, {"e_tag": tag} if tag else "create"):
                return
            found, _ = self._get(path)  # an attempt whose answer was lost may have succeeded
        if found != before + new:
            changed = f"{self.url}/{path} was changed by another writer"
            raise CacheError(f"{changed}: run the same command again")

    def delete(self, paths: Iterable[str]) -> None:
        for path in paths:
            with suppress(FileNotFoundError), self._plain_errors("delete", path):
                _obstore().delete(self.store, path)

    def names(self, folder: str = "") -> list[str]:
        try:
            with self._plain_errors("list", folder):
                listing = _obstore().list_with_delimiter(self.store, folder or None)
        except FileNotFoundError:
            raise CacheError(f"cache {self.url}: there is no such bucket: check the URL") from None
        found = [entry["path"] for entry in listing["objects"]] + list(listing["common_prefixes"])
        return sorted(path.rstrip("/").rpartition("/")[2] for path in found)

    def leftovers(self, folders: Iterable[str]) -> list[str]:
        return []

    def free_bytes(self) -> int | None:
        return None

    def lock(self, path: str) -> "Lease | None":
        """Implements Place.lock; waits LEASE_SECONDS where the last holder may have died."""
        holder = uuid.uuid4().hex
        tag = self._claim(path, holder, "create")
        if tag is None:
            wait = f"waiting {LEASE_SECONDS:.0f} s to see whether its holder is alive"
            LOG.warning("stdpipe: %s/%s is locked; %s", self.url, path, wait)
            if (seen := self._watch([path])[path]) is None:
                return None
            tag = self._claim(path, holder, {"e_tag": seen} if seen else "create")
        return None if tag is None else Lease(self, path, holder, tag)

    def held(self, paths: Sequence[str]) -> list[str]:
        return [path for path, seen in self._watch(paths).items() if seen is None]

    def _watch(self, paths: Sequence[str]) -> dict[str, str | None]:
        """Map locks to None if renewed within LEASE_SECONDS, else their tag ("" if missing)."""
        before = tags = {path: self.tag(path) for path in paths}
        until = time.monotonic() + LEASE_SECONDS
        alive: set[str] = set()
        while any(before.values()) and time.monotonic() < until and len(alive) < len(paths):
            time.sleep(min(RENEW_SECONDS, LEASE_SECONDS) / 5)
            tags = {path: self.tag(path) for path in paths}
            alive |= {path for path, tag in tags.items() if tag not in ("", before[path])}
        return {path: None if path in alive else tag for path, tag in tags.items()}

    def _claim(self, path: str, holder: str, mode: Any) -> str | None:
        """Write a lease and return its tag, or None where another holds it."""
        for _ in range(2):
            # `turn` is new each time, since some stores make tags of the content alone
            turn = {"host": socket.gethostname(), "pid": os.getpid(), "holder": holder}
            text = json.dumps({**turn, "turn": uuid.uuid4().hex}).encode()
            if tag := self._put_if(path, text, mode):
                return tag
            # an attempt whose answer was lost may have succeeded: this one, or an earlier one
            found, tag = self._get(path)
            if found == text:
                return tag
            if holder.encode() not in found:
                return None
            mode = {"e_tag": tag}
        return None

    def tag(self, path: str) -> str:
        """Return the object's version, empty where there is no object."""
        return self._get(path)[1]

    def _get(self, path: str) -> tuple[bytes, str]:
        """Return an object and its tag, both empty where there is no object."""
        try:
            with self._plain_errors("read", path):
                found = _obstore().get(self.store, path)
                return bytes(found.bytes()), str(found.meta["e_tag"])
        except FileNotFoundError:
            return b"", ""

    def _put_if(self, path: str, data: bytes, mode: Any) -> str | None:
        """Write and return the new object's tag, or None where the condition does not hold."""
        errors = _obstore().exceptions
        try:
            with self._plain_errors("write", path):
                return str(_obstore().put(self.store, path, data, mode=mode)["e_tag"])
        except (FileNotFoundError, errors.AlreadyExistsError, errors.PreconditionError):
            return None
        except (NotImplementedError, errors.NotSupportedError):
            # a store without conditional writes: the check and the write are two requests
            LOG.warning("stdpipe: %s has no conditional writes; start writers one by one", self.url)
            if self.tag(path) != ("" if mode == "create" else mode["e_tag"]):
                return None
            self.write(path, [data])
            return self.tag(path)

    @contextmanager
    def _plain_errors(self, verb: str, path: str) -> Iterator[None]:
        """Raise obstore's errors as OSError in one line; conditions and absence pass through."""
        errors = _obstore().exceptions
        try:
            yield
        except (errors.AlreadyExistsError, errors.PreconditionError, errors.NotSupportedError):
            raise
        except (errors.BaseError, FileNotFoundError) as error:
            is_absent = isinstance(error, errors.NotFoundError | FileNotFoundError)
            if is_absent or " 404 " in _reason(error):  # how a listing says that no bucket is there
                raise FileNotFoundError(f"{self.url}/{path} is not there") from error
            raise OSError(f"cannot {verb} {self.url}/{path}: {_reason(error)}") from error


class Lease:
    """A lock in an object store, renewed by a thread until it is released."""

    def __init__(self, place: ObjectPlace, path: str, holder: str, tag: str) -> None:
        self._place, self._path, self._holder, self._tag = place, path, holder, tag
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
            with suppress(OSError):  # the lease lapses anyway; an earlier error matters more
                if self._place.tag(self._path) == self._tag:  # else another process holds it now
                    self._place.delete([self._path])

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS) and not self._lost:
            with suppress(OSError):  # the store is out of reach: `check` raises once that lasts
                began = time.monotonic()
                tag = self._place._claim(self._path, self._holder, {"e_tag": self._tag})
                self._lost = tag is None
                if tag is not None:
                    self._tag, self._renewed = tag, began


def merged(spans: Sequence[Span]) -> list[Span]:
    """Sort the spans and join those with little between them: the ranges to request."""
    requests: list[Span] = []
    for start, stop in sorted(spans):
        first, last = requests[-1] if requests else (start, start)
        if requests and start - last <= GAP_BYTES and stop - first <= REQUEST_BYTES:
            requests[-1] = first, max(stop, last)
        else:
            requests.append((start, stop))
    return requests


def _obstore() -> Any:
    try:
        import obstore
    except ImportError:
        advice = "pip install 'stdpipe[objects]'"
        raise CacheError(f"a cache in an object store needs obstore: {advice}") from None
    return obstore


def _connect(url: str) -> Any:
    obstore = _obstore()
    from obstore.store import from_url

    _refuse_fork(url)
    _users.add(os.getpid())
    try:
        return from_url(url, retry_config={"retry_timeout": timedelta(seconds=RETRY_SECONDS)})
    except (obstore.exceptions.BaseError, ValueError) as error:
        raise CacheError(f"cache {url!r}: {_reason(error)}") from error


def _refuse_fork(url: str) -> None:
    if _users and _users != {os.getpid()}:  # else the first request would wait for ever
        advice = "start it by multiprocessing's spawn or forkserver"
        raise CacheError(f"cache {url!r} cannot be used in a forked process: {advice}")


def _reason(error: Exception) -> str:
    """Return the first line of an error; behind it, obstore prints its whole configuration."""
    line = (str(error).splitlines() or ["no details"])[0][:300]
    if "169.254.169.254" in line:  # without keys, obstore asks a machine of the cloud for some
        return "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or your store's"
    return line
