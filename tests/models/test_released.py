"""Released networks by their configs, without weights: as large as published."""

from typing import Any

import diffusers
import pytest
import torch

WAN = {"patch_size": (1, 2, 2), "attention_head_dim": 128, "text_dim": 4096, "freq_dim": 256}
SMALL_WAN = WAN | {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30}
LARGE_WAN = WAN | {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
PICTURED = {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
MIDDLE_WAN = WAN | {"num_attention_heads": 24, "ffn_dim": 14336, "num_layers": 30}
COGVIDEOX = {"text_embed_dim": 4096, "sample_frames": 49}
ROTARY = {"use_rotary_positional_embeddings": True, "num_attention_heads": 48, "num_layers": 42}

# Network, its config, billions of parameters as published: in the model's name, on the page that
# its authors published it with, or in their paper (LTX-2, arXiv:2601.03233: 14 for pictures, 5 for
# sound; HunyuanVideo, arXiv:2412.03603, and FramePack, arXiv:2504.12626: 13). Wan 2.1's 14B with
# pictures has a second set of keys and values that its name does not count, Wan 2.2's has none.
RELEASED: dict[str, tuple[str, dict[str, Any], float]] = {
    "wan-2.1-t2v-1.3b": ("WanTransformer3DModel", SMALL_WAN, 1.4),
    "wan-2.1-t2v-14b": ("WanTransformer3DModel", LARGE_WAN, 14),
    "wan-2.1-i2v-14b": ("WanTransformer3DModel", LARGE_WAN | PICTURED, 16.4),
    "wan-2.2-i2v-a14b": ("WanTransformer3DModel", LARGE_WAN | {"in_channels": 36}, 14),
    "wan-2.2-ti2v-5b": (
        "WanTransformer3DModel",
        MIDDLE_WAN | {"in_channels": 48, "out_channels": 48},
        5,
    ),
    "wan-2.1-vace-1.3b": (
        "WanVACETransformer3DModel",
        SMALL_WAN | {"vace_layers": list(range(0, 30, 2)), "vace_in_channels": 96},
        2.1,
    ),
    "ltx-0.9-2b": ("LTXVideoTransformer3DModel", {}, 1.9),
    "ltx-0.9.7-13b": (
        "LTXVideoTransformer3DModel",
        {"attention_head_dim": 128, "cross_attention_dim": 4096, "num_layers": 48},
        13,
    ),
    "ltx-2": ("LTX2VideoTransformer3DModel", {}, 19),
    "cogvideox-2b": ("CogVideoXTransformer3DModel", COGVIDEOX, 1.7),
    "cogvideox-5b": ("CogVideoXTransformer3DModel", COGVIDEOX | ROTARY, 5.6),
    "cogvideox-5b-i2v": (
        "CogVideoXTransformer3DModel",
        COGVIDEOX | ROTARY | {"in_channels": 32, "use_learned_positional_embeddings": True},
        5.6,
    ),
    "hunyuan-1.0": ("HunyuanVideoTransformer3DModel", {}, 13),
    "framepack": (
        "HunyuanVideoFramepackTransformer3DModel",
        {"has_image_proj": True, "has_clean_x_embedder": True},
        13,
    ),
    "hunyuan-1.5": ("HunyuanVideo15Transformer3DModel", {}, 8.3),
    "svd-xt": (
        "UNetSpatioTemporalConditionModel",
        {"num_attention_heads": (5, 10, 20, 20), "num_frames": 25},
        1.5,
    ),
    "modelscope": ("UNet3DConditionModel", {"attention_head_dim": 64}, 1.4),
    "animatediff-1.5.2": ("MotionAdapter", {"use_motion_mid_block": False}, 0.42),
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_network_is_of_its_published_size(name: str) -> None:
    kind, config, billions = RELEASED[name]
    with torch.device("meta"):
        network = getattr(diffusers, kind)(**config)
    count = sum(weight.numel() for weight in network.parameters()) / 1e9
    assert count == pytest.approx(billions, rel=0.06)
