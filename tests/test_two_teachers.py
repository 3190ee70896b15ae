"""A student of several teachers: a cache for each, over the same clips in the same orientations."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from stdpipe.reporting.commands import train_command
from stdpipe.reporting.inputs import TrainingRun
from stdpipe.training.metrics_log import read_metrics

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def other_cache(tiny: Path, extract: Command, stdpipe: Command, tmp_path_factory: Any) -> Path:
    """Of another teacher than tiny_cache's, with the same views, otherwise encoded."""
    path = tmp_path_factory.mktemp("other") / "cache.zarr"
    how = ("--orientations", 2, "--weights", "random:1", "--encoding", "trunk-int8")
    stdpipe(*extract(tiny, path, *how))
    return path


def lines(run: Path) -> list[dict[str, float]]:
    return read_metrics(run / "metrics.jsonl")


def test_both_teach_with_their_weights(
    tmp_path: Path, tiny: Path, tiny_cache: Path, other_cache: Path, train: Command,
    stdpipe: Command,
) -> None:  # fmt: skip
    """Each term is told for each cache, and alone as it is beside the other: the sum is weighted.
    The second has an adapter and a ConvLSTM of its own."""
    scheme = ("--scheme", "std,output=0.5")
    both = ("--cache", tiny_cache, "--cache", other_cache, "--cache-weight", "1,0.25", *scheme)
    stdpipe(*train(tmp_path / "both", tiny, *both, steps=2))
    for cache in (tiny_cache, other_cache):
        stdpipe(*train(tmp_path / cache.parent.name, tiny, "--cache", cache, *scheme, steps=2))
    weights = {"sd": 1, "td": 100, "output": 0.5}
    for line in lines(tmp_path / "both")[1:]:
        total = sum(w * (line[k] + 0.25 * line[f"{k}:2"]) for k, w in weights.items())
        assert line["loss"] == pytest.approx(line["rec"] + total, rel=1e-5)
        assert {"cell_var:2", "memory:2_norm"} <= line.keys()
    first, alone, other = (
        lines(tmp_path / run)[1]  # all begin with the same student and the same warm-up
        for run in ("both", tiny_cache.parent.name, other_cache.parent.name)
    )
    for name in ("sd", "output"):
        assert first[name] == pytest.approx(alone[name], rel=1e-5)
    assert first["output:2"] == pytest.approx(other["output"], rel=1e-5)
    saved = torch.load(tmp_path / "both/checkpoint.pt", weights_only=True)
    assert {"adapter", "memory", "frozen", "adapter:2", "memory:2", "frozen:2"} <= saved.keys()
    config = yaml.safe_load((tmp_path / "both" / "config.yaml").read_text())
    again = train_command(TrainingRun("both", tmp_path, "", config, [], True))
    assert f"--cache {tiny_cache} " in again
    assert f"--cache {other_cache} --cache-weight 1.0,0.25" in again


def test_a_teacher_halved_is_that_teacher(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, stdpipe: Command
) -> None:
    """One cache twice, at half the weight each, trains what it trains alone."""
    scheme = ("--scheme", "output", "--cache", tiny_cache)
    stdpipe(*train(tmp_path / "one", tiny, *scheme))
    stdpipe(*train(tmp_path / "two", tiny, *scheme, "--cache", tiny_cache,
                   "--cache-weight", "0.5,0.5"))  # fmt: skip
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)


def test_stopped_and_resumed_it_is_the_unbroken_run(
    tmp_path: Path, tiny: Path, tiny_cache: Path, other_cache: Path, train: Command,
    stdpipe: Command, refused: Command, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Bit for bit; with other caches or weights it is refused."""
    both = ("--cache", tiny_cache, "--cache", other_cache)
    stdpipe(*train(tmp_path / "whole", tiny, *both))
    save = torch.save

    def save_and_stop(content: Any, *rest: Any) -> None:
        save(content, *rest)
        if content.get("step") == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", save_and_stop)
        refused(*train(tmp_path / "parts", tiny, *both), code=130)
    told = refused(*train(tmp_path / "parts", tiny, *both, "--cache-weight", "1,2"))
    assert "cache_weight None there, [1.0, 2.0] now" in told
    told = refused(*train(tmp_path / "parts", tiny, "--cache", tiny_cache))
    assert "other_cache_ids" in told
    stdpipe(*train(tmp_path / "parts", tiny, *both))
    whole, parts = (
        torch.load(tmp_path / "whole/checkpoint.pt", weights_only=True),
        torch.load(tmp_path / "parts/checkpoint.pt", weights_only=True),
    )
    for role in ("student", "memory:2", "adapter:2"):
        for name, value in whole[role].items():
            assert torch.equal(value, parts[role][name]), (role, name)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--orientations", 1), "@"),
        (("--orientations", 2, "--degradation", "bi"), "bd and bi"),
    ],
    ids=["orientations", "degradation"],
)
def test_caches_that_differ_are_refused_with_both_named(
    tmp_path: Path, tiny: Path, tiny_cache: Path, extract: Command, train: Command,
    stdpipe: Command, refused: Command, changed: Any, named: str,
) -> None:  # fmt: skip
    other = tmp_path / "odd.zarr"
    stdpipe(*extract(tiny, other, *changed))
    told = refused(*train(tmp_path / "run", tiny, "--cache", tiny_cache, "--cache", other))
    assert str(tiny_cache) in told
    assert str(other) in told
    assert named in told


def test_wrong_use(
    tmp_path: Path, tiny: Path, tiny_cache: Path, train: Command, refused: Command
) -> None:
    one = ("--cache", tiny_cache)
    for more, named in (
        ((*one, *one, "--cache-weight", "1"), "1 numbers for 2 caches"),
        ((*one, *one, "--cache-weight", "1,-1"), "above 0"),
        ((*one, *one, "--cache-weight", "1,x"), "'1,x'"),
        ((*one, *one, "--live-teacher", "random:0"), "--live-teacher"),
    ):
        assert named in refused(*train(tmp_path, tiny, *more), code=2)
