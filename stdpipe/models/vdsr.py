"""VDSR, a student that sees one frame: twenty convolutions on the upsampled image.

Kim et al., "Accurate Image Super-Resolution Using Very Deep Convolutional Networks", CVPR 2016;
layers as in LoSealL/VideoSuperResolution (Classic.py). F^SR: the input of the last convolution.
It upsamples its input itself, at the degradation's phase.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from stdpipe.models.base import Network
from stdpipe.models.layers import bicubic_base, conv3x3, init_relu, phase_at, relu_chain, shrink
from stdpipe.models.luma import in_channels, to_image
from stdpipe.models.options import MOST_OPTION, Channels, Positive, Scale


class VDSR(Network):
    """f_lr: the frame, or its Y; there is no trunk, since all layers work at HR."""

    def __init__(
        self,
        num_feat: Positive = 64,
        num_layer: Annotated[int, Field(ge=2, le=MOST_OPTION)] = 20,
        channels: Channels = 3,
        phase: float | None = None,
        scale: Scale = 4,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.scale, self.phase = scale, phase_at(scale, phase)
        self.f_sr_channels = num_feat
        self.body = relu_chain(channels, num_feat, num_layer - 1)
        self.conv_last = conv3x3(num_feat, channels)
        init_relu(self)
        shrink(self.conv_last)

    def fuse(self, window: Tensor) -> Tensor:
        return in_channels(window[:, self.num_frame // 2], self.channels)

    def upsample(self, trunk: Tensor) -> Tensor:
        return self.body(bicubic_base(trunk, self.phase, self.scale))

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        return to_image(self.conv_last, f_sr, centre, self.phase, bicubic_base, self.scale)
