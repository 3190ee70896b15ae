"""All figures of an experiment: rows over seeds, and their differences from the reference."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from stdpipe.evaluation.results import columns
from stdpipe.grid.intervals import mean_and_spread, paired
from stdpipe.grid.schema import Experiment

METRICS = ("psnr_y", "ssim_y")


def summary(
    experiment: Experiment, found: Sequence[tuple[str, int | None, Mapping[str, Any]]]
) -> dict[str, Any]:
    """All figures of an experiment. found: label, seed (None for a baseline), test set -> result.

    rows: label -> test -> column (average, each clip, each list) -> metric -> `spread` and the
    values by seed. differences: label -> test -> metric -> `paired` with the reference's label of
    the same student, of the test's average.
    """
    values: dict[tuple[str, str, str, str], dict[int | None, float]] = {}
    for label, seed, by_test in found:
        for test, result in by_test.items():
            for column, figures in columns(result).items():
                for metric in METRICS:
                    if figures[metric] is not None:
                        of_seeds = values.setdefault((label, test, column, metric), {})
                        of_seeds[seed] = figures[metric]
    rows: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for (label, test, column, metric), of_seeds in values.items():
        told = {
            **mean_and_spread([*of_seeds.values()]),
            "by_seed": {k: v for k, v in of_seeds.items() if k is not None},
        }
        rows.setdefault(label, {}).setdefault(test, {}).setdefault(column, {})[metric] = told
    for student, scheme in product(experiment.students, experiment.schemes):
        label, base = f"{student}/{scheme.label}", f"{student}/{experiment.reference}"
        if label != base and label in rows and base in rows:
            differences[label] = {
                test: {
                    metric: {"reference": base, **_paired(rows, label, base, test, metric)}
                    for metric in METRICS
                }
                for test in rows[label]
            }
    return {
        "name": experiment.name,
        "about": experiment.about,
        "degradation": experiment.degradation,
        "seeds": list(experiment.seeds),
        "reference": experiment.reference,
        "protocols": {t: result["protocol"] for _, _, by in found[:1] for t, result in by.items()},
        "rows": rows,
        "differences": differences,
    }


def _paired(
    rows: Mapping[str, Any], label: str, base: str, test: str, metric: str
) -> dict[str, Any]:
    ours, theirs = (
        rows[row].get(test, {}).get("average", {}).get(metric, {}).get("by_seed", {})
        for row in (label, base)
    )
    return paired(ours, theirs) or {}
