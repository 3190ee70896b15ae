"""What evaluations find: means, infinities, lists; result.json of every version, and damaged."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from stdpipe.cache.errors import UserError
from stdpipe.evaluation.results import (
    as_json,
    averages,
    by_list,
    identity,
    read_result,
    results_table,
)

FIGURES = ("psnr_y", "ssim_y")
INF = float("inf")
GOLDEN = Path(__file__).with_name("golden")
ONE = json.loads((GOLDEN / "result-0.1.0-one.json").read_text())
TWO = json.loads((GOLDEN / "result-0.1.0-two.json").read_text())


def rows(*psnr: float) -> list[dict[str, float]]:
    return [{"frame": t, "psnr_y": value, "ssim_y": 0.1 + 0.2} for t, value in enumerate(psnr)]


def write(folder: Path, content: Any) -> Path:
    file = folder / "result.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize(("old", "amp"), [(ONE, "bf16"), (TWO, None)])
def test_a_result_of_0_1_0(tmp_path: Path, old: dict[str, Any], amp: str | None) -> None:
    """It is of one precision only where its cost says so; written again, it stays the same."""
    found = read_result(write(tmp_path, old))
    assert found["amp"] == amp
    assert as_json(found) == {**old, "format": 2, "amp": amp}
    assert read_result(write(tmp_path, as_json(found))) == found
    for network in found["networks"]:
        assert f"{network['average']['psnr_y']:.3f}" in results_table(found)


def test_precision_and_rules_are_a_results_identity_but_not_their_wording(tmp_path: Path) -> None:
    whole = read_result(write(tmp_path, TWO | {"format": 2, "amp": "none"}))
    assert identity(whole) != identity({**whole, "amp": "bf16"})
    assert identity(whole) != identity({**whole, "protocol": {**whole["protocol"], "crop": 8}})
    worded = {**whole["protocol"], "text": "anew", "note": "anew", "chosen": "anew"}
    assert identity(whole) == identity({**whole, "protocol": worded})


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ({"format": 3}, "format 3"),
        ({"average": {"psnr_y": 30}}, "ssim_y"),
        ({"average": ONE["average"] | {"psnr_y": "30"}}, "psnr_y"),
        ({"networks": []}, "networks"),
        ({"protocol": "vid4"}, "protocol"),
    ],
)
def test_a_result_that_cannot_be_read(tmp_path: Path, damage: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError) as told:
        read_result(write(tmp_path, ONE | damage))
    assert named in str(told.value)
    assert "result.json" in str(told.value)


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Each container in a document and a key of it."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    return [(value, key) for key in keys] + [place for key in keys for place in places(value[key])]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data(), st.sampled_from([ONE, TWO]), ODD, st.integers(0, 3))
def test_any_file_is_read_or_refused_in_one_line(
    tmp_path: Path, data: st.DataObject, whole: Any, odd: Any, kind: int
) -> None:
    """A value replaced or removed, the text cut, or something else; then shown, if it was read."""
    content = copy.deepcopy(whole)
    container, key = data.draw(st.sampled_from(places(content)))
    if kind == 1:
        del container[key]
    else:
        container[key] = odd
    text = json.dumps(odd if kind == 2 else content)
    file = tmp_path / "result.json"
    file.write_text(text[: data.draw(st.integers(0, len(text)))] if kind == 3 else text)
    try:
        found = read_result(file)
    except UserError as error:
        told = str(error)
    else:
        told = str(identity(found)) * bool(results_table(found))
    assert told
    assert "\n" not in told


def test_clips_count_alike_whatever_their_length() -> None:
    found = averages({"a": rows(30, 32), "b": rows(40)}, FIGURES)
    assert found["clips"]["a"] == {
        "psnr_y": 31, "ssim_y": pytest.approx(0.3), "frames": 2, "infinite": 0
    }  # fmt: skip
    assert found["average"]["psnr_y"] == 35.5


def test_black_frames_and_clips_leave_the_average_finite() -> None:
    """Black clips lie in Vimeo90K's test set; they are named, and the others are averaged."""
    found = averages({"black": rows(INF, INF), "faded": rows(30, INF), "real": rows(34)}, FIGURES)
    assert found["average"] == {"psnr_y": 32, "ssim_y": pytest.approx(0.3)}
    assert found["excluded"] == ["black"]
    assert [row["infinite"] for row in found["clips"].values()] == [2, 1, 0]
    assert found["clips"]["faded"]["psnr_y"] == 30
    assert averages({"black": rows(INF)}, FIGURES)["average"]["psnr_y"] is None


def test_figures_that_a_clips_first_frame_lacks() -> None:
    of_clip: list[dict[str, Any]] = [
        {"frame": 0, "psnr_y": 30.0},
        {"frame": 1, "psnr_y": 30.0, "tof": 2.0},
        {"frame": 2, "psnr_y": 30.0, "tof": float("nan")},
    ]
    assert averages({"a": of_clip}, ("psnr_y", "tof"))["average"]["tof"] == 2


def test_lists_are_weighted_by_clips() -> None:
    values = {"a": 30, "b": 32, "c": 40, "d": None, "e": 50}
    clips = {key: {"psnr_y": value} for key, value in values.items()}
    found = by_list(clips, {"fast": ["a", "b"], "slow": ["c", "d", "gone"]}, ["psnr_y"])
    assert found == {
        "fast": {"clips": 2, "psnr_y": 31},
        "slow": {"clips": 2, "psnr_y": 40},
        "weighted": {"clips": 4, "psnr_y": 34},
        "unlisted": ["e"],
    }
    json.dumps(found, allow_nan=False)
