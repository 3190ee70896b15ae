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
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from stdpipe.cache.checksum import Buffer
from stdpipe.cache.errors import CacheError
from stdpipe.cache.place import Span

LOG = logging.getLogger(__name__)

LEASE_SECONDS = 20.0
RENEW_SECONDS = 5.0
RETRY_SECONDS = 60.0  # failed requests are tried again for so long
CONNECTIONS = 16
GAP_BYTES = 1 << 20  # cheaper to read than to ask again
REQUEST_BYTES = 16 << 20  # more than this comes sooner in several requests at once

_users: set[int] = set()  # processes that opened a store: obstore's threads do not survive a fork


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
        """obstore's, made by this very process."""
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
        """All at once: spans that lie close together share a request.

        Not by obstore's get_ranges, which ends the process where an object is shorter than asked.
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
        except OSError:  # asked for what lies behind an object's end, stores answer with an error
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
        """Refuses to undo what another writer did that took the lock over unnoticed."""
        found, tag = self._get(path)
        if found == before:
            if self._put_if(path, before + new, {"e_tag": tag} if tag else "create"):
                return
            found, _ = self._get(path)  # an attempt whose answer was lost may have succeeded
        if found != before + new:
            raise CacheError(
                f"{self.url}/{path} was changed by another writer: run the same command again"
            )

    def delete(self, paths: Iterable[str]) -> None:
        some = list(paths)
        with self._plain_errors("delete", some[0] if some else ""):
            for path in some:
                with suppress(FileNotFoundError):
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
        """Waits LEASE_SECONDS where the last holder may have died."""
        holder = uuid.uuid4().hex
        tag = self._claim(path, holder, "create")
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
            tag = self._claim(path, holder, {"e_tag": seen} if seen else "create")
        return None if tag is None else Lease(self, path, holder, tag)

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
        """Lock -> None if it is renewed within LEASE_SECONDS, else its tag (empty: not there)."""
        before = {path: self.tag(path) for path in paths}
        until = time.monotonic() + LEASE_SECONDS
        alive: set[str] = set()
        while any(before.values()) and time.monotonic() < until and len(alive) < len(paths):
            time.sleep(min(RENEW_SECONDS, LEASE_SECONDS) / 5)
            now = {path: self.tag(path) for path in paths if path not in alive}
            alive |= {path for path, tag in now.items() if tag not in ("", before[path])}
        now = {path: self.tag(path) for path in paths}
        return {
            p: tag if p not in alive and tag in ("", before[p]) else None for p, tag in now.items()
        }

    def _claim(self, path: str, holder: str, mode: Any) -> str | None:
        """Write a lease; its tag, or None where another holds it."""
        for _ in range(2):
            text = _lease_text(holder)
            tag = self._put_if(path, text, mode)
            if tag is not None:
                return tag
            # an attempt whose answer was lost may have succeeded: this one, or an earlier one
            found, tag = self._get(path)
            if found == text:
                return tag
            if holder.encode() not in found:
                return None
            mode = {"e_tag": tag}
        return None

    def _get(self, path: str) -> tuple[bytes, str]:
        """An object and its tag, both empty where there is none."""
        try:
            with self._plain_errors("read", path):
                found = _obstore().get(self.store, path)
                return bytes(found.bytes()), str(found.meta["e_tag"])
        except FileNotFoundError:
            return b"", ""

    def _put_if(self, path: str, data: bytes, mode: Any) -> str | None:
        """The new object's tag, or None where the condition does not hold."""
        errors = _obstore().exceptions
        try:
            with self._plain_errors("write", path):
                return str(_obstore().put(self.store, path, data, mode=mode)["e_tag"])
        except (FileNotFoundError, errors.AlreadyExistsError, errors.PreconditionError):
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
        except (errors.NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(f"{self.url}/{path} is not there") from error
        except errors.BaseError as error:
            if " 404 " in _first_line(error):  # what a list answers where there is no bucket
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
            try:
                if self._place.tag(self._path) == self._tag:  # else it is another's by now
                    self._place.delete([self._path])
            except OSError as error:  # it will lapse; whatever went wrong before matters more
                LOG.debug("lease not released: %s", error)

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            try:
                began = time.monotonic()
                tag = self._place._claim(self._path, self._holder, {"e_tag": self._tag})
            except OSError as error:  # out of reach for now: `check` tells once it lasts
                LOG.debug("lease not renewed: %s", error)
                continue
            if tag is None:
                self._lost = True
                return
            self._tag, self._renewed = tag, began


def merged(spans: Sequence[Span]) -> list[Span]:
    """The ranges to request: the spans in order, joined where little lies between them."""
    requests: list[Span] = []
    for start, stop in sorted(spans):
        first, last = requests[-1] if requests else (start, start)
        if requests and start - last <= GAP_BYTES and stop - first <= REQUEST_BYTES:
            requests[-1] = first, max(stop, last)
        else:
            requests.append((start, stop))
    return requests


def _lease_text(holder: str) -> bytes:
    """Differs each time, since some stores' tags are but a digest of the content."""
    where = {"host": socket.gethostname(), "pid": os.getpid(), "holder": holder}
    return json.dumps({**where, "turn": uuid.uuid4().hex}).encode()


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

    if _users and _users != {os.getpid()}:  # else the first request would wait for ever
        raise CacheError(
            f"cache {url!r} cannot be used in a forked process: start it by multiprocessing's "
            "spawn or forkserver"
        )
    _users.add(os.getpid())
    try:
        return from_url(url, retry_config={"retry_timeout": timedelta(seconds=RETRY_SECONDS)})
    except (BaseError, ValueError) as error:
        raise CacheError(f"cache {url!r}: {_first_line(error)}") from error


def _reason(error: Exception) -> str:
    """Without keys, obstore asks the cloud's own machines for some, at an address of theirs."""
    if "169.254.169.254" in _first_line(error):
        return (
            "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or your store's own"
        )
    return _first_line(error)


def _first_line(error: Exception) -> str:
    """The store's own words: what follows in obstore's messages is its whole configuration."""
    return (str(error).splitlines() or ["no details"])[0][:300]
