"""Is our deformable convolution faster than torchvision's, at the sizes EDVR uses in training?

python benchmarks/deform.py [--json]     needs torchvision
A ratio above 1 means that ours is faster. Forward, and forward with backward, C = 64 and 128, 8
groups, 64 x 64, offsets of about 2 pixels.
"""

import argparse
from collections.abc import Callable

import torch
import torchvision
from timing import medians, report

from stdpipe.models.deform import deform_conv2d


def theirs(x, offset, mask, weight, bias):  # type: ignore[no-untyped-def]
    return torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)


def inputs(channels: int, groups: int, size: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(1, channels, size, size),
        torch.randn(1, 2 * groups * 9, size, size) * 2,
        torch.rand(1, groups * 9, size, size),
        torch.randn(channels, channels, 3, 3) * 0.05,
        torch.randn(channels),
    ]


def forward(function: Callable[..., torch.Tensor], tensors: list[torch.Tensor]) -> None:
    with torch.inference_mode():
        function(*tensors)


def backward(function: Callable[..., torch.Tensor], tensors: list[torch.Tensor]) -> None:
    leaves = [t.detach().requires_grad_() for t in tensors]
    function(*leaves).square().sum().backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    ratios = {}
    for channels in (64, 128):
        tensors = inputs(channels, 8, 64)
        for name, run in (("forward", forward), ("step", backward)):
            seconds = medians(
                {
                    "ours": lambda run=run, t=tensors: run(deform_conv2d, t),
                    "torchvision": lambda run=run, t=tensors: run(theirs, t),
                },
                arguments.repeats,
            )
            key = f"torchvision_over_ours_c{channels}_{name}"
            ratios[key] = seconds["torchvision"] / seconds["ours"]
    settings = {"size": 64, "groups": 8, "batch": 1, "threads": torch.get_num_threads()}
    report("deform", {**settings, "repeats": arguments.repeats}, ratios, arguments.json)


if __name__ == "__main__":
    main()
