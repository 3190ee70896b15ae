"""The manifest: round trip, identity, and every refusal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stdpipe.cache import FORMAT_VERSION, CacheError, Manifest, difference, load_manifest
from stdpipe.cache.durable import seal
from stdpipe.cache.manifest import save_manifest

facts = st.none() | st.booleans() | st.integers() | st.text() | st.floats(-1e9, 1e9)
words = st.text(st.characters(codec="utf-8"), min_size=1)
OWN = {"encoding", "targets", "frames", "channels", "height", "width", "entries_digest"}


@given(st.dictionaries(words.filter(lambda key: key not in OWN), facts), st.sets(words, min_size=1))
def test_json_round_trip(made_by, keys):
    sizes = {"frames": 7, "channels": 64, "height": 256, "width": 448}
    made = Manifest(made_by=made_by, entries=tuple(keys), **sizes, notes={"psnr_db": [88.8]})
    again = Manifest.from_json(json.loads(json.dumps(made.to_json())))
    assert again == made
    assert again.cache_id == made.cache_id


def test_file_round_trip(tmp_path, manifest):
    save_manifest(tmp_path, manifest)
    assert load_manifest(tmp_path) == manifest
    assert json.loads((tmp_path / "manifest.json").read_text())["made_by"]["teacher"] == "edvr-l"


def test_identity_is_everything_but_the_notes(make_manifest):
    base = make_manifest()
    assert make_manifest(notes={"warning": "random weights"}).cache_id == base.cache_id
    changes = [
        {"made_by": base.made_by | {"teacher": "edvr-m"}},
        {"entries": base.entries[::-1]},
        {"frames": 3},
        {"channels": 4},
        {"height": 24},
        {"width": 76},
        {"targets": ("attention",)},
        {"encoding": "float16"},
    ]
    identities = {make_manifest(**change).cache_id for change in changes}
    assert len(identities | {base.cache_id}) == len(changes) + 1


def test_difference_names_both_values():
    made = {"teacher": "edvr-l", "weights_sha256": "abc", "seed": 0}
    assert difference(made, {}) is None
    assert difference(made, {"seed": 0, "teacher": "edvr-l"}) is None
    assert difference(made, {"teacher": "edvr-m"}) == (
        "teacher 'edvr-l', but 'edvr-m' was asked for; use another --cache or the same --teacher"
    )
    assert "the same --weights" in difference(made, {"weights_sha256": "abd"})
    assert difference(made, {"views": "full"}).startswith("views no value, but 'full' was")


@pytest.mark.parametrize("version", [0, FORMAT_VERSION + 1, None, "1"])
def test_other_format_versions_are_refused(tmp_path, manifest, version):
    content = manifest.to_json() | {"format_version": version}
    (tmp_path / "manifest.json").write_text(seal(content))
    with pytest.raises(CacheError, match=f"format version {version!r}, this stdpipe reads 1"):
        load_manifest(tmp_path)


def test_unknown_and_missing_fields_are_refused(manifest):
    content = manifest.to_json()
    with pytest.raises(CacheError, match=r"unknown manifest fields \['colour'\]"):
        Manifest.from_json(content | {"colour": "rgb"})
    del content["encoding"]
    with pytest.raises(CacheError, match=r"fields \['encoding'\]"):
        Manifest.from_json(content)


def test_a_field_changed_by_hand_is_refused(manifest):
    with pytest.raises(CacheError, match="cache_id does not fit"):
        Manifest.from_json(manifest.to_json() | {"encoding": "float16"})


def test_absent_and_damaged_files(tmp_path, manifest):
    with pytest.raises(CacheError, match="is not a cache"):
        load_manifest(tmp_path / "nowhere")
    save_manifest(tmp_path, manifest)
    path = tmp_path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"edvr-l", b"edvr-m"))
    with pytest.raises(CacheError, match="is damaged: restore it"):
        load_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"encoding": "int4"}, "encoding 'int4' is unknown"),
        ({"targets": ()}, "name some of"),
        ({"targets": ("attention", "f_sr")}, "in that order"),
        ({"targets": ("depth",)}, "name some of"),
        ({"entries": ()}, "at least one entry"),
        ({"entries": ("a", "b", "a")}, "'a' occurs twice"),
        ({"entries": ("a", "")}, "is not a text"),
        ({"made_by": {"height": 3}}, "must not hold"),
    ],
)
def test_contradictory_fields(make_manifest, change, message):
    with pytest.raises(CacheError, match=message):
        make_manifest(**change)


def test_a_manifest_of_all_vimeo_stays_small(tmp_path, make_manifest):
    keys = tuple(f"{i // 1000 + 1:05d}/{i % 1000 + 1:04d}@{i % 8}" for i in range(64_612))
    save_manifest(tmp_path, make_manifest(entries=keys))
    assert (tmp_path / "manifest.json").stat().st_size < 2_000_000
