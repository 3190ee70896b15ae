"""One SHA-256 for a cache: of what is served, by whomever it was written, and of nothing less."""

from dataclasses import replace

import numpy as np
import pytest

from stdpipe.cache import CacheError, digest, open_writer, verify


@pytest.fixture
def built(tmp_path, manifest, build):
    return build(tmp_path / "c", manifest)


def test_it_does_not_depend_on_who_wrote(tmp_path, manifest, arrays, built):
    other = tmp_path / "other"
    for part in (1, 0):
        with open_writer(other, manifest, f"{part}-of-2") as writer:
            for key in manifest.entries[part::2]:
                writer.write(key, arrays(manifest, key), {"source_crc32": len(key)})
            if not writer.missing():
                writer.finalise()
    assert digest(other) == digest(built)


def test_a_forged_cache_is_another(tmp_path, manifest, arrays, built):
    """One value, the clip that it is made of, or the teacher: all checksums fit."""

    def forged(name, values=arrays, crc=None, **made_by):
        made = replace(manifest, made_by=manifest.made_by | made_by)
        with open_writer(tmp_path / name, made) as writer:
            for key in made.entries:
                said = {"source_crc32": len(key) if crc is None else crc}
                writer.write(key, values(made, key), said)
            writer.finalise()
        assert verify(tmp_path / name).broken == []
        return digest(tmp_path / name)

    def one_more(made, key):
        given = arrays(made, key)
        if key == made.entries[-1]:
            given["f_sr"][0, 0, 0, 0] = np.nextafter(given["f_sr"][0, 0, 0, 0], np.float32(9))
        return given

    whole = digest(built)
    assert forged("same") == whole
    others = [forged("value", one_more), forged("clip", crc=7), forged("teacher", teacher="t")]
    assert len({whole, *others}) == 4


def test_it_is_of_whole_caches_alone(tmp_path, manifest, arrays, built):
    with open_writer(tmp_path / "half", manifest) as writer:
        key = manifest.entries[0]
        writer.write(key, arrays(manifest, key), {"source_crc32": 1})
    with pytest.raises(CacheError, match="incomplete"):
        digest(tmp_path / "half")
    file = next((built / "f_sr").glob("c.2.*"))
    data = bytearray(file.read_bytes())
    data[9] ^= 1
    file.write_bytes(data)
    with pytest.raises(CacheError, match=r"00001/0002@2.*f_sr is damaged"):
        digest(built)
