"""Shell commands that repeat the evaluation or the training run of a folder."""

import shlex
from typing import Any

from stdpipe.reporting.inputs import Measured, ResultGroup, TrainingRun
from stdpipe.training.config import StudentTraining, TeacherTraining, to_mapping


def evaluate_command(entry: Measured, group: ResultGroup) -> str:
    """Return the command that measures this network alone, into a folder beside the old one."""
    facts, rules = entry.facts, group.protocol
    # a protocol with another border carries it in its name: vid4-crop8
    protocol, _, own_crop = str(rules["name"]).partition("-crop")
    kinds = ["quality"]
    kinds += ["temporal"] * ("warp_error" in facts["average"])
    kinds += ["cost"] * ("seconds_per_frame" in entry.cost)
    words: list[Any] = ["stdpipe", "evaluate", "--data", group.data]
    words += ["--model", facts["model"] + (f"@{facts['weights']}" if facts["weights"] else "")]
    words += ["--degradation", group.degradation["name"], "--protocol", protocol]
    words += ["--crop", own_crop] if own_crop else []
    words += ["--metrics", ",".join(kinds)] if len(kinds) > 1 else []
    words += ["--amp", group.amp] if group.amp not in (None, "none") else []
    return shlex.join(map(str, [*words, "--out", f"{entry.folder}-again"]))


def train_command(run: TrainingRun) -> str:
    """Return the command with every option, defaults too; in the run's folder it resumes."""
    config = run.config
    role = "student" if "scheme" in config else "teacher"
    options = StudentTraining if role == "student" else TeacherTraining
    words: list[Any] = ["stdpipe", f"train-{role}", "--data", config.get("data")]
    words += [f"--{role}", config.get("network")]
    for key in ("cache", "degradation", "init"):
        words += [f"--{key}", config[key]] if config.get(key) else []
    for other in config.get("other_caches") or ():
        words += ["--cache", other]
    if weights := config.get("cache_weight"):
        words += ["--cache-weight", ",".join(map(str, weights))]
    if sha256 := config.get("live_teacher"):  # older configs do not name its file
        words += ["--live-teacher", config.get("live_teacher_file", f"FILE-OF-SHA256-{sha256}")]
    for clip in config.get("exclude") or ():
        words += ["--exclude", clip]
    for key in to_mapping(options()):
        if key in config:
            # --set takes YAML, in which no text at all would be null
            value = "''" if config[key] == "" else config[key]
            words += ["--set", f"{key}={value}"]
    return shlex.join(map(str, [*words, "--out", run.folder]))
