"""How a step is shared out, without other processes: what those make of it is in tests/e2e."""

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from stdpipe import distributed


@given(size=st.integers(1, 5), accumulate=st.integers(1, 4), clips=st.integers(1, 3))
def test_every_clip_goes_to_one_slice_of_one_rank(size: int, accumulate: int, clips: int) -> None:
    batch = size * accumulate * clips
    taken: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "size", lambda: size)
        for rank in range(size):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            mine = distributed.slices(batch, accumulate)
            assert [len(part) for part in mine] == [clips] * accumulate
            taken += [clip for part in mine for clip in part]
    assert sorted(taken) == list(range(batch))


def test_what_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(ValueError, match=r"batch \(6\).*make it a multiple of 4"):
        distributed.slices(6, 2)


def test_one_process_alone() -> None:
    net, values = nn.Linear(1, 1), torch.ones(2)
    assert (distributed.size(), distributed.rank(), distributed.first()) == (1, 0, True)
    assert distributed.data_parallel(net) is net
    assert distributed.mean(values) is values
    assert distributed.total(values) is values
    assert distributed.from_first(lambda: 3) == 3
    with distributed.group(torch.device("cpu")), distributed.apart(net, more_to_come=True):
        assert not torch.distributed.is_initialized()
