"""A first estimate of a large frame: bicubic enlargement corrected by a few convolutions.

Dong et al. 2016 (arXiv:1501.00092) and Shi et al. 2016 (arXiv:1609.05158): convolutions at the
small frame's size, the last of which writes factor x factor pixels for each of its own. Regression
gives the mean of what may be there; what is denoised from it adds what a mean cannot have.

With pocket's width of 48 and three blocks, 1.0 GFLOP for a frame of 64x64 pixels.
"""

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from models.videoldm.layers import zeroed


class Correction(nn.Module):
    """Two 3x3 convolutions whose sum with what came in goes on; silent at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = zeroed(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """x (n, width, h, w) -> same"""
        hidden = functional.silu(self.conv1(functional.silu(x)))
        return x + self.conv2(hidden)


class Enlarger(nn.Module):
    """Frames made `factor` times as large; untrained, by bicubic interpolation."""

    def __init__(self, factor: int, width: int, blocks: int) -> None:
        super().__init__()
        self.factor = factor
        self.inlet = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Correction(width) for _ in range(blocks))
        self.outlet = zeroed(nn.Conv2d(width, 3 * factor**2, 3, padding=1))

    def forward(self, low: Tensor) -> Tensor:
        """Small frames (b, 3, t, H, W) in -1..1 -> large ones, float32."""
        flat = rearrange(low, "b c t h w -> (b t) c h w")
        x = self.inlet(flat.to(self.inlet.weight.dtype))
        for block in self.blocks:
            x = block(x)
        correction = functional.pixel_shuffle(self.outlet(functional.silu(x)), self.factor)
        large = rearrange(correction.float(), "(b t) c h w -> b c t h w", b=len(low))
        return (enlarged(low, self.factor) + large).clamp(-1, 1)


def enlarged(low: Tensor, factor: int) -> Tensor:
    """Frames (b, 3, t, H, W) enlarged by bicubic interpolation."""
    flat = rearrange(low.float(), "b c t h w -> (b t) c h w")
    flat = functional.interpolate(flat, scale_factor=float(factor), mode="bicubic")
    return rearrange(flat, "(b t) c h w -> b c t h w", b=len(low)).clamp(-1, 1)
