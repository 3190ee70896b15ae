"""PISR's privileged teacher: an encoder from HR to LR, and a student's network after it.

Lee, Lee, Kim, Ham, "Learning with Privileged Information for Efficient Image Super-Resolution",
ECCV 2020; cvlab-yonsei/PISR, for single images (FSRCNN). Here the published encoder
(models/encoder.py) runs on every frame, and any network of the zoo follows. It is shown HR, so it
can teach, but enlarges nothing.
Axes: B batch, T frames, h w LR size, H W HR size.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from stdpipe.models.base import Network

WIDE, NARROW = 56, 12


class PISR(Network):
    """An encoder and behind it the student, whose parameters `train-student --init` begins with."""

    scale = 1  # its input has HR size
    sees_hr = True

    def __init__(self, student: Network) -> None:
        super().__init__()
        assert not student.sees_hr
        self.student = student
        self.revision = self.student.revision
        self.num_frame = self.student.num_frame
        self.multiple = self.factor * self.student.multiple
        self.f_sr_channels = self.student.f_sr_channels
        self.channels = self.student.channels
        self.encoder = nn.Sequential(
            nn.Conv2d(3, WIDE, 5, padding=2),
            nn.PReLU(),
            nn.Conv2d(WIDE, WIDE, 5, self.factor, padding=2),
            nn.PReLU(),
            nn.Conv2d(WIDE, NARROW, 3, padding=1),
            nn.PReLU(),
            nn.Conv2d(NARROW, 3, 3, padding=1),
        )

    @property
    def factor(self) -> int:
        """HR size / LR size, the student's."""
        return self.student.factor

    def encode(self, frames: Tensor) -> Tensor:
        """Encode HR as LR: (..., 3, H, W) -> (..., 3, h, w); H, W multiples of the scale."""
        return self.encoder(frames.flatten(0, -4)).unflatten(0, frames.shape[:-3])

    def fuse(self, window: Tensor) -> Tensor:
        return self.student.fuse(self.encode(window))

    def fuse_clip(self, clip: Tensor, centres: Sequence[int]) -> Tensor:
        return self.student.fuse_clip(self.encode(clip), centres)

    def reconstruct(self, f_lr: Tensor) -> Tensor:
        return self.student.reconstruct(f_lr)

    def upsample(self, trunk: Tensor) -> Tensor:
        return self.student.upsample(trunk)

    def to_rgb(self, f_sr: Tensor, centre: Tensor) -> Tensor:
        """Make the image on the encoded centre, since the base must not see HR (B, 3, H, W)."""
        return self.student.to_rgb(f_sr, self.encode(centre))
