"""Tell whether a recurrent network runs away where nothing moves.

Published RLSP 7-64 falls from 25.5 to 17.6 dB in 300 equal frames, which no score of short clips
shows. `stdpipe evaluate --still` measures it; this is the quick look before a file is written.
"""

import logging
from itertools import islice

import torch

from stdpipe.models.base import Network
from stdpipe.models.causal import CausalNetwork
from stdpipe.models.layers import surroundings
from stdpipe.models.running import still_images

FRAMES = 300  # of the still scene: ten seconds
SETTLED = 30  # frames after which a network that does not drift has settled
SIDE = 24  # LR pixels of the scene
MOST = 2 / 255  # RMS change from then on: as much as 42 dB show
LOG = logging.getLogger(__name__)


@torch.no_grad()
def drift(net: CausalNetwork) -> float:
    """Return the RMS change of the image, in [0, 1], between two moments of a still scene.

    The scene is smoothed noise, equal in every call. The network is on a CPU.
    """
    draw = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, SIDE, SIDE, generator=draw)
    frame = (0.5 + 3 * (surroundings(noise) - 0.5)).clamp(0, 1)
    images = islice(still_images(net, frame, torch.device("cpu"), "none"), FRAMES)
    settled, last = (sr for number, sr in enumerate(images, 1) if number in (SETTLED, FRAMES))
    return float((last - settled).square().mean().sqrt())


def warn_of_drift(net: Network) -> float | None:
    """Return a causal network's `drift`, with a warning where it is large; None for others."""
    if not isinstance(net, CausalNetwork):
        return None
    found = drift(net)
    if not found <= MOST:  # nan is not
        LOG.warning(
            f"stdpipe: this network runs away on a still scene: within {FRAMES} frames its image "
            f"changes by {255 * found:.1f} of 255 levels; train it on with warm_start (--init)"
        )
    return found
