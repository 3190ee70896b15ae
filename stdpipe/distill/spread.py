"""The teacher's own spread, by which `normalise` divides SD and TD."""

from torch import Tensor

from stdpipe import distributed

# of a map's mean square: where a clip is black, its map hardly varies, and dividing by that little
# would make one step outweigh a thousand others
SMALLEST = 1e-4


def variance(values: Tensor) -> Tensor:
    """Return the variance of (N, C, H, W) over pixels and the clips of all ranks, averaged over
    channels, with gradient. Constant channels that differ have none."""
    values = values.float()
    if distributed.size() == 1:
        return values.var(dim=(0, 2, 3)).mean()
    count = distributed.size() * values[:, 0].numel()
    mean = distributed.total(values.sum(dim=(0, 2, 3), keepdim=True)) / count
    squares = distributed.total((values - mean).square().sum(dim=(0, 2, 3)))
    return (squares / (count - 1)).mean()


def map_variance(teacher: Tensor) -> Tensor:
    """Return the variance of maps (B, T, H, W), at least SMALLEST of their mean square."""
    smallest = SMALLEST * distributed.mean(teacher.square().mean())
    return variance(teacher.flatten(0, 1)[:, None]).maximum(smallest).clamp(min=1e-12)
