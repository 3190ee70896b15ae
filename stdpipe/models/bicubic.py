"""Bicubic interpolation as a network: the baseline of all others."""

from torch import Tensor

from stdpipe.models.base import Network
from stdpipe.models.layers import bicubic_base


class Bicubic(Network):
    """MATLAB's imresize(x, 4) of the centre frame; its f_sr is the image itself.

    phase 1.5 is MATLAB's and that of the tables in papers; phase 0 is `bd`'s true phase.
    """

    f_sr_channels = 3

    def __init__(self, phase: float = 1.5) -> None:
        super().__init__()
        self.phase = phase

    def fuse(self, window: Tensor) -> Tensor:
        return window[:, self.num_frame // 2]

    def upsample(self, trunk: Tensor) -> Tensor:
        return bicubic_base(trunk, self.phase)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return f_sr
