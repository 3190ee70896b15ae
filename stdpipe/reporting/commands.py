"""The commands that give the same again, from what results and configs say of themselves."""

import shlex
from typing import Any

from stdpipe.reporting.inputs import Group, Measured, TrainingRun

# keys of a run's config that are no training options
FACTS = {"network", "data", "degradation", "cache", "init", "exclude"}
FACTS |= {"cache_id", "clips", "live_teacher", "init_sha256"}


def evaluate_command(entry: Measured, group: Group) -> str:
    """For this network alone."""
    name, weights = str(entry.facts["model"]), entry.facts["weights"]
    # a protocol with another border is named so: vid4-crop8
    protocol, _, other_crop = str(group.protocol["name"]).partition("-crop")
    kinds = ["quality"]
    kinds += ["temporal"] * ("warp_error" in entry.facts["average"])
    kinds += ["cost"] * ("seconds_per_frame" in (entry.facts.get("cost") or {}))
    words: list[Any] = ["stdpipe", "evaluate", "--data", group.data]
    words += ["--model", f"{name}@{weights}" if weights else name]
    words += ["--degradation", group.degradation["name"], "--protocol", protocol]
    words += ["--crop", group.protocol["crop"]] * bool(other_crop)
    words += ["--metrics", ",".join(kinds)] * (len(kinds) > 1)
    words += ["--amp", group.amp] * (group.amp not in (None, "none"))
    return shlex.join(map(str, [*words, "--out", entry.folder]))


def train_command(run: TrainingRun) -> str:
    """With every option, defaults too."""
    config = run.config
    role = "student" if "scheme" in config else "teacher"
    words: list[Any] = ["stdpipe", f"train-{role}", "--data", config.get("data")]
    words += [f"--{role}", config.get("network")]
    for key in ("cache", "degradation", "init"):
        words += [f"--{key}", config[key]] if config.get(key) else []
    for clip in config.get("exclude") or ():
        words += ["--exclude", clip]
    for key, value in config.items():
        words += ["--set", f"{key}={value}"] * (key not in FACTS)
    return shlex.join(map(str, [*words, "--out", run.folder]))
