"""The manifest: round trip, identity, and every refusal."""

import json

import pytest
from hypothesis import given, strategies as st

from stdpipe.cache import (
    CacheError,
    Manifest,
    load_manifest,
    manifest_exists,
    open_place,
)
from stdpipe.cache.manifest import difference
from stdpipe.cache.manifest_files import complete_manifests, create_manifest, damaged_manifests
from stdpipe.cache.seal import seal

facts = st.none() | st.booleans() | st.integers() | st.text() | st.floats(-1e9, 1e9)
words = st.text(st.characters(codec="utf-8"), min_size=1)
OWN = {
    "encoding",
    "compression",
    "targets",
    "scale",
    "frames",
    "channels",
    "height",
    "width",
    "entries_digest",
}


@given(st.dictionaries(words.filter(lambda key: key not in OWN), facts), st.sets(words, min_size=1))
def test_json_round_trip(made_by, keys):
    sizes = {"frames": 7, "channels": 64, "height": 256, "width": 448}
    made = Manifest(made_by=made_by, entries=tuple(keys), **sizes, notes={"psnr_db": [88.8]})
    again = Manifest.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    assert again.cache_id == made.cache_id


def test_the_scale_is_written_where_it_is_not_4(make_manifest):
    """A cache of scale 4 has the bytes that it had before there were others."""
    assert "scale" not in make_manifest().to_json()
    made = make_manifest(scale=2, encoding="trunk-int8")
    assert made.to_json()["scale"] == 2
    again = Manifest.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    assert again.arrays["trunk"].shape[-2:] == (made.height // 2, made.width // 2)
    assert made.digest != make_manifest(encoding="trunk-int8").digest
    told = difference(made.facts(), make_manifest(encoding="trunk-int8").facts())
    assert told == "scale 2, but 4 was asked for; use another --cache or the same --degradation"


@pytest.mark.parametrize("scale", [1, 5, 2.5, "2"])
def test_a_scale_that_is_none(make_manifest, scale):
    """Also where its digest fits."""
    content = make_manifest(scale=scale if scale in (1, 5) else 2).to_json() | {"scale": scale}
    with pytest.raises(CacheError, match="scale"):
        Manifest.from_json(content)


@pytest.fixture
def place(tmp_path, manifest):
    """Both manifests, and nothing else."""
    place = open_place(tmp_path)
    assert create_manifest(place, manifest) == manifest
    complete_manifests(place, manifest)
    return place


def test_file_round_trip(place, manifest):
    assert load_manifest(place) == load_manifest(place.url) == manifest
    text = place.read("manifest.json")
    assert place.read("journal/manifest.json") == text
    assert json.loads(text)["made_by"]["teacher"] == "edvr-l"


def test_the_first_of_two_stays(place, make_manifest, manifest):
    assert create_manifest(place, make_manifest(encoding="int8")) == manifest


def test_identity_is_what_made_it(make_manifest):
    """What it holds may grow, so the digest alone changes with that."""
    base = make_manifest()
    other = make_manifest(made_by=base.made_by | {"teacher": "edvr-m"})
    assert other.cache_id != base.cache_id
    noted = make_manifest(notes={"warning": "random weights"})
    assert (noted.cache_id, noted.digest) == (base.cache_id, base.digest)
    changes = [
        {"entries": base.entries[::-1]},
        {"frames": 3},
        {"channels": 4},
        {"height": 24},
        {"width": 136},
        {"targets": ("attention",)},
        {"encoding": "float16"},
        {"compression": "zstd"},
    ]
    held = [make_manifest(**change) for change in changes]
    assert {one.cache_id for one in held} == {base.cache_id}
    assert len({one.digest for one in held} | {base.digest}) == len(changes) + 1
    for change in changes:  # in version 2 all of it is the identity
        old, new = (make_manifest(**{"format_version": 2, **c}) for c in ({}, change))
        assert old.cache_id != new.cache_id


def test_difference_names_both_values():
    made = {"teacher": "edvr-l", "weights_sha256": "abc", "seed": 0}
    assert difference(made, {}) is None
    assert difference(made, {"seed": 0, "teacher": "edvr-l"}) is None
    assert difference(made, {"teacher": "edvr-m"}) == (
        "teacher 'edvr-l', but 'edvr-m' was asked for; use another --cache or the same --teacher"
    )
    assert "the same --weights" in difference(made, {"weights_sha256": "abd"})
    assert difference(made, {"views": "full"}).startswith("views no value, but 'full' was")


@pytest.mark.parametrize("version", [0, 1, None, "2"])
def test_other_format_versions_are_refused(tmp_path, manifest, version):
    content = manifest.to_json() | {"format_version": version}
    (tmp_path / "manifest.json").write_bytes(seal(content))
    with pytest.raises(CacheError, match=f"format version {version!r}, this stdpipe reads 2 and 3"):
        load_manifest(tmp_path)


@pytest.mark.parametrize("is_sealed_alike", [True, False])
def test_a_manifest_from_the_future(tmp_path, manifest, is_sealed_alike):
    """Also where it is sealed otherwise, which would pass for damage."""
    text = seal(manifest.to_json() | {"format_version": 7})
    text = text if is_sealed_alike else text.replace(b'"crc32c"', b'"sha256"')
    place = open_place(tmp_path)
    for name in FILES:
        place.write(name, [text])
    with pytest.raises(CacheError) as error:
        load_manifest(place)
    assert str(error.value) == (
        f"{tmp_path} has format version 7, this stdpipe reads 2 and 3: use the stdpipe that made "
        "it, or extract again"
    )
    if not is_sealed_alike:  # one alone may say so by a flipped bit
        place.write(FILES[1], [b"{}"])
        with pytest.raises(CacheError, match="are damaged or missing"):
            load_manifest(place)


def test_unknown_and_missing_fields_are_refused(manifest):
    content = manifest.to_json()
    with pytest.raises(CacheError, match="colour"):
        Manifest.from_json(content | {"colour": "rgb"})
    for name in ("frames", "encoding"):  # the latter has a default, which is another identity
        with pytest.raises(CacheError):
            Manifest.from_json({key: value for key, value in content.items() if key != name})
    for changes in (
        {"frames": 0}, {"frames": "2"}, {"entries": ["a", 1]}, {"height": True}, {"entries": []},
        {"entries": ["a", ""]}, {"encoding": "int4"}, {"compression": "lz4"},
    ):  # fmt: skip
        with pytest.raises(CacheError, match=next(iter(changes))):
            Manifest.from_json(content | changes)


def test_a_field_changed_by_hand_is_refused(manifest):
    with pytest.raises(CacheError, match="digest does not fit"):
        Manifest.from_json(manifest.to_json() | {"encoding": "float16"})


def test_no_cache(tmp_path):
    with pytest.raises(CacheError, match="is not a cache"):
        load_manifest(tmp_path / "nowhere")
    assert not manifest_exists(open_place(tmp_path))


def damage(text):
    return text.replace(b"edvr-l", b"edvr-m")


FILES = ("manifest.json", "journal/manifest.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "content", [None, b"", b"{}", b"\xff", damage], ids=["none", "empty", "json", "byte", "bit"]
)
def test_one_that_is_lost_or_damaged_is_replaced_by_the_other(place, manifest, file, content):
    text = place.read(file)
    place.delete([file])
    if content is not None:
        place.write(file, [content(text) if callable(content) else content])
    assert manifest_exists(place)
    assert load_manifest(place) == manifest
    assert damaged_manifests(place) == [file]
    complete_manifests(place, manifest, anew=damaged_manifests(place))
    assert [place.read(name) for name in FILES] == [text, text]


@pytest.mark.parametrize("lost", FILES)
def test_both_lost_or_damaged(place, lost):
    for name in FILES:
        place.write(name, [damage(place.read(name))])
    for _ in range(2):
        message = "both manifest.json and journal/manifest.json are damaged or missing: restore"
        with pytest.raises(CacheError, match=message):
            load_manifest(place)
        place.delete([lost])


def test_a_flipped_version_is_not_taken_for_an_older_one(place, manifest):
    """The copy tells what it was."""
    text = place.read("manifest.json")
    place.write("manifest.json", [text.replace(b'"format_version": 3', b'"format_version": 0')])
    assert load_manifest(place) == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "an entry cannot have 0 values"),
        ({"height": 2**40}, "cannot have"),
        ({"targets": ()}, "name some of"),
        ({"targets": ("attention", "f_sr")}, "in that order"),
        ({"targets": ("depth",)}, "name some of"),
        ({"entries": ("a", "b", "a")}, "'a' occurs twice"),
        ({"made_by": {"height": 3}}, "must not hold"),
    ],
)
def test_contradictory_fields(make_manifest, change, message):
    with pytest.raises(CacheError, match=message):
        make_manifest(**change)


def test_a_manifest_of_all_vimeo_stays_small(tmp_path, make_manifest):
    keys = tuple(f"{i // 1000 + 1:05d}/{i % 1000 + 1:04d}@{i % 8}" for i in range(64_612))
    create_manifest(open_place(tmp_path), make_manifest(entries=keys))
    assert (tmp_path / "manifest.json").stat().st_size < 2_000_000
