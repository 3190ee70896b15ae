"""All figures of an experiment: rows over seeds, and their differences from the reference."""

from collections.abc import Mapping, Sequence
from typing import Any

from stdpipe.grid.intervals import paired, spread
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
