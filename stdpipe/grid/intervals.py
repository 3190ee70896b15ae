"""Numbers over seeds: mean, spread, and paired differences with Student's t interval."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# two-sided 95 % quantiles of Student's t for 1, 2, ... 30 degrees of freedom
T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
MOST = len(T95) + 1  # seeds


def mean_and_spread(values: Sequence[float]) -> dict[str, Any]:
    """Return n, mean and sd, the sample standard deviation over seeds (None for one seed)."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"n": len(values), "mean": statistics.fmean(values), "sd": deviation}


def paired(ours: Mapping[int, float], base: Mapping[int, float]) -> dict[str, Any] | None:
    """Sum up the differences ours - base, seed by seed; None where no seed has both.

    mean, sd, n, the seeds, and `interval`: mean -+ t * sd / sqrt(n), 95 %, where the differences
    are taken to be normally distributed; None for one seed.
    """
    seeds = [seed for seed in ours if seed in base]
    if not seeds:
        return None
    found = mean_and_spread([ours[seed] - base[seed] for seed in seeds])
    interval = None
    if found["sd"] is not None:
        half = T95[found["n"] - 2] * found["sd"] / math.sqrt(found["n"])
        interval = [found["mean"] - half, found["mean"] + half]
    return {**found, "interval": interval, "seeds": seeds}
