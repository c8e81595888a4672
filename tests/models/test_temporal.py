"""Laws of the temporal decoder, on tiny random networks."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.videoldm.autoencoder import Autoencoder
from models.videoldm.layers import Mixer
from models.videoldm.temporal import TemporalDecoder
from tests.models.presets import TINY, stirred
from tests.models.stages import DECODER


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    return stirred(Autoencoder(TINY.autoencoder)).eval().requires_grad_(False)  # type: ignore[return-value]


def decoder(stir: bool = True) -> TemporalDecoder:
    torch.manual_seed(1)
    made = TemporalDecoder(DECODER, TINY.autoencoder).eval().requires_grad_(False)
    return stirred(made) if stir else made  # type: ignore[return-value]


def latents(t: int = 9) -> Tensor:
    return torch.randn(2, 4, t, 4, 4, generator=torch.Generator().manual_seed(2))


def test_untrained_it_is_the_image_decoder(autoencoder: Autoencoder) -> None:
    made = decoder(stir=False)(autoencoder, latents())
    torch.testing.assert_close(made, autoencoder.decode(latents()), atol=1e-6, rtol=0)


def test_mixers_at_one_leave_only_the_last_layer(autoencoder: Autoencoder) -> None:
    stage = decoder()
    for module in stage.modules():
        if isinstance(module, Mixer):
            module.m.fill_(40.0)
    torch.nn.init.zeros_(stage.last.weight)
    torch.nn.init.zeros_(stage.last.bias)
    made = stage(autoencoder, latents())
    torch.testing.assert_close(made, autoencoder.decode(latents()), atol=1e-6, rtol=0)


def test_a_frame_sees_its_neighbours_and_none_beyond_the_radius(autoencoder: Autoencoder) -> None:
    stage = decoder()
    assert stage.radius == 5
    clip = latents(13)
    changed = clip.clone()
    changed[:, :, 0] += 1
    differs = (stage(autoencoder, clip) - stage(autoencoder, changed)).abs().amax((0, 1, 3, 4))
    assert (differs > 0).tolist() == [True] * 6 + [False] * 7


@pytest.mark.parametrize("chunk", [1, 4, 6, 50])
def test_decoding_in_chunks_is_decoding_the_whole(autoencoder: Autoencoder, chunk: int) -> None:
    stage = decoder()
    stage.config = replace(DECODER, chunk=chunk)
    pieces = list(stage.pieces(autoencoder, latents(13)))
    assert [piece.shape[2] for piece in pieces][:-1] == [chunk] * (len(pieces) - 1)
    torch.testing.assert_close(
        torch.cat(pieces, 2), stage(autoencoder, latents(13)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("cut", [1, 3, 7, 13])
def test_latents_that_come_in_pieces_are_decoded_alike(autoencoder: Autoencoder, cut: int) -> None:
    stage = decoder()
    whole = list(stage.pieces(autoencoder, latents(13)))
    given: list[int] = []

    def pieces() -> Iterator[Tensor]:
        for piece in latents(13).split(cut, 2):
            given.append(piece.shape[2])
            yield piece

    made = stage.flow(autoencoder, pieces())
    first = next(made)
    assert sum(given) < DECODER.chunk + stage.radius + cut  # no more is waited for
    flowed = [first, *made]
    assert [piece.shape for piece in flowed] == [piece.shape for piece in whole]
    torch.testing.assert_close(torch.cat(flowed, 2), torch.cat(whole, 2), atol=1e-6, rtol=0)
