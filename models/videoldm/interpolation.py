"""Temporal interpolation: latents at any times between key frames, the keys themselves unchanged.

Blattmann et al. 2023 (arXiv:2304.08818), section 3.2: a network of the base's class predicts three
frames between two given ones, so T frames become 4 (T - 1) + 1, and a second pass of the same
network makes that 16 (T - 1) + 1. It is told distances in time, so a gap can be filled at other
places than its quarters. No pixel is seen here.

Differs: what is denoised is a frame less the blend of its keys, magnified. Where nothing moves that
is nothing, so an untrained network blends, and training is about what moves.

A pass over g gaps costs g windows of five frames a step. With pocket's widths (64, 128) at 16x16
latents a window takes 1.1 GFLOP: 24 frames a second from 6, two seconds, four steps, 55 GFLOP.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from einops import rearrange, repeat
from torch import Tensor

from models.videoldm.checkpoints import NO_MEMORY, FilmMemory, remembered
from models.videoldm.conditioning import Conditions, Kind, Rate, text_only
from models.videoldm.config import InterpolatorConfig
from models.videoldm.diffusion import (
    denoiser,
    frame_noise,
    held,
    lambda_of,
    uniform_u_grid,
)
from models.videoldm.samplers import OnStep, SamplerState, sample_ddim
from models.videoldm.unet import UNet

LOW_GAP_S = 0.1  # keys farther apart than this are those of the base
GAPS_AT_ONCE = 16  # so that memory does not grow with the film

_MOMENTS_PER_S = 9_600_000  # times are equal when they round to the same moment

Report = Callable[[], None]  # called after every denoising step


@dataclass(frozen=True)
class Window:
    """Two neighbouring keys and the times to fill in between, in seconds."""

    left: float
    right: float
    inner: tuple[float, ...]

    @property
    def times(self) -> tuple[float, ...]:
        """All of them, rising."""
        return (self.left, *self.inner, self.right)


@dataclass(frozen=True)
class Interpolator:
    """A loaded interpolation stage."""

    config: InterpolatorConfig
    unet: UNet


def ignore() -> None:
    """The report nobody reads."""


def dense_times(times: Sequence[float], infill: int = 3) -> tuple[float, ...]:
    """Key times with `infill` evenly spaced times in every gap: T become 4 (T - 1) + 1."""
    filled = [moment(times[0])]
    for left, right in pairwise(times):
        filled += [
            moment(left + (right - left) * part / (infill + 1)) for part in range(1, infill + 2)
        ]
    return tuple(filled)


def plan_passes(
    key_times: Sequence[float], times: Sequence[float], infill: int = 3
) -> tuple[tuple[Window, ...], ...]:
    """The passes that make frames at `times` from frames at `key_times`.

    Times on the quarters or sixteenths of the gaps are always made in those passes, whichever of
    them are asked for, so that a frame is the same in films of 6, 12 and 24 frames a second.

    key_times  seconds, rising
    times      seconds, rising, within the keys
    returns    windows pass by pass; none if all times are keys
    raises     ValueError for a time outside the keys
    """
    keys = tuple(moment(time) for time in key_times)
    wanted = tuple(moment(time) for time in times)
    if wanted and not keys[0] <= wanted[0] <= wanted[-1] <= keys[-1]:
        raise ValueError(f"times {wanted[0]}..{wanted[-1]} s lie outside {keys[0]}..{keys[-1]} s")
    once = dense_times(keys, infill)
    regular = any(set(wanted) <= set(grid) for grid in (once, dense_times(once, infill)))
    passes = []
    while not set(wanted) <= set(keys):
        gaps = [_gap(left, right, wanted) for left, right in pairwise(keys)]
        if regular or max(len(gap.inner) for gap in gaps) > infill:
            gaps = [
                replace(gap, inner=dense_times((gap.left, gap.right), infill)[1:-1])
                for gap in gaps
                if gap.inner
            ]
        windows = tuple(gap for gap in gaps if gap.inner)
        passes.append(windows)
        keys = tuple(sorted({*keys, *(time for window in windows for time in window.inner)}))
    return tuple(passes)


def network_calls(passes: Sequence[Sequence[Window]], steps: int) -> int:
    """How often `interpolated` will report for these passes."""
    return steps * sum(len(_batches(windows)) for windows in passes)


@torch.no_grad()
def interpolated(
    stage: Interpolator,
    keys: Tensor,
    key_times: Sequence[float],
    times: Sequence[float],
    steps: int = 4,
    seed: int = 0,
    report: Report = ignore,
    memory: FilmMemory = NO_MEMORY,
) -> Tensor:
    """Latents at `times`; those that are keys come back as they were given.

    keys       (1, c, k, h, w) latents
    key_times  k seconds, rising
    times      seconds, rising, within the keys
    steps      denoising steps of each pass; 1 gives the mean of what may lie between
    returns    (1, c, len(times), h, w), as keys
    raises     ValueError for a time outside the keys
    """
    passes = plan_passes(key_times, times, stage.config.infill)
    known = {moment(time): keys[0, :, index] for index, time in enumerate(key_times)}
    batches = [batch for windows in passes for batch in _batches(windows)]
    for index, batch in enumerate(batches):
        run = remembered(memory, f"interpolation/{index}", report)
        made = _filled(stage, batch, known, steps, seed, *run)
        for window, latents in zip(batch, made, strict=True):
            known |= dict(zip(window.inner, latents.unbind(1), strict=True))
    return torch.stack([known[moment(time)] for time in times], 1)[None].to(keys)


def window_conditions(times: Tensor, keys: Tensor, config: InterpolatorConfig) -> Conditions:
    """What the network is told of windows: their blend, its ends as keys, and when everything is.

    times  (b, t) seconds
    keys   (b, c, t, h, w) latents, read at the first and last frame only
    """
    b, t = times.shape
    c, h, w = keys.shape[1], *keys.shape[-2:]
    silence = torch.zeros(b, 1, config.unet.text_width, device=times.device)
    told = text_only(silence, silence[..., 0] > 0, times.float(), 1.0, (c, h, w))
    given = torch.zeros(t, device=times.device)
    given[[0, -1]] = 1
    gap = times[:, -1] - times[:, 0]
    return replace(
        told,
        frames=blended(times, keys),
        mask=repeat(given, "t -> b 1 t h w", b=b, h=h, w=w),
        kind=repeat((given * int(Kind.KEY)).long(), "t -> b t", b=b),
        log2_fps=((t - 1) / gap).log2().float(),
        rate=torch.where(gap > LOW_GAP_S, int(Rate.LOW), int(Rate.HIGH)),
    )


def blended(times: Tensor, keys: Tensor) -> Tensor:
    """The linear blend of windows' first and last frames at their times.

    times  (b, t) seconds
    keys   (b, c, t, h, w), read at the first and last frame only; so is the result shaped
    """
    begun, ended = times[:, :1], times[:, -1:]
    share = rearrange((times - begun) / (ended - begun), "b t -> b 1 t 1 1").to(keys)
    return torch.lerp(keys[:, :, :1], keys[:, :, -1:], share)


def residual(times: Tensor, latents: Tensor, config: InterpolatorConfig) -> Tensor:
    """What windows (b, c, t, h, w) have over the blend of their keys, magnified; 0 at the keys."""
    return (latents - blended(times, latents)) * config.residual_gain


def _filled(
    stage: Interpolator,
    windows: Sequence[Window],
    known: dict[float, Tensor],
    steps: int,
    seed: int,
    on_step: OnStep,
    state: SamplerState | None,
) -> Tensor:
    """Inner latents of windows of one length: (b, c, n, h, w)."""
    latents = _with_ends(windows, known)
    times = torch.tensor([window.times for window in windows], dtype=torch.float64)
    dtype = next(stage.unet.parameters()).dtype
    whole = window_conditions(times.to(latents.device), latents, stage.config)
    told, nothing = whole.to(dtype), torch.zeros_like(latents)
    shape = (latents.shape[1], latents.shape[3], latents.shape[4])
    noise = torch.stack([frame_noise(shape, row, seed, stage="interpolation") for row in times])

    def velocity(x: Tensor, sigma: float) -> Tensor:
        log_snr = lambda_of(sigma).float().expand(len(x)).to(x.device)
        return stage.unet(x.to(dtype), log_snr, told).float()

    grid = uniform_u_grid(steps)
    noise = noise.to(latents.device)
    denoise = held(denoiser(velocity), nothing, told.mask)
    made = sample_ddim(denoise, noise, grid, on_step=on_step, state=state)
    return (whole.frames + made / stage.config.residual_gain)[:, :, 1:-1]


def _with_ends(windows: Sequence[Window], known: dict[float, Tensor]) -> Tensor:
    """Windows with their keys in place and nothing between: (b, c, t, h, w) float32."""
    filled = []
    for window in windows:
        left, right = known[window.left].float(), known[window.right].float()
        empty = [torch.zeros_like(left)] * len(window.inner)
        filled.append(torch.stack([left, *empty, right], 1))
    return torch.stack(filled)


def _batches(windows: Sequence[Window]) -> list[list[Window]]:
    """Windows of one length together, some at a time."""
    lengths = sorted({len(window.inner) for window in windows})
    batches = []
    for length in lengths:
        alike = [window for window in windows if len(window.inner) == length]
        batches += [
            alike[start : start + GAPS_AT_ONCE] for start in range(0, len(alike), GAPS_AT_ONCE)
        ]
    return batches


def _gap(left: float, right: float, wanted: Sequence[float]) -> Window:
    return Window(left, right, tuple(time for time in wanted if left < time < right))


def moment(time: float) -> float:
    """The time in seconds as the one float that stands for it, by whatever sum it was found."""
    return round(float(time) * _MOMENTS_PER_S) / _MOMENTS_PER_S
