"""The journal in columns says what its lines say: against objects, for any lines."""

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, strategies as st

from stdpipe.cache import Manifest, open_reader
from stdpipe.cache.journal import Commit, Stored, committed, read_journals, read_lines, short_id
from stdpipe.cache.table import Table

KEYS = ("a", "b", "c")
MADE = Manifest(
    made_by={"teacher": "t"}, entries=KEYS, frames=1, channels=2, height=8, width=8,
    targets=("sr", "f_sr"), encoding="int8",
)  # fmt: skip
NAMES = list(MADE.arrays)
NUMBERS = st.integers(0, 2**32 - 1)
FACTS = st.one_of(NUMBERS, st.just(-1), st.booleans(), st.none(), st.text(max_size=3))


@st.composite
def lines(draw: Any) -> Commit:
    key = draw(st.sampled_from([*KEYS, "of another cache"]))
    index = draw(st.sampled_from([MADE.index.get(key, 0), 2]))
    files = {
        name: Stored(draw(st.integers(0, 2**40)), draw(NUMBERS))
        for name in draw(st.lists(st.sampled_from([*NAMES, "f_lr"]), unique=True))
    }
    extra = draw(st.dictionaries(st.sampled_from(["source_crc32", "_files", "x"]), FACTS))
    return Commit(key, index, files, extra, draw(st.sampled_from(["", short_id(MADE), "0" * 12])))


@given(st.lists(lines(), max_size=8))
def test_columns_say_what_objects_say(commits: list[Commit]) -> None:
    table, found = Table(MADE, map(asdict, commits)), {}
    for commit in commits:
        before = found.get(commit.key)
        files = (before.arrays if before else {}) | commit.arrays
        found[commit.key] = Commit(commit.key, commit.index, files, commit.extra, commit.cache)
    whole = {key for key in KEYS if key in found and {*NAMES} <= {*found[key].arrays}}
    assert table.whole() == {key: MADE.index[key] for key in KEYS if key in whole}
    for name in NAMES:
        held = {key for key in KEYS if key in found and name in found[key].arrays}
        assert table.held(name) == held
        assert table.bytes_by_array()[name] == sum(found[key].arrays[name].bytes for key in held)
        for key in KEYS:
            fits = key in held and found[key].fits(MADE)
            assert table.stored(key, name) == (found[key].arrays[name] if fits else None)
    for key in found.keys() & {*KEYS}:
        assert table.extra(key) == found[key].extra
    assert table.held("f_lr") == set()


def test_lines_of_a_journal(cache: Any) -> None:
    """Read in a hurry, they are those that are read with care; a torn and a damaged one are not."""
    journal = next((cache / "journal").glob("*.jsonl"))
    text = journal.read_bytes()
    journal.write_bytes(text.replace(b'"index":1', b'"index":7') + text[:30])
    local = open_reader(cache, allow_incomplete=True)._place
    careful = committed(read_journals(local))
    assert {line["key"] for line in read_lines(local)} == careful.keys() == {*careful}
    assert len(careful) == 3
    assert all(asdict(careful[line["key"]]) == {"cache": "", **line} for line in read_lines(local))


@pytest.mark.parametrize("size", [2**31 - 1, 2**31])
def test_a_file_of_any_size(size: int) -> None:
    table = Table(MADE, [asdict(Commit("a", 0, {"sr": Stored(size, 1)}, {}))])
    assert table.stored("a", "sr") == Stored(size, 1)
