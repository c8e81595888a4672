"""Laws of the space-time U-Net, on tiny random networks."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.videoldm.conditioning import Conditions, frame_times, text_only
from models.videoldm.config import UNetConfig
from models.videoldm.layers import Mixer
from models.videoldm.unet import UNet
from tests.models.presets import TINY, stirred

CONFIG = TINY.unet
LATENT = (4, 8, 8)


def conditions(b: int = 2, t: int = 4, fps: float = 8.0) -> Conditions:
    generator = torch.Generator().manual_seed(1)
    text = torch.randn(b, 5, CONFIG.text_width, generator=generator)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])[:b]
    return text_only(text, mask, frame_times(t, fps).expand(b, t), fps, LATENT)


def latents(b: int = 2, t: int = 4, seed: int = 2) -> Tensor:
    return torch.randn(b, 4, t, 8, 8, generator=torch.Generator().manual_seed(seed))


def network(config: UNetConfig = CONFIG) -> UNet:
    torch.manual_seed(0)
    unet = UNet(config).eval()
    stirred(unet)
    return unet


def fresh_in_time(unet: UNet) -> UNet:
    """The network with its temporal layers as they are before any video training."""
    torch.manual_seed(0)
    start = UNet(unet.config).state_dict()
    temporal = {id(p) for p in unet.temporal_parameters()}
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if id(parameter) in temporal:
                parameter.copy_(start[name])
    return unet


LAMBDA = torch.tensor([0.5, -3.0])


@torch.no_grad()
def test_untrained_temporal_layers_leave_the_image_model_untouched() -> None:
    unet = fresh_in_time(network())
    video = unet(latents(), LAMBDA, conditions())
    image = unet(latents(), LAMBDA, conditions(), moving=False)
    torch.testing.assert_close(video, image, atol=1e-6, rtol=0)
    assert image.abs().mean() > 1e-3


@torch.no_grad()
def test_mixers_at_one_give_the_image_model() -> None:
    unet = network()
    for module in unet.modules():
        if isinstance(module, Mixer):
            module.m.fill_(40.0)
    video = unet(latents(), LAMBDA, conditions())
    image = unet(latents(), LAMBDA, conditions(), moving=False)
    torch.testing.assert_close(video, image, atol=1e-6, rtol=0)


@torch.no_grad()
def test_trained_temporal_layers_see_other_frames() -> None:
    unet, x = network(), latents()
    changed = x.clone()
    changed[:, :, 3] += 1
    first = unet(x, LAMBDA, conditions())[:, :, 0]
    other = unet(changed, LAMBDA, conditions())[:, :, 0]
    assert (first - other).abs().max() > 1e-5


@torch.no_grad()
def test_the_image_model_sees_one_frame_at_a_time() -> None:
    unet, x = network(), latents()
    told = conditions()
    alone = replace(
        told,
        frames=told.frames[:, :, :1],
        mask=told.mask[:, :, :1],
        kind=told.kind[:, :1],
        frame_sigma=told.frame_sigma[:, :1],
        times=told.times[:, :1],
    )
    whole = unet(x, LAMBDA, told, moving=False)[:, :, :1]
    single = unet(x[:, :, :1], LAMBDA, alone, moving=False)
    torch.testing.assert_close(whole, single, atol=1e-5, rtol=0)


@torch.no_grad()
def test_shifting_all_times_changes_nothing() -> None:
    unet, told = network(), conditions()
    later = replace(told, times=told.times + 2.0)
    here = unet(latents(), LAMBDA, told)
    there = unet(latents(), LAMBDA, later)
    torch.testing.assert_close(here, there, atol=1e-5, rtol=0)


@torch.no_grad()
def test_distances_in_time_matter() -> None:
    unet, told = network(), conditions()
    wider = replace(told, times=told.times * 2)
    difference = unet(latents(), LAMBDA, told) - unet(latents(), LAMBDA, wider)
    assert difference.abs().max() > 1e-6


@torch.no_grad()
def test_padding_of_text_changes_nothing() -> None:
    unet, told = network(), conditions()
    longer = replace(
        told,
        text_s=torch.nn.functional.pad(told.text_s, (0, 0, 0, 3), value=7.0),
        text_t=torch.nn.functional.pad(told.text_t, (0, 0, 0, 3), value=7.0),
        text_mask=torch.nn.functional.pad(told.text_mask, (0, 3)),
    )
    torch.testing.assert_close(
        unet(latents(), LAMBDA, told), unet(latents(), LAMBDA, longer), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_the_null_prompt_is_one_learned_token_whatever_the_words() -> None:
    unet, told = network(), conditions()
    other = replace(told, text_s=told.text_s + 1, text_t=told.text_t + 1)
    one = unet(latents(), LAMBDA, told.without_text())
    two = unet(latents(), LAMBDA, other.without_text())
    assert torch.equal(one, two)
    assert (one - unet(latents(), LAMBDA, told)).abs().max() > 1e-5


@torch.no_grad()
def test_one_clip_does_not_influence_another_of_the_batch() -> None:
    unet, x = network(), latents()
    other = x.clone()
    other[1] += 1
    here, there = unet(x, LAMBDA, conditions()), unet(other, LAMBDA, conditions())
    torch.testing.assert_close(here[0], there[0], atol=1e-6, rtol=0)


def with_references(told: Conditions, pictures: Tensor, used: list[list[bool]]) -> Conditions:
    return replace(told, references=pictures, reference_mask=torch.tensor(used))


@torch.no_grad()
def test_references_in_use_are_read_and_unused_ones_are_not() -> None:
    unet = network()
    pictures = latents(t=2, seed=5)
    both = with_references(conditions(), pictures, [[True, True]] * 2)
    none = with_references(conditions(), pictures, [[False, False]] * 2)
    moved = with_references(conditions(), pictures + 1, [[False, False]] * 2)
    read = unet(latents(), LAMBDA, both)
    unread = unet(latents(), LAMBDA, none)
    assert (read - unread).abs().max() > 1e-5
    assert torch.equal(unread, unet(latents(), LAMBDA, moved))
    plain = unet(latents(), LAMBDA, conditions())
    torch.testing.assert_close(unread, plain, atol=1e-5, rtol=0)


@torch.no_grad()
def test_beyond_the_trained_length_attention_is_a_window() -> None:
    unet = network(replace(CONFIG, trained_frames=4))
    t = 24
    told = conditions(t=t)
    x = latents(t=t)
    unet(x, LAMBDA, told)  # runs at any length
    from models.videoldm.attention import frame_window

    window = frame_window(t, 4, torch.device("cpu"))
    assert window is not None
    assert window[0, 8]
    assert not window[0, 9]
    assert frame_window(4, 4, torch.device("cpu")) is None


@torch.no_grad()
def test_a_given_frame_is_read_through_its_mask() -> None:
    unet, told = network(), conditions()
    given = replace(told, frames=told.frames + 1, mask=told.mask + 1)
    assert (unet(latents(), LAMBDA, told) - unet(latents(), LAMBDA, given)).abs().max() > 1e-5


def test_temporal_parameters_are_all_that_images_do_not_train() -> None:
    unet = network()
    unet(latents(), LAMBDA, conditions(), moving=False).square().mean().backward()
    unused = {n for n, p in unet.named_parameters() if p.grad is None}
    temporal = {id(p) for p in unet.temporal_parameters()}
    assert unused == {
        n for n, p in unet.named_parameters() if id(p) in temporal and not n.startswith("embedder.")
    }


@pytest.mark.parametrize("patch", [1, 2])
def test_both_patch_sizes_keep_the_shape(patch: int) -> None:
    unet = network(replace(CONFIG, patch=patch))
    assert unet(latents(), LAMBDA, conditions()).shape == (2, 4, 4, 8, 8)
