"""A packed file gives what its folder gives: the same keys, the same pixels, the same refusals."""

import multiprocessing
import pickle
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from stdpipe.cache.errors import UserError
from stdpipe.data.frames import Clip, clip_sizes, read_clip, read_with_crc32, source_crc32
from stdpipe.data.layouts import find_clips, vimeo_lists
from stdpipe.data.packing import pack_clips

Command = Callable[..., Any]


def write(folder: Path, shape: tuple[int, ...], seed: int = 0) -> None:
    """Frames of noise, (T, H, W, 3)."""
    folder.mkdir(parents=True)
    frames = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    for number, frame in enumerate(frames):
        iio.imwrite(folder / f"{number}.png", frame)


def pack(data: Path, out: Path, split: str = "both") -> Path:
    pack_clips(data, out, split)
    return out


@pytest.fixture(scope="module")
def packed(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set as one file. Read only."""
    return pack(tiny, tmp_path_factory.mktemp("packed") / "tiny.h5")


def check_equal(some: list[Clip], others: list[Clip]) -> None:
    assert [clip.key for clip in some] == [clip.key for clip in others]
    for one, other in zip(some, others, strict=True):
        (frames, crc32), (same_frames, same_crc32) = read_with_crc32(one), read_with_crc32(other)
        np.testing.assert_array_equal(frames, same_frames)
        assert crc32 == same_crc32 == source_crc32(frames)


# the same as the folder


@settings(max_examples=8, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(4, 9), st.integers(1, 19), st.integers(1, 23)), min_size=1, max_size=3
    ),
    st.integers(1, 4),
)
def test_clips_of_any_length_and_size(shapes: list[tuple[int, int, int]], length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        for number, shape in enumerate(shapes):
            write(data / f"clip {number}", (*shape, 3), number)
        file = pack(data, Path(folder) / "clips.h5")
        for cut in (None, length):
            check_equal(find_clips(file, "train", cut), find_clips(data, "train", cut))


@pytest.mark.parametrize(("split", "length"), [("train", 7), ("test", 3), (None, None)])
def test_vimeo_lists(tiny: Path, packed: Path, split: Any, length: int | None) -> None:
    check_equal(find_clips(packed, split, length), find_clips(tiny, split, length))


def test_list_order_natural_order_and_motion_lists(tmp_path: Path, make_data: Command) -> None:
    data = make_data(tmp_path / "up" / "vimeo_septuplet", clips=4, height=8, width=8)
    keys = [f"00001/000{n}" for n in (1, 2, 3, 4)]
    (data / "sep_trainlist.txt").write_text(f"{keys[2]}\n{keys[0]}\n{keys[2]}\n")
    (data / "sep_testlist.txt").write_text(f"{keys[3]}\n{keys[1]} 7 (8,8,3)\n")
    (data / "fast_testset.txt").write_text(f"{keys[1]}\n")
    file = pack(tmp_path / "up", tmp_path / "clips.h5")
    for split in ("train", "test", None):
        check_equal(find_clips(file, split), find_clips(tmp_path / "up", split))
    with h5py.File(file, locking=False) as held:
        assert sorted(held["lists"]) == ["fast", "test", "train"]
        assert held["lists/fast"][()].tolist() == [keys[1].encode()]
    assert vimeo_lists(file)["fast"] == vimeo_lists(tmp_path / "up")["fast"] == [keys[1]]


def test_plain_hdf5_reads_the_same(tiny: Path, packed: Path) -> None:
    with h5py.File(packed, locking=False) as file:
        for clip in find_clips(tiny, "train"):
            np.testing.assert_array_equal(file[f"clips/{clip.key}"], read_clip(clip))


def test_one_split_alone(tiny: Path, packed: Path, tmp_path: Path) -> None:
    file = pack(tiny, tmp_path / "test.h5", "test")
    check_equal(find_clips(file, "test"), find_clips(tiny, "test"))
    with pytest.raises(ValueError, match=r"test\.h5 has no train clips: it was packed from .*both"):
        find_clips(file, "train")
    assert file.stat().st_size < packed.stat().st_size


def test_real_frames_of_three_sizes(vid4: Path, tmp_path: Path) -> None:
    """Two frames of each Vid4 clip; copied, so that the test stays short."""
    for clip in find_clips(vid4, None):
        (tmp_path / "GT" / clip.key).mkdir(parents=True)
        for frame in clip.frames[:2]:
            shutil.copy(frame, tmp_path / "GT" / clip.key)
    file = pack(tmp_path, tmp_path / "vid4.h5")
    check_equal(find_clips(file, "test"), find_clips(tmp_path, "test"))


# many readers


def checksums(file: Path) -> list[int]:
    return [read_with_crc32(clip)[1] for clip in find_clips(file, "train")]


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_other_processes_read_too(packed: Path, method: str) -> None:
    """Also a fork of a process that has the file open already."""
    clips = find_clips(packed, "train")
    expected = [read_with_crc32(clip)[1] for clip in clips]
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        assert [crc32 for _, crc32 in pool.map(read_with_crc32, clips)] == expected
    assert [read_with_crc32(clip)[1] for clip in clips] == expected


def test_a_pickled_clip_carries_no_pixels(packed: Path) -> None:
    clips = find_clips(packed, "train")
    check_equal(pickle.loads(pickle.dumps(clips)), clips)
    assert len(pickle.dumps(clips)) < 1000


def test_a_read_only_file_in_a_read_only_folder(packed: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(packed, tmp_path / "f.h5"))
    file.chmod(0o444)
    tmp_path.chmod(0o555)
    try:
        assert checksums(file) == checksums(packed)
    finally:
        tmp_path.chmod(0o755)


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path / str(seed) / "walk", (2, 8, 8, 3), seed)
        pack(tmp_path / str(seed), tmp_path / f"{seed}.h5")
    before = checksums(tmp_path / "0.h5")
    (tmp_path / "1.h5").replace(tmp_path / "0.h5")
    assert checksums(tmp_path / "0.h5") != before


# damage


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    """A packed file of one's own to break."""
    return Path(shutil.copy(packed, tmp_path / "copy.h5"))


def test_a_damaged_clip_is_named_and_the_others_are_not_hurt(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["clips/00001/0002"][3, 5, 6, 1] ^= 1
    first, second, third = find_clips(copy, "train", length=7)
    read_clip(first), read_clip(third)
    with pytest.raises(ValueError, match=r"clip 00001/0002 is damaged in .*copy\.h5: copy the"):
        read_clip(second)


def test_only_the_run_with_the_damage_is_refused(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file["clips/00001/0002"][3, 5, 6, 1] ^= 1
    runs = [c for c in find_clips(copy, "train", length=2) if c.key.startswith("00001/0002/")]
    read_clip(runs[0]), read_clip(runs[2])
    with pytest.raises(ValueError, match="clip 00001/0002/000002 is damaged"):
        read_clip(runs[1])


def test_a_missing_clip(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        del file["clips/00001/0003"]
    with pytest.raises(ValueError, match=r"clip 00001/0003 cannot be read from .*copy\.h5"):
        read_clip(find_clips(copy, "test")[0])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_flipped_bit_anywhere_is_never_a_pixel(packed: Path, data: Any) -> None:
    """Refused, or the very same clips; the tables and HDF5's own structures are checked, too."""
    content = bytearray(packed.read_bytes())
    # half of the time among the tables, which are few of the bytes
    last = len(content) if data.draw(st.booleans()) else 12_000
    at = data.draw(st.integers(0, last - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "flipped.h5"
        file.write_bytes(content)
        told = ""
        try:
            check_equal(find_clips(file, "train"), find_clips(packed, "train"))
        except (ValueError, FileNotFoundError) as error:
            told = str(error)
        assert "\n" not in told


@pytest.mark.parametrize("kept", [0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file(copy: Path, kept: float) -> None:
    content = copy.read_bytes()
    copy.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=r"copy\.h5 is truncated: copy the file again"):
        find_clips(copy, "train")


def test_files_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"PK not HDF5 at all")
    with pytest.raises(FileNotFoundError, match=r"a\.h5 is not a folder, nor a packed file"):
        find_clips(tmp_path / "a.h5", "train")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["images"] = np.zeros(4)
    with pytest.raises(ValueError, match=r"b\.h5 is an HDF5 file, but none of pack-clips"):
        find_clips(tmp_path / "b.h5", "train")


def test_another_format_version(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file.attrs["version"] = 99
    with pytest.raises(ValueError, match="has format version 99, this stdpipe reads 1"):
        find_clips(copy, "train")


# anything else that may lie in a file of that name


def use(file: Path) -> str:
    """What reading all of it, and packing into it, say; empty where both succeed."""
    told = ""
    try:
        clips = find_clips(file, None)
        clip_sizes(clips)
        for clip in clips:
            read_clip(clip)
    except (UserError, OSError) as error:
        told = str(error)
    assert "\n" not in told
    return told


ANYTHING = st.one_of(
    st.just(None),
    st.integers(-(2**40), 2**40),
    st.text("ab/.", max_size=4),
    st.lists(st.integers(-2, 2**33), max_size=6),
    st.lists(st.text("01/a.", max_size=6).map(str.encode), min_size=1, max_size=4),
    st.sampled_from([np.zeros((3, 3), "<i8"), np.full((3, 3), 2**62), np.ones((3, 3), "<f4")]),
)
SHAPES = st.lists(st.integers(1, 2**34), min_size=1, max_size=4).map(tuple)
PARTS = ("keys", "shapes", "crc32", "source_bytes", "lists", "lists/train", "clips",
         "clips/00001", "clips/00001/0001")  # fmt: skip


def claim(file: h5py.File, name: str, shape: tuple[int, ...], chunked: bool) -> None:
    """A dataset that says it is large, and has no bytes at all."""
    more = {"chunks": tuple(min(side, 8) for side in shape)} if chunked else {}
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_INCR if chunked else h5py.h5d.ALLOC_TIME_LATE)
    file.create_dataset(name, shape, "<i8" if name == "shapes" else "u1", dcpl=properties, **more)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("name", ["keys", "shapes", "lists/train", "clips/00001/0001"])
def test_claims_of_terabytes_are_told_before_they_are_read(
    copy: Path, name: str, chunked: bool
) -> None:
    with h5py.File(copy, "r+") as file:
        del file[name]
        claim(file, name, (2**20, 2**20), chunked)
    assert ("cannot be read" if "clips" in name else "more bytes than the file has") in use(copy)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_other_contents_end_in_one_line(tiny: Path, packed: Path, data: Any) -> None:
    """Tables of other kinds, tables that are gone, claims of terabytes: told, at no cost."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(shutil.copy(packed, Path(folder) / "odd.h5"))
        with h5py.File(file, "r+", locking=False) as held:
            for name in data.draw(st.sets(st.sampled_from(PARTS), min_size=1, max_size=2)):
                if name in held:
                    del held[name]
                kind = data.draw(st.sampled_from(["other", "huge", "gone", "link"]))
                try:
                    if kind == "huge":
                        claim(held, name, data.draw(SHAPES), data.draw(st.booleans()))
                    elif kind == "link":
                        held[name] = h5py.SoftLink(
                            data.draw(st.sampled_from(["/", "/keys", "/no"]))
                        )
                    elif kind == "other" and (value := data.draw(ANYTHING)) is not None:
                        held[name] = value
                except (ValueError, TypeError, KeyError, OSError):
                    assume(False)  # h5py itself does not write that
            for name in data.draw(st.sets(st.sampled_from(["format", "version", "source"]))):
                held.attrs[name] = data.draw(
                    st.sampled_from([0, "other", [1, 1], b"stdpipe-clips"])
                )
        use(file)
        # packed into, as an unfinished file: refused, or ended well
        partial = file.rename(Path(folder) / "new.h5.partial")
        with suppress(UserError, OSError):
            pack(tiny, partial.with_suffix(""))


# its tables have a checksum


@pytest.mark.parametrize("table", ["crc32", "source_bytes", "tables"])
def test_a_table_with_a_flipped_bit(packed: Path, tmp_path: Path, table: str) -> None:
    """In a number that reading a whole clip does not look at, too."""
    file = Path(shutil.copy(packed, tmp_path / "clips.h5"))
    with h5py.File(file, "r+") as content:
        content[table][0] ^= 1
    with pytest.raises(UserError, match="checksum"):
        find_clips(file, None)


def test_files_of_older_versions_have_none(tiny: Path, packed: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(packed, tmp_path / "clips.h5"))
    with h5py.File(file, "r+") as content:
        del content["tables"]
    check_equal(find_clips(file, None), find_clips(packed, None))
    assert pack(tiny, file) == file
