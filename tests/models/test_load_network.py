"""load_network without a file: seeds, networks without weights, phases; and saving that breaks."""

from pathlib import Path

import pytest
import torch

from stdpipe.models.checkpoints import load_network, save_torch

TINY = "edvr:num_feat=8,num_frame=3,num_extract_block=1,num_reconstruct_block=1"


def first_weight(name: str, weights: str) -> torch.Tensor:
    net, _ = load_network(name, weights)
    return next(net.parameters()).detach()


def test_seeded_random_weights() -> None:
    """The same for a seed, others for another, and the process's own randomness is not moved."""
    state = torch.get_rng_state()
    once, again, other = (first_weight(TINY, f"random:{seed}") for seed in (3, 3, 4))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_random_weights_say_so() -> None:
    """The facts that a manifest records name the seed where a checksum would stand."""
    _, facts = load_network(TINY, "random:3", phase=0.0)
    assert facts["weights"] == facts["sha256"] == "random:3"
    assert facts["network"] == "edvr:num_extract_block=1,num_feat=8,num_frame=3," + (
        "num_reconstruct_block=1,phase=0.0"
    )


def test_phase_is_taken_where_nothing_decides() -> None:
    """A name's phase stands; a published EDVR's base is the plain one."""
    assert load_network(TINY, "random:0")[0].phase == 1.5
    assert load_network(TINY, "random:0", phase=0.0)[0].phase == 0.0
    assert load_network(f"{TINY},phase=1.0", "random:0", phase=0.0)[0].phase == 1.0


def test_without_weights() -> None:
    """Bicubic needs none; the others say what to give."""
    net, facts = load_network("bicubic", None)
    assert facts == {"network": "bicubic", "weights": None, "sha256": None, "degradation": None}
    assert not list(net.parameters())
    with pytest.raises(ValueError, match=r"fastdvdnet needs weights: .* random:SEED"):
        load_network("fastdvdnet", None)


@pytest.mark.parametrize(
    ("name", "weights", "told"),
    [
        (None, None, "name a network"),
        (None, "random:3", "name a network"),
        ("fastdvdnet", "random:x", "whole number"),
        ("fastdvdnet", "random:", "whole number"),
    ],
)
def test_what_is_missing(name: str | None, weights: str | None, told: str) -> None:
    """One line each, that says what to give."""
    with pytest.raises(ValueError, match=told):
        load_network(name, weights)


def test_a_crash_while_saving_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown for an error in the middle of writing; a power cut needs another machine."""
    path = tmp_path / "weights.pt"
    save_torch(path, {"step": 1})

    def half(content: object, file: object) -> None:
        file.write(b"half of it")  # type: ignore[attr-defined]
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="no space"):
        save_torch(path, {"step": 2})
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_a_file_that_names_a_module_imports_nothing(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Only a name given by the user is imported: a checkpoint must not run code."""
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    monkeypatch.chdir(tmp_path)
    content = {"network": "evil:X", "degradation": "bd", "params": {"w": torch.zeros(1)}}
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"names the network 'evil:X', .*--allow-module evil"):
        load_network(None, str(tmp_path / "w.pt"))
    with pytest.raises(ValueError, match="holds evil:X, but edvr was asked for"):
        load_network("edvr", str(tmp_path / "w.pt"))
