"""Laws of positions in time."""

import torch

from models.videoldm.attention import time_phases
from models.videoldm.config import UNetConfig


def test_no_two_moments_of_the_longest_clip_look_alike() -> None:
    config = UNetConfig()
    count = round(config.max_clip_s / config.min_gap_s) + 1
    times = torch.arange(count)[None] * config.min_gap_s
    cosine, sine = time_phases(times, config.head_width, config.min_gap_s, config.max_clip_s)
    places = torch.cat([cosine[0], sine[0]], -1)
    apart = torch.cdist(places, places) + torch.eye(count) * 9
    assert float(apart.min()) > 0.1


def test_only_distances_in_time_matter_to_phases() -> None:
    times = torch.tensor([[0.0, 0.25, 0.7, 1.9]])

    def likeness(shift: float) -> torch.Tensor:
        cosine, sine = time_phases(times.double() + shift, 32, 1 / 24, 4.0)
        return cosine[0] @ cosine[0].T + sine[0] @ sine[0].T

    torch.testing.assert_close(likeness(0.0), likeness(3.3), atol=1e-5, rtol=0)
