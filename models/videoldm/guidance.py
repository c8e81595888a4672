"""Guidance: several predictions of one network combined into the one that a sampler follows.

Classifier-free guidance (arXiv:2207.12598) with separate scales for images and text, rescaling
(arXiv:2305.08891), oscillating scale (Imagen Video, arXiv:2210.02303), reconstruction guidance
(VDM, arXiv:2204.03458). A scale of 1 is unguided, 0 the null branch. No dynamic threshold:
latents have no bound.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from einops import rearrange, reduce
from torch import Tensor

from models.videoldm.samplers import Denoise, alpha_at

T = TypeVar("T")
Scale = float | Tensor  # one number, or a tensor that broadcasts over (b, c, t, h, w)


class Branch(NamedTuple):
    """Which guided conditions a prediction sees; a dropped one is replaced by its null.

    First and last frames are no part of it: they stay in every branch. A negative prompt takes
    the place of the null text.
    """

    images: bool  # context or references
    text: bool


NULL = Branch(images=False, text=False)
IMAGES = Branch(images=True, text=False)
FULL = Branch(images=True, text=True)

PredictV = Callable[[Tensor, float, Branch], Tensor]  # (x, sigma, branch) -> v, shaped as x
Velocity = Callable[[Tensor, float], Tensor]  # (x, sigma) -> v


# ---------------------------------------------------------------------------- composition


def branch_weights(text_scale: Scale, image_scale: Scale | None = None) -> dict[Branch, Scale]:
    """The terms of v = (1 - s_c) v_null + (s_c - s_y) v_c + s_y v_cy that are not zero.

    image_scale  s_c of the guided images; None gives s_c = s_y, ordinary joint guidance
    """
    images = text_scale if image_scale is None else image_scale
    terms = {NULL: 1 - images, IMAGES: images - text_scale, FULL: text_scale}
    return {branch: weight for branch, weight in terms.items() if _any_nonzero(weight)}


def guide(
    predict_v: PredictV,
    text_scale: Scale | Callable[[float], Scale],
    image_scale: Scale | Callable[[float], Scale] | None = None,
    rescale: float = 0.0,
) -> Velocity:
    """Guided velocity (x, sigma) -> v, running only the branches with a weight.

    A scale may be a number, a tensor over frames (`frame_scale`) or a function of sigma
    (`at_level`). At scale 1 the one forward is the conditional model, bit for bit.

    rescale  phi in [0, 1], see `rescaled`; 0 is none
    raises   ValueError if rescale is out of range, or asked for where text_scale is 0
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance rescale must lie within 0..1, not {rescale}")

    def velocity(x: Tensor, sigma: float) -> Tensor:
        s_c = None if image_scale is None else _scale_at(image_scale, sigma)
        weights = branch_weights(_scale_at(text_scale, sigma), s_c)
        # In the precision of x: a large scale would magnify what half precision rounds away.
        answers = {branch: predict_v(x, sigma, branch).to(x.dtype) for branch in weights}
        v = composed(answers, weights)
        if rescale == 0 or len(answers) == 1:
            return v
        if FULL not in answers:
            raise ValueError("guidance rescale needs a text scale other than 0")
        return rescaled(v, answers[FULL], rescale)

    return velocity


def composed(answers: dict[Branch, Tensor], weights: dict[Branch, Scale]) -> Tensor:
    """Weighted sum of the branches. The same in v, eps and x0, since the weights sum to 1."""
    if len(answers) == 1:
        return next(iter(answers.values()))  # its weight is 1
    terms = [_scaled(weights[branch], answer) for branch, answer in answers.items()]
    return torch.stack(terms).sum(0)


def rescaled(v: Tensor, v_full: Tensor, phi: float) -> Tensor:
    """v <- phi v std(v_full)/std(v) + (1 - phi) v. From the zero terminal SNR paper.

    Differs: on v, not x0. The standard deviations are per sample over all other axes.
    """
    ratio = _std(v_full) / _std(v).clamp_min(torch.finfo(v.dtype).tiny)
    return phi * (v * ratio) + (1 - phi) * v


def _std(v: Tensor) -> Tensor:
    spread = rearrange(v, "b ... -> b (...)").std(dim=1)
    return rearrange(spread, "b -> b" + " 1" * (v.ndim - 1))


