"""Numbers over seeds: mean, spread, and paired differences with Student's t interval."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stdpipe.grid.schema import Experiment

# two-sided 95 % quantiles of Student's t for 1, 2, ... 30 degrees of freedom
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
MOST = len(T95) + 1  # seeds


def spread(values: Sequence[float]) -> dict[str, Any]:
    """n, mean, and the standard deviation over seeds (of n - 1; null for one)."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"n": len(values), "mean": statistics.fmean(values), "sd": deviation}


def paired(ours: Mapping[int, float], base: Mapping[int, float]) -> dict[str, Any] | None:
    """The differences ours - base seed by seed; None where no seed has both.

    mean, sd, n, and `interval`: mean -+ t * sd / sqrt(n), 95 %, which takes the differences for a
    sample of a normal distribution; null for one seed.
    """
    seeds = [seed for seed in ours if seed in base]
    if not seeds:
        return None
    found = spread([ours[seed] - base[seed] for seed in seeds])
    interval = None
    if found["sd"] is not None:
        half = T95[found["n"] - 2] * found["sd"] / math.sqrt(found["n"])
        interval = [found["mean"] - half, found["mean"] + half]
    return {**found, "interval": interval, "seeds": seeds}


METRICS = ("psnr_y", "ssim_y")


def summary(
    experiment: "Experiment", found: Sequence[tuple[str, int | None, Mapping[str, Any]]]
) -> dict[str, Any]:
    """All figures of an experiment. found: label, seed (None for a baseline), test set -> result.

    rows: label -> test -> column (average, each clip, each list) -> metric -> `spread` and the
    values by seed. differences: label -> test -> metric -> `paired` with the reference's label of
    the same student, of the test's average.
    """
    rows: dict[str, Any] = {}
    for label, seed, by_test in found:
        for test, result in by_test.items():
            for column, figures in columns(result).items():
                place = rows.setdefault(label, {}).setdefault(test, {}).setdefault(column, {})
                for metric in METRICS:
                    if figures[metric] is not None:
                        place.setdefault(metric, {})[seed] = figures[metric]
    differences = {}
    for student in experiment.students:
        base = f"{student}/{experiment.reference}"
        for scheme in experiment.schemes:
            label = f"{student}/{scheme.label}"
            if label != base and label in rows and base in rows:
                differences[label] = _against(rows[label], rows[base], base)
    definition = {t: result["protocol"] for _, _, by in found[:1] for t, result in by.items()}
    return {
        "name": experiment.name,
        "about": experiment.about,
        "degradation": experiment.degradation,
        "seeds": list(experiment.seeds),
        "reference": experiment.reference,
        "protocols": definition,
        "rows": _told(rows),
        "differences": differences,
    }


def columns(result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Name -> figures: the clips, Vimeo90K's lists where there are some, the average."""
    lists = {k: v for k, v in result.get("lists", {}).items() if k != "unlisted"}
    clips = result["clips"] if len(result["clips"]) <= 100 else {}
    return {**clips, **lists, "average": result["average"]}


def _against(row: Mapping[str, Any], base: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {
        test: {
            metric: {
                "reference": name,
                **(paired(row[test]["average"][metric], base[test]["average"][metric]) or {}),
            }
            for metric in METRICS
        }
        for test in row
    }


def _told(rows: Mapping[str, Any]) -> dict[str, Any]:
    """Each dict of values by seed as its spread, the values beside (none for baselines)."""
    return {
        label: {
            test: {
                column: {
                    metric: {**spread([*values.values()]), "by_seed": _by_seed(values)}
                    for metric, values in figures.items()
                }
                for column, figures in by_column.items()
            }
            for test, by_column in by_test.items()
        }
        for label, by_test in rows.items()
    }


def _by_seed(values: Mapping[int | None, float]) -> dict[int, float]:
    return {seed: value for seed, value in values.items() if seed is not None}
