"""Leases of an object store: renewed, lapsed, lost; a real S3 API on loopback."""

import multiprocessing
import threading
import time

import pytest

from stdpipe.cache import (
    CacheError,
    objects,
    open_place,
)

LOCK = "journal/0.lock"


def stop_renewing(lease):
    """As if its process had been stopped: the thread ends, the object stays."""
    lease._stop.set()
    lease._thread.join()


def wait_until_lapsed():
    time.sleep(objects.LEASE_SECONDS + 0.1)


def test_a_lease_that_is_renewed_is_kept(place):
    lease = place.lock(LOCK)
    first = place.read(LOCK)
    wait_until_lapsed()
    assert place.lock(LOCK) is None
    lease.check()
    assert place.read(LOCK) != first
    lease.release()
    assert place.names("journal") == []


def test_a_lease_of_a_dead_holder_is_taken_over_when_it_has_lapsed(place):
    dead = place.lock(LOCK)
    stop_renewing(dead)
    began = time.monotonic()
    lease = place.lock(LOCK)
    assert time.monotonic() - began >= objects.LEASE_SECONDS
    lease.check()
    with pytest.raises(CacheError, match=f"lost the lock .*{LOCK}: another writer took over"):
        dead.check()
    lease.release()


def test_a_holder_that_wakes_up_late_gives_up_and_takes_nothing_away(place):
    """As a machine that slept: it neither renews nor removes what is another's by now."""
    late = place.lock(LOCK)
    stop_renewing(late)
    lease = place.lock(LOCK)
    late._stop.clear()
    late._thread = threading.Thread(target=late._renew)
    late._thread.start()
    late._thread.join(5 * objects.RENEW_SECONDS)
    assert not late._thread.is_alive()
    with pytest.raises(CacheError, match="lost the lock"):
        late.check()
    late.release()
    lease.check()
    assert place.held([LOCK]) == [LOCK]
    lease.release()


def test_a_lease_that_was_released_is_free_at_once(place):
    place.lock(LOCK).release()
    began = time.monotonic()
    place.lock(LOCK).release()
    assert time.monotonic() - began < objects.LEASE_SECONDS / 2


def test_a_renewal_whose_answer_was_lost_is_no_loss(s3, proxy):
    """The store took it, so the tag is no longer the one that the holder knows."""
    place = open_place(s3)
    lease = place.lock(LOCK)
    lost = []
    proxy.lose = lambda method, path: method == "PUT" and not lost and not lost.append(path)
    wait_until_lapsed()
    assert lost
    lease.check()
    assert place.lock(LOCK) is None
    lease.release()


def test_a_lock_whose_answer_was_lost_is_had(s3, proxy):
    place = open_place(s3)
    lost = []
    proxy.lose = lambda method, path: method == "PUT" and not lost and not lost.append(path)
    began = time.monotonic()
    lease = place.lock(LOCK)
    assert time.monotonic() - began < objects.LEASE_SECONDS
    assert len(lost) == 1
    lease.check()
    lease.release()


def test_a_store_out_of_reach_for_longer_than_a_lease(s3, proxy, monkeypatch):
    """Not committing is all that is safe; a hiccup shorter than that is none."""
    monkeypatch.setattr(objects, "RETRY_SECONDS", 0.5)
    place = open_place(s3)
    lease = place.lock(LOCK)
    proxy.refuse = lambda method, path: True
    time.sleep(objects.RENEW_SECONDS)
    lease.check()
    wait_until_lapsed()
    with pytest.raises(CacheError, match="out of reach for too long; run the same command again"):
        lease.check()
    lease.release()  # its error would hide what went wrong before


def test_two_look_at_a_dead_lease_and_one_gets_it(place):
    stop_renewing(place.lock(LOCK))
    with multiprocessing.pool.ThreadPool(3) as pool:
        leases = [lease for lease in pool.map(lambda _: place.lock(LOCK), range(3)) if lease]
    assert len(leases) == 1
    leases[0].release()
