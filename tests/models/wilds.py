"""Tiny checkpoints of open weights in their true layout: saved to disk, every part, tokenizers too.

Random weights: what is proved on them is the way in and out, not what the films show.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import diffusers
import peft
import torch
import transformers
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video_framepack as framepack
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

WORDS = ("a red fox walks to the left", "a blue ball rolls over green grass", "rain, blurry, dark")
FRAMES = 9  # of every film, but for those that are made in pieces
LENGTHS = {"framepack": 73, "ltx": 17, "ltx-2": 17}
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


def t5(kind: Any, config: Any, vocabulary: int, wide: int = WIDE) -> Any:
    """A one-layer text encoder of T5's family."""
    settings = config(
        vocab_size=vocabulary,
        d_model=wide,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return kind(settings).eval()


def words(kind: Any = None, config: Any = None, wide: int = WIDE) -> Parts:
    """Tokenizer and text encoder of T5's family."""
    tokenizer = t5_tokenizer()
    kind, config = kind or transformers.T5EncoderModel, config or transformers.T5Config
    encoder = t5(kind, config, len(tokenizer), wide)
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
    """A network of Wan's."""
    settings = {
        "patch_size": (1, 2, 2),
        "num_attention_heads": 2,
        "attention_head_dim": 12,
        "in_channels": channels,
        "out_channels": 16,
        "text_dim": WIDE,
        "freq_dim": 16,
        "ffn_dim": 32,
        "num_layers": 2,
        "rope_max_seq_len": 64,
    }
    return diffusers.WanTransformer3DModel(**settings | more).eval()


@dataclass(frozen=True)
class Shape:
    """How large a network of Wan's is."""

    layers: int
    heads: int
    head_width: int
    ffn: int


def denoiser_of(shape: Shape, text_dim: int = WIDE) -> Any:
    """A network of Wan's of a shape, in the default type and on the default device.

    text_dim  numbers of a token of the text encoder
    """
    return wan_denoiser(
        16,
        num_layers=shape.layers,
        num_attention_heads=shape.heads,
        attention_head_dim=shape.head_width,
        ffn_dim=shape.ffn,
        text_dim=text_dim,
        freq_dim=256,
        rope_max_seq_len=1024,
    )


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


def ltx_parts() -> Parts:
    return words() | {
        "vae": diffusers.AutoencoderKLLTXVideo(
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
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "transformer": diffusers.LTXVideoTransformer3DModel(
            in_channels=8,
            out_channels=8,
            num_attention_heads=4,
            attention_head_dim=8,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=WIDE,
        ),
    }


def ltx() -> Any:
    return diffusers.LTXConditionPipeline(**ltx_parts())


def ltx_text() -> Any:
    return diffusers.LTXPipeline(**ltx_parts())


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
            num_layers=2,
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


def vace() -> Any:
    parts = wan()
    parts["transformer"] = diffusers.WanVACETransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=WIDE,
        freq_dim=16,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=64,
        vace_layers=[0],
        vace_in_channels=2 * 16 + 8 * 8,
    ).eval()
    return diffusers.WanVACEPipeline(**parts)


def svd() -> Any:
    tower = transformers.CLIPVisionConfig(
        hidden_size=16,
        projection_dim=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=224,
        patch_size=112,
    )
    wide = (32, 64)  # norms of 32 groups cannot be had smaller
    return diffusers.StableVideoDiffusionPipeline(
        unet=diffusers.UNetSpatioTemporalConditionModel(
            block_out_channels=wide,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
            cross_attention_dim=16,
            num_attention_heads=2,
            projection_class_embeddings_input_dim=24,
            addition_time_embed_dim=8,
            num_frames=FRAMES,
            transformer_layers_per_block=1,
        ).eval(),
        vae=diffusers.AutoencoderKLTemporalDecoder(
            block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4
        ).eval(),
        scheduler=diffusers.EulerDiscreteScheduler(
            prediction_type="v_prediction", timestep_type="continuous", use_karras_sigmas=True
        ),
        image_encoder=transformers.CLIPVisionModelWithProjection(tower).eval(),
        feature_extractor=transformers.CLIPImageProcessor(size={"shortest_edge": 224}),
    )


CHAT = "{% for m in messages %}{{ m.content }} {% endfor %}"


def qwen_words() -> Parts:
    """Qwen's tokenizer, letter by letter, and a text encoder of two layers, the last of which is
    never asked."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: at for at, piece in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = transformers.Qwen2TokenizerFast(vocab=vocabulary, merges=[])
    tokenizer.chat_template = CHAT
    settings = transformers.Qwen2_5_VLTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDE,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=0,
        eos_token_id=len(alphabet),
        rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": transformers.Qwen2_5_VLTextModel(settings).eval(),
    }


def hunyuan_parts(task: str) -> Parts:
    letters = transformers.ByT5Tokenizer()
    return qwen_words() | {
        "tokenizer_2": letters,
        "text_encoder_2": t5(transformers.T5EncoderModel, transformers.T5Config, len(letters)),
        "guider": diffusers.ClassifierFreeGuidance(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0),
        "vae": diffusers.AutoencoderKLHunyuanVideo15(
            latent_channels=4, block_out_channels=(16, 16, 16, 16, 16), layers_per_block=1
        ).eval(),
        "transformer": diffusers.HunyuanVideo15Transformer3DModel(
            in_channels=9,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=WIDE,
            text_embed_2_dim=WIDE,
            image_embed_dim=16,
            rope_axes_dim=(4, 6, 6),
            target_size=32,
            task_type=task,
        ).eval(),
    }


def hunyuan() -> Any:
    return diffusers.HunyuanVideo15Pipeline(**hunyuan_parts("t2v"))


def siglip_tower() -> Parts:
    """The image encoder of Hunyuan's, and what prepares pictures for it."""
    tower = transformers.SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    side = {"height": 8, "width": 8}
    return {
        "image_encoder": transformers.SiglipVisionModel(tower).eval(),
        "feature_extractor": transformers.SiglipImageProcessor(size=side),
    }


def hunyuan_image() -> Any:
    return diffusers.HunyuanVideo15ImageToVideoPipeline(**hunyuan_parts("i2v"), **siglip_tower())


def clip_words() -> Parts:
    """CLIP's tokenizer, letter by letter, and its text encoder."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    specials = ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: at for at, piece in enumerate([*pieces, *specials])}
    tokenizer = transformers.CLIPTokenizerFast(vocab=vocabulary, merges=[], model_max_length=77)
    settings = transformers.CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDE,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=len(pieces),
        eos_token_id=len(pieces) + 1,
        pad_token_id=len(pieces) + 1,
    )
    return {"tokenizer": tokenizer, "text_encoder": transformers.CLIPTextModel(settings).eval()}


def spelled(kind: Any, specials: tuple[str, ...], **named: Any) -> Any:
    """A tokenizer of byte pairs, trained on a few lines and on what Hunyuan puts before prompts."""
    template = framepack.DEFAULT_PROMPT_TEMPLATE["template"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(specials), show_progress=False
    )
    tokenizer.train_from_iterator([template] * 9 + list(WORDS), trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    return kind(vocab=learnt["vocab"], merges=merges, **named)


def llama_words() -> Parts:
    """What HunyuanVideo and FramePack read words with: Llama, and CLIP beside it."""
    tokenizer = spelled(transformers.LlamaTokenizerFast, ("<unk>", "<s>", "</s>", "<pad>"))
    tokenizer.pad_token = "<pad>"
    settings = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDE,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        pad_token_id=3,
    )
    clip = clip_words()
    return {
        "tokenizer": tokenizer,
        "text_encoder": transformers.LlamaModel(settings).eval(),
        "tokenizer_2": clip["tokenizer"],
        "text_encoder_2": clip["text_encoder"],
    }


def old_hunyuan_parts(kind: Any, **denoiser: Any) -> Parts:
    return llama_words() | {
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        "vae": diffusers.AutoencoderKLHunyuanVideo(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        ).eval(),
        "transformer": kind(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            num_single_layers=1,
            num_refiner_layers=1,
            mlp_ratio=2.0,
            text_embed_dim=WIDE,
            pooled_projection_dim=WIDE,
            rope_axes_dim=(4, 6, 6),
            guidance_embeds=True,
            **denoiser,
        ).eval(),
    }


def old_hunyuan() -> Any:
    return diffusers.HunyuanVideoPipeline(
        **old_hunyuan_parts(diffusers.HunyuanVideoTransformer3DModel)
    )


def hunyuan_framepack() -> Any:
    network = diffusers.HunyuanVideoFramepackTransformer3DModel
    named = {"has_image_proj": True, "image_proj_dim": 16, "has_clean_x_embedder": True}
    return diffusers.HunyuanVideoFramepackPipeline(
        **old_hunyuan_parts(network, **named), **siglip_tower()
    )


def gemma_words() -> Parts:
    """What LTX-2 reads words with: every layer of Gemma."""
    specials = ("<pad>", "<eos>", "<bos>", "<unk>", "<image_soft_token>")
    tokenizer = spelled(transformers.GemmaTokenizerFast, specials, model_max_length=1024)
    eye = {
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 8,
        "patch_size": 4,
    }
    words = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 64,
    }
    settings = transformers.Gemma3Config(
        text_config=words, vision_config=eye, mm_tokens_per_image=4, image_token_index=4
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": transformers.Gemma3ForConditionalGeneration(settings).eval(),
    }


def ltx2() -> Any:
    sound = {"audio_num_attention_heads": 2, "audio_attention_head_dim": 8}
    return diffusers.LTX2Pipeline(  # as the released index names it
        **gemma_words(),
        connectors=LTX2TextConnectors(
            caption_channels=16,
            text_proj_in_factor=2,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=8,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=8,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=8,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=8,
            rope_type="split",
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        vae=diffusers.AutoencoderKLLTX2Video(
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 16, 32),  # each level halves them
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
            spatial_compression_ratio=32,
            temporal_compression_ratio=8,
        ).eval(),
        audio_vae=diffusers.AutoencoderKLLTX2Audio(
            base_channels=8,  # latent channels times bands
            ch_mult=(1,),
            num_res_blocks=1,
            latent_channels=2,
            mel_bins=16,
        ).eval(),
        vocoder=LTX2Vocoder(
            in_channels=32,
            hidden_channels=16,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1]],
        ).eval(),
        transformer=diffusers.LTX2VideoTransformer3DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            audio_in_channels=8,
            audio_out_channels=8,
            audio_cross_attention_dim=16,
            num_layers=2,
            caption_channels=16,
            rope_type="split",
            **sound,
        ).eval(),
    )


def image_autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    ).eval()


def image_network() -> Any:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDE,
        norm_num_groups=4,
        attention_head_dim=2,
    ).eval()


def animatediff(**more: Any) -> Any:
    motion = {"motion_num_attention_heads": 2, "motion_max_seq_length": 12}
    return diffusers.AnimateDiffPipeline(
        **clip_words(),
        unet=image_network(),
        motion_adapter=diffusers.MotionAdapter(
            block_out_channels=(8, 16),
            motion_layers_per_block=1,
            motion_norm_num_groups=4,
            **motion,
        ).eval(),
        vae=image_autoencoder(),
        scheduler=diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False),
        **more,
    )


def animatediff_subject() -> Any:
    """With the image tower that an IP-Adapter's pictures go through."""
    tower = transformers.CLIPVisionConfig(
        hidden_size=16,
        projection_dim=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    side = {"height": 8, "width": 8}
    return animatediff(
        image_encoder=transformers.CLIPVisionModelWithProjection(tower).eval(),
        feature_extractor=transformers.CLIPImageProcessor(size=8, crop_size=side),
    )


def save_subject_adapter(pipe: Any, folder: Path) -> None:
    """An IP-Adapter of random numbers, named as those that are published."""
    layers = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    layers = [name for name in layers if "motion_modules" not in name]
    numbers = torch.Generator().manual_seed(1)
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * WIDE, 16, generator=numbers),
        "image_proj.proj.bias": torch.zeros(4 * WIDE),
        "image_proj.norm.weight": torch.ones(WIDE),
        "image_proj.norm.bias": torch.zeros(WIDE),
    }
    for at, layer in enumerate(layers):
        wide = pipe.unet.get_submodule(layer.removesuffix(".processor")).to_q.out_features
        for name in ("to_k_ip", "to_v_ip"):
            matrix = torch.randn(wide, WIDE, generator=numbers)
            tensors[f"ip_adapter.{2 * at + 1}.{name}.weight"] = matrix
    (folder / "ip_adapter").mkdir()
    save_file(tensors, folder / "ip_adapter" / "subject.safetensors")


