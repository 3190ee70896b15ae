"""Sum up an experiment: rows over seeds, and their differences from the reference."""

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
    """Sum up an experiment from (label, seed or None for a baseline, test set -> result) each.

    rows: label -> test -> column (average, each clip, each list) -> metric -> mean_and_spread and
    the values by seed. differences: label -> test -> metric -> the test's average, `paired` with
    that of the same student under the reference scheme.
    """
    values: dict[tuple[str, str, str, str], dict[Any, float]] = {}
    for label, seed, by_test in found:
        for test, result in by_test.items():
            for (column, figures), metric in product(columns(result).items(), METRICS):
                if figures[metric] is not None:
                    values.setdefault((label, test, column, metric), {})[seed] = figures[metric]
    rows: dict[str, Any] = {}
    for (label, test, column, metric), of_seeds in values.items():
        by_seed = {seed: value for seed, value in of_seeds.items() if seed is not None}
        metrics = rows.setdefault(label, {}).setdefault(test, {}).setdefault(column, {})
        metrics[metric] = {**mean_and_spread([*of_seeds.values()]), "by_seed": by_seed}
    differences: dict[str, Any] = {}
    for student, scheme in product(experiment.students, experiment.schemes):
        label, base = f"{student}/{scheme.label}", f"{student}/{experiment.reference}"
        if label != base and label in rows and base in rows:
            for test, metric in product(rows[label], METRICS):
                ours, theirs = (values.get((n, test, "average", metric), {}) for n in (label, base))
                change = {"reference": base, **(paired(ours, theirs) or {})}
                differences.setdefault(label, {}).setdefault(test, {})[metric] = change
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
