"""Bicubic interpolation as a network: the baseline of all others."""

from torch import Tensor

from stdpipe.models.base import Network
from stdpipe.models.layers import bicubic_base, phase_at
from stdpipe.models.options import Scale


class Bicubic(Network):
    """MATLAB's imresize(x, scale) of the centre frame; its f_sr is the image itself.

    The default phase, 1.5 at scale 4, is MATLAB's and that of the tables in papers; phase 0 is
    `bd`'s true phase.
    """

    f_sr_channels = 3

    def __init__(self, phase: float | None = None, scale: Scale = 4) -> None:
        super().__init__()
        self.scale = scale
        self.phase = phase_at(scale, phase)

    def fuse(self, window: Tensor) -> Tensor:
        return window[:, self.num_frame // 2]

    def upsample(self, trunk: Tensor) -> Tensor:
        return bicubic_base(trunk, self.phase, self.scale)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return f_sr