def modelscope() -> Any:
    return diffusers.TextToVideoSDPipeline(
        **clip_words(),
        unet=diffusers.UNet3DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
            up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
            cross_attention_dim=WIDE,
            attention_head_dim=2,
            norm_num_groups=4,
        ).eval(),
        vae=image_autoencoder(),
        scheduler=diffusers.DDIMScheduler(clip_sample=False),
    )


WILDS: dict[str, Callable[[], Any]] = {
    "wan-2.1": wan21,
    "wan-2.2-a14b": wan22,
    "wan-2.2-5b": wan5b,
    "wan-2.1-i2v": wan21_image,
    "wan-2.1-flf2v": wan21_frames,
    "wan-2.2-i2v": wan22_image,
    "ltx": ltx,
    "ltx-t2v": ltx_text,
    "cogvideox": cogvideox,
    "cogvideox-i2v": cogvideox_image,
    "wan-vace": vace,
    "hunyuan-1.5": hunyuan,
    "hunyuan-1.5-i2v": hunyuan_image,
    "hunyuan": old_hunyuan,
    "framepack": hunyuan_framepack,
    "ltx-2": ltx2,
    "svd": svd,
    "animatediff": animatediff,
    "animatediff-subject": animatediff_subject,
    "modelscope": modelscope,
}


def build(name: str, folder: Path) -> Path:
    """Save a tiny checkpoint; returns its folder. Beside it lies a LoRA for it, `rex.safetensors`,
    if its pipeline takes one."""
    torch.manual_seed(0)
    pipe = WILDS[name]()
    save(pipe, folder)
    if name == "animatediff-subject":
        save_subject_adapter(pipe, folder)
    if hasattr(pipe, "save_lora_weights"):
        save_lora(pipe, folder.parent)
    return folder


def save(pipe: Any, folder: Path) -> None:
    """Save all parts of a pipeline in diffusers' layout."""
    transformers.utils.logging.disable_progress_bar()
    pipe.save_pretrained(str(folder), safe_serialization=True)


def save_lora(pipe: Any, folder: Path) -> None:
    """Save a LoRA of random numbers, as training scripts do."""
    kind = "transformer" if hasattr(pipe, "transformer") else "unet"
    network = getattr(pipe, kind)
    if not hasattr(network, "add_adapter"):
        return
    network.add_adapter(
        peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    )
    layers = {f"{kind}_lora_layers": peft.get_peft_model_state_dict(network)}
    pipe.save_lora_weights(str(folder), weight_name="rex.safetensors", **layers)
