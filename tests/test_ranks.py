"""How a step is shared out, without other processes: what those make of it is in tests/e2e."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from stdpipe import ranks


@given(size=st.integers(1, 5), accumulate=st.integers(1, 4), clips=st.integers(1, 3))
def test_every_clip_goes_to_one_slice_of_one_rank(size: int, accumulate: int, clips: int) -> None:
    batch = size * accumulate * clips
    taken: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "size", lambda: size)
        for rank in range(size):
            patch.setattr(ranks, "rank", lambda rank=rank: rank)
            mine = ranks.slices(batch, accumulate)
            assert [len(part) for part in mine] == [clips] * accumulate
            taken += [clip for part in mine for clip in part]
    assert sorted(taken) == list(range(batch))


def test_what_does_not_divide_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "size", lambda: 2)
    with pytest.raises(ValueError, match=r"batch \(6\).*make it a multiple of 4"):
        ranks.slices(6, 2)


def test_one_process_alone() -> None:
    net, values = nn.Linear(1, 1), torch.ones(2)
    assert (ranks.size(), ranks.rank(), ranks.first()) == (1, 0, True)
    assert ranks.spread(net) is net
    assert ranks.mean(values) is values
    assert ranks.total(values) is values
    assert ranks.from_first(lambda: 3) == 3
    with ranks.group(torch.device("cpu")), ranks.apart(net, more_to_come=True):
        assert not torch.distributed.is_initialized()