def _scaled(weight: Scale, answer: Tensor) -> Tensor:
    return answer * (weight.to(answer) if isinstance(weight, Tensor) else weight)


def _any_nonzero(weight: Scale) -> bool:
    return bool(weight.any()) if isinstance(weight, Tensor) else weight != 0


def _scale_at(scale: Scale | Callable[[float], Scale], sigma: float) -> Scale:
    return scale(sigma) if callable(scale) and not isinstance(scale, Tensor) else scale


# ---------------------------------------------------------------------------- scales


def oscillating_scale(step: int, steps: int, high: float = 15.0, low: float = 1.0) -> float:
    """High for the first tenth of the steps, then low and high in turn, as in Imagen Video.

    Only for DDIM and ancestral sampling: 2M would mix the estimates of two functions.
    """
    past = step - (steps + 5) // 10
    return high if past < 0 or past % 2 else low


def frame_scale(scale: float, frames: int) -> Tensor:
    """Guidance rising linearly from 1 at frame 0 to `scale` at the last, as in SVD.

    returns  (frames, 1, 1) float32, broadcasts over (b, c, t, h, w)
    """
    return rearrange(torch.linspace(1, scale, frames), "t -> t 1 1")


def at_level(sigmas: Tensor, of_step: Callable[[int], T]) -> Callable[[float], T]:
    """Turn a function of the step into one of sigma, by the place of sigma in the grid.

    sigmas   (n + 1,) float64, the grid that the sampler is given
    raises   ValueError when called with a level that is not on the grid
    """
    steps = {sigma: step for step, sigma in enumerate(sigmas.tolist())}

    def of_level(sigma: float) -> T:
        if sigma not in steps:
            raise ValueError(f"sigma {sigma} is not a level of the grid")
        return of_step(steps[sigma])

    return of_level


# ---------------------------------------------------------------------------- reconstruction


def guide_to_frames(
    denoise: Denoise,
    known: Tensor,
    mask: Tensor,
    weight: float,
    noise: Callable[[float], Tensor],
) -> Denoise:
    """Reconstruction guidance over time: known frames pull the unknown ones. VDM, 3.1.

    x_a is overwritten by a fresh draw of the noised known frames; then
    x0_b <- x0_b - (weight alpha / 2) grad_{x_b} sum (known_a - x0_a)^2 and x0_a <- known_a.
    Training-free: for networks that were not trained on the condition. Weight 0 is replacement.

    known    (b, c, t, h, w)  clean latents, read where mask is 1
    mask     broadcasts to known, 1 at known frames, 0 elsewhere
    noise    sigma -> standard normal shaped as known (see `at_level`)

    The gradient goes through the network: about three forwards in time, and its activations.
    """

    def reconstructed(x: Tensor, sigma: float) -> Tensor:
        given = mask.to(x).bool()
        alpha = alpha_at(sigma)
        x = torch.where(given, alpha * known.to(x) + sigma * noise(sigma).to(x), x)
        x0, gradient = _pulled(denoise, x, sigma, lambda x0: (known.to(x0) - x0) * given)
        return torch.where(given, known.to(x0), x0 - (weight * alpha / 2) * gradient)

    return reconstructed


def guide_to_small(
    denoise: Denoise, known: Tensor, down: Callable[[Tensor], Tensor], weight: float
) -> Denoise:
    """Reconstruction guidance over space: the result must shrink to `known`. VDM, 3.1.

    x0 <- x0 - (weight alpha / 2) grad_x sum (known - down(x0))^2.

    known    what down(x0) should be
    down     differentiable, x0 -> shaped as known
    """

    def reconstructed(x: Tensor, sigma: float) -> Tensor:
        x0, gradient = _pulled(denoise, x, sigma, lambda x0: known.to(x0) - down(x0))
        return x0 - (weight * alpha_at(sigma) / 2) * gradient

    return reconstructed


def _pulled(
    denoise: Denoise, x: Tensor, sigma: float, residual: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(x0, grad_x of the sum of squared residuals), the gradient taken through the network."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        x0 = denoise(leaf, sigma)
        loss = reduce(residual(x0).float() ** 2, "... -> ", "sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    return x0.detach(), gradient
