"""The reef's networks: small configurations of Stable Diffusion's own classes, and how they are saved.

    pipe = pipeline(new_autoencoder(), new_text_encoder(tokenizer), tokenizer, new_unet())

They load with `StableDiffusionPipeline.from_pretrained`, without this package.
"""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from .. import files
from ..models import StableDiffusionPipeline  # from there, where its import is quiet
from . import paint


def new_autoencoder(smoke: bool = False) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8) if smoke else (16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=paint.SIZE,
        mid_block_add_attention=False,
    )


def new_unet(smoke: bool = False) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=paint.SIZE // 4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(16, 16, 16, 16) if smoke else (32, 64, 96, 128),
        attention_head_dim=2,  # diffusers reads this as the number of heads
        cross_attention_dim=16 if smoke else 128,
        norm_num_groups=2 if smoke else 16,  # one channel a group would hide what the timestep adds
    )


def new_text_encoder(tokenizer, smoke: bool = False) -> CLIPTextModel:
    width = 16 if smoke else 128
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=1 if smoke else 3,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule; no clipping, since latents are not pixels."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def save_half(pipe, folder) -> None:
    """Save a pipeline in fp16, so that loading it without a dtype gives fp32 throughout.

    diffusers then loads its parts in fp32, transformers in the dtype its config names.
    """
    pipe.to(dtype=torch.float16).save_pretrained(folder)
    path = Path(folder) / "text_encoder" / "config.json"
    config = files.read_json(path) | {"dtype": "float32"}
    files.write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def pipeline(vae, text_encoder, tokenizer, unet) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
