"""Tiny checkpoints of open weights in their true layout: saved to disk, every part, tokenizers too.

Random weights: what is proved on them is the way in and out, not what the films show.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

WORDS = ("a red fox walks to the left", "a blue ball rolls over green grass", "rain, blurry, dark")
WIDE = 32  # of every text encoder

Parts = dict[str, Any]


def t5_tokenizer() -> Any:
    """A sentence-piece-like tokenizer trained on a few lines."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    specials = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=64, special_tokens=specials, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    pieces = [(piece, -1.0) for piece in tokenizer.get_vocab() if piece not in specials]
    vocabulary = [*((special, 0.0) for special in specials), *sorted(pieces)]
    return transformers.T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)


def t5(kind: Any, config: Any, vocabulary: int) -> Any:
    """A one-layer text encoder of T5's family."""
    settings = config(
        vocab_size=vocabulary,
        d_model=WIDE,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return kind(settings).eval()


def words(kind: Any = None, config: Any = None) -> Parts:
    """Tokenizer and text encoder of T5's family."""
    tokenizer = t5_tokenizer()
    encoder = t5(
        kind or transformers.T5EncoderModel, config or transformers.T5Config, len(tokenizer)
    )
    return {"tokenizer": tokenizer, "text_encoder": encoder}


def clip_tower(side: int) -> Parts:
    """The image encoder of Wan 2.1, and what prepares pictures for it."""
    settings = transformers.CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=side // 2,
    )
    size = {"height": side, "width": side}
    return {
        "image_encoder": transformers.CLIPVisionModel(settings).eval(),
        "image_processor": transformers.CLIPImageProcessor(size=side, crop_size=size),
    }


def wan(channels: int = 16, wide: bool = False, **denoiser: Any) -> Parts:
    """Wan's parts; `wide` is the 5B's autoencoder."""
    umt5 = words(transformers.UMT5EncoderModel, transformers.UMT5Config)
    more = (
        {
            "z_dim": 16,
            "patch_size": 2,
            "in_channels": 12,
            "out_channels": 12,
            "is_residual": True,
            "scale_factor_spatial": 16,
        }
        if wide
        else {"z_dim": 16}
    )
    return umt5 | {
        "vae": diffusers.AutoencoderKLWan(
            base_dim=3,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
            **more,
        ),
        "scheduler": diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        "transformer": wan_denoiser(channels, **denoiser),
    }


def wan_denoiser(channels: int, **more: Any) -> Any:
    """A one-layer network of Wan's."""
    return diffusers.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        out_channels=16,
        text_dim=WIDE,
        freq_dim=16,
        ffn_dim=32,
        num_layers=1,
        rope_max_seq_len=64,
        **more,
    ).eval()


def wan21() -> Any:
    return diffusers.WanPipeline(**wan())


def wan22() -> Any:
    return diffusers.WanPipeline(**wan(), transformer_2=wan_denoiser(16), boundary_ratio=0.875)


def wan5b() -> Any:
    return diffusers.WanPipeline(**wan(wide=True), expand_timesteps=True)


def wan21_image() -> Any:
    tower = {"image_dim": 16, "added_kv_proj_dim": 24}
    return diffusers.WanImageToVideoPipeline(**wan(36, **tower), **clip_tower(4))


def wan21_frames() -> Any:
    tower = {"image_dim": 16, "added_kv_proj_dim": 24, "pos_embed_seq_len": 2 * (4 + 1)}
    return diffusers.WanImageToVideoPipeline(**wan(36, **tower), **clip_tower(4))


def wan22_image() -> Any:
    return diffusers.WanImageToVideoPipeline(
        **wan(36),
        transformer_2=wan_denoiser(36),
        boundary_ratio=0.9,
        image_encoder=None,
        image_processor=None,
    )


def ltx() -> Any:
    return diffusers.LTXConditionPipeline(
        **words(),
        vae=diffusers.AutoencoderKLLTXVideo(
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, True, False),
            decoder_spatio_temporal_scaling=(True, True, True, False),
            timestep_conditioning=True,
            decoder_causal=False,
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        transformer=diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=1,
            caption_channels=WIDE,
        ),
    )


def cogvideox_parts(channels: int) -> Parts:
    return words() | {
        "vae": diffusers.AutoencoderKLCogVideoX(
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            block_out_channels=(8, 8, 8, 8),
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=2,
            temporal_compression_ratio=4,
            sample_height=32,
            sample_width=32,
        ),
        "scheduler": diffusers.CogVideoXDDIMScheduler(),
        "transformer": diffusers.CogVideoXTransformer3DModel(
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=channels,
            out_channels=4,
            time_embed_dim=2,
            text_embed_dim=WIDE,
            num_layers=1,
            sample_width=4,
            sample_height=4,
            sample_frames=9,
            patch_size=2,
            temporal_compression_ratio=4,
            max_text_seq_length=226,
            use_rotary_positional_embeddings=True,
        ),
    }


def cogvideox() -> Any:
    return diffusers.CogVideoXPipeline(**cogvideox_parts(4))


def cogvideox_image() -> Any:
    return diffusers.CogVideoXImageToVideoPipeline(**cogvideox_parts(8))


WILDS: dict[str, Callable[[], Any]] = {
    "wan-2.1": wan21,
    "wan-2.2-a14b": wan22,
    "wan-2.2-5b": wan5b,
    "wan-2.1-i2v": wan21_image,
    "wan-2.1-flf2v": wan21_frames,
    "wan-2.2-i2v": wan22_image,
    "ltx": ltx,
    "cogvideox": cogvideox,
    "cogvideox-i2v": cogvideox_image,
}


def build(name: str, folder: Path) -> Path:
    """Save a tiny checkpoint; returns its folder."""
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    WILDS[name]().save_pretrained(str(folder), safe_serialization=True)
    return folder
