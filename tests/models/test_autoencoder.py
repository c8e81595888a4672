"""Laws of the per-frame autoencoder."""

import pytest
import torch

from models.videoldm.autoencoder import Autoencoder
from models.videoldm.config import AutoencoderConfig


def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    config = AutoencoderConfig(latent_mean=(0.1, 0.2, 0.3, 0.4), latent_std=(2.0, 1.0, 0.5, 3.0))
    return Autoencoder(config).eval()


def clip(t: int = 5) -> torch.Tensor:
    return torch.rand(1, 3, t, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_one_frame_encoded_alone_is_that_frame_of_the_clip() -> None:
    model = autoencoder()
    whole = model.encode(clip())
    for index in range(5):
        alone = model.encode(clip()[:, :, index : index + 1])
        torch.testing.assert_close(alone[:, :, 0], whole[:, :, index], atol=1e-5, rtol=0)


@torch.no_grad()
def test_chunked_decoding_equals_whole() -> None:
    model = autoencoder()
    latents = torch.randn(1, 4, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    whole = model.decode(latents)
    parts = torch.cat([model.decode(part) for part in latents.split(2, dim=2)], 2)
    torch.testing.assert_close(whole, parts, atol=1e-5, rtol=0)
    assert whole.shape == (1, 3, 5, 32, 32)


@torch.no_grad()
def test_latents_are_standardised_by_the_configs_statistics() -> None:
    model = autoencoder()
    raw, _ = model.encoder(clip()[:, :, 0])
    expected = (raw - model.mean) / model.std
    torch.testing.assert_close(model.encode(clip())[:, :, 0], expected, atol=1e-5, rtol=0)


def test_sides_off_the_grid_are_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="30x32: sides must be multiples of 4"):
        autoencoder().encode(torch.zeros(1, 3, 1, 32, 30))
