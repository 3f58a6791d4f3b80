"""What goes in is looked at first: numbers, captions, pictures, pipelines. One line says what is wrong and what to do.

    check_pictures(images, "images")  # floats [B, 3, H, W] in [0, 1], finite, at least one
    check_pipe(pipe)  # a StableDiffusionPipeline as it was loaded, whose U-Net predicts ε

Nothing here changes anything. All raise ValueError.
"""

from collections.abc import Iterable, Mapping, Set
from numbers import Real

import torch

from .ranges import HIGHEST_SEED as HIGHEST_SEED
from .ranges import check_count as check_count
from .ranges import check_list as check_list
from .ranges import check_number as check_number
from .ranges import check_positive as check_positive
from .ranges import check_seed as check_seed
from .ranges import check_seeds as check_seeds

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# The attention processors under which `to_q`, `to_k`, `to_v` are what is computed, and all that is.
PROCESSORS = {"AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor"}
PROCESSORS |= {"AttnProcessorNPU", "XLAFlashAttnProcessor2_0"}
PARTS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
CONDITIONS = ("addition_embed_type", "class_embed_type", "num_class_embeds", "time_cond_proj_dim")
CONDITIONS += ("encoder_hid_dim", "encoder_hid_dim_type", "attention_type")
TEXT_TO_IMAGE = "choose a text-to-image model of the kind of Stable Diffusion 1 or 2"

# ---- captions and pictures ------------------------------------------------------------------------------


def check_captions(prompts) -> list[str]:
    """`prompts`, one caption or several, as a list; the empty caption is one too."""
    if isinstance(prompts, str):
        prompts = [prompts]
    several = hasattr(prompts, "__iter__") and getattr(prompts, "ndim", 1)  # one number, as a tensor, is no list
    if isinstance(prompts, bytes | Mapping | Set) or not several:
        cure = "give a caption, a list of captions, or embeddings [B, L, D]"
        raise ValueError(f"prompts are a {type(prompts).__name__}; {cure}")
    prompts = list(prompts)
    if not prompts:
        raise ValueError("there are no prompts; give at least one")
    for k, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            value = f": {prompt}" if isinstance(prompt, Real) else ""  # NaN is how tables say that one is missing
            raise ValueError(f"caption {k} is a {type(prompt).__name__}, not text{value}; give text, or leave it out")
        if any("\ud800" <= letter <= "\udfff" for letter in prompt):
            raise ValueError(f"caption {k} holds half a character (a lone surrogate), which no file can; remove it")
    return prompts


def check_prompts(prompts):
    """Captions as a list, or embeddings [N, L, D] as they are."""
    if not isinstance(prompts, torch.Tensor):
        return check_captions(prompts)
    if prompts.ndim != 3:
        raise ValueError(f"embeddings have shape {[*prompts.shape]}; give [N, L, D]")
    return prompts


def check_are_targets(targets) -> None:
    """Raise ValueError for what is no list of `evaluation.Target`."""
    strange = [t for t in targets if not is_a(t, "Target")] if isinstance(targets, Iterable) else [targets]
    if strange:
        raise ValueError(f"targets are a list of evaluation.Target; got a {type(strange[0]).__name__}")


def check_targets(targets) -> None:
    """Raise ValueError unless these are one or more targets of different names, with pictures of one size."""
    check_are_targets(targets)
    if not targets:
        raise ValueError("there are no targets; give at least one")
    if len({t.name for t in targets}) < len(targets):
        raise ValueError("two targets have one name; a table needs to tell them apart")
    if len({tuple(t.image.shape) for t in targets}) > 1:
        raise ValueError("targets have pictures of different sizes; resize them to the model's")


def check_finite(values: torch.Tensor, what: str) -> None:
    """Raise ValueError, naming the first that does not fit, unless all `values` [B, ...] are floats and finite."""
    if not values.is_floating_point():
        raise ValueError(f"{what}s must be floats, not {str(values.dtype)[6:]}; convert them with .float()")
    if len(values) and not (finite := values.detach().flatten(1).isfinite().all(1)).all():
        which = (~finite).nonzero()[0].item()
        raise ValueError(f"{what} {which} holds NaN or infinite values; leave it out, or make it anew")


def check_pictures(pictures, what: str = "images", least: int = 1) -> None:
    """Raise ValueError unless `pictures` are `least` or more floats [B, 3, H, W], finite, in [0, 1]."""
    if not isinstance(pictures, torch.Tensor):
        raise ValueError(f"{what} are a {type(pictures).__name__}; give a tensor [B, 3, H, W] with values in [0, 1]")
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures[:1, :1].numel() == pictures.shape[-2:].numel() > 0:
        raise ValueError(f"{what} have shape {[*pictures.shape]}; give one or more pictures [B, 3, H, W]")
    if len(pictures) < least:
        raise ValueError(f"there are {len(pictures)} {what}; give at least {least}")
    if not pictures.is_floating_point():
        raise ValueError(f"{what} must be floats in [0, 1], not {str(pictures.dtype)[6:]}; divide bytes by 255")
    if not (finite := pictures.flatten(1).isfinite().all(1)).all():
        which = (~finite).nonzero()[0].item()
        raise ValueError(f"{what} are not all finite: number {which} holds NaN or infinite values; leave it out")
    if pictures.min() < 0 or pictures.max() > 1:
        low, high = pictures.min().item(), pictures.max().item()
        raise ValueError(f"{what} must be in [0, 1], not [{low:.3g}, {high:.3g}]; rescale or clamp them")


# ---- pipelines ----------------------------------------------------------------------------------------


def check_pipe(pipe) -> None:
    """Raise ValueError unless `pipe` is what all code here takes it for: its names, its layers, what it predicts.

    Refused are another class of pipeline (SDXL, ControlNet, inpainting, a bare U-Net), a part that is missing or of
    another class, what `check_configs` and `check_unet` refuse, weights that are offloaded, missing or quantised, and
    a tokenizer that does not fit. Some milliseconds, and no weight is read.
    """
    if not is_a(pipe, "StableDiffusionPipeline"):
        what = f"a {type(pipe).__name__} is no StableDiffusionPipeline"
        raise ValueError(f"{what}; give a pipeline as dori_lite.load gives it")
    for name in (*PARTS, "tokenizer", "scheduler"):
        if getattr(pipe, name, None) is None:
            raise ValueError(f"this pipeline has no {name}; load it whole, as dori_lite.load does")
    check_unet(pipe.unet)
    for name in ("vae", "text_encoder"):
        check_part(name, getattr(pipe, name))
    text = pipe.text_encoder.config
    check_configs(pipe.unet.config, pipe.vae.config, text, pipe.scheduler.config)
    length, places = pipe.tokenizer.model_max_length, text.max_position_embeddings
    if length > places or len(pipe.tokenizer) > text.vocab_size:
        known = f"{length} of {len(pipe.tokenizer)} tokens, the text encoder {places} of {text.vocab_size}"
        raise ValueError(f"the tokenizer gives up to {known}; load both from one model")


def check_unet(unet, loaded: bool = True) -> None:
    """Raise ValueError unless `unet` is a U-Net of Stable Diffusion's kind whose named weights are what is computed.

    Refused are extra conditions (SDXL, LCM, classes, GLIGEN), fused projections, IP-Adapter and other attention
    processors, LoRA and whatever else wraps or recomputes weights, `torch.compile`, offloading, caching and casting
    hooks, FreeU (which no weight shows), and dropout in training mode; training mode alone computes the same. If it is
    to be `loaded`, also weights that are offloaded, missing or quantised.
    """
    check_part("unet", unet, loaded)
    check_unet_config(unet.config)
    if getattr(unet, "encoder_hid_proj", None) is not None:
        raise ValueError("this U-Net has an IP-Adapter, which also reads pictures; call pipe.unload_ip_adapter()")
    if any(getattr(block, "s1", None) is not None for block in unet.up_blocks):
        raise ValueError("FreeU changes what this U-Net predicts; call pipe.disable_freeu()")


def check_part(part: str, network, loaded: bool = True) -> None:
    """What `check_unet` refuses of the modules of any part ("unet", "vae", "text_encoder") of a pipeline."""
    if hasattr(network, "_orig_mod"):
        raise ValueError(f"the {part} is compiled, which hides its names; set pipe.{part} = pipe.{part}._orig_mod")
    if not is_a(network, kind := PARTS[part]):
        raise ValueError(f"a {type(network).__name__} is no {kind}; give the {part} of a pipeline from dori_lite.load")
    dropout = part == "text_encoder" and network.training and network.config.attention_dropout
    for name, module in network.named_modules():
        own, last = vars(module), name.rpartition(".")[2]
        if "base_layer" in own["_modules"] or last.startswith("lora_"):
            cure = "pipe.unload_lora_weights() (after pipe.fuse_lora() to keep it in the weights)"
            raise ValueError(f"the {part} has LoRA layers beside its weights ({name}); call {cure}")
        if own.get("_compiled_call_impl") is not None:
            raise ValueError(f"the {part} is compiled in place ({name}); load it again and do not compile it")
        hooks = getattr(own.get("_diffusers_hook"), "hooks", None)
        if hooks or own.get("_hf_hook") is not None:
            cure = "call pipe.remove_all_hooks(), or load it again without"
            raise ValueError(f"the {part} is offloaded, cached or cast by hooks ({name}); {cure}")
        if "to_q" in own["_modules"] and hasattr(module, "processor"):
            check_processor(part, type(module.processor).__name__)
        linear = isinstance(module, torch.nn.Linear) or last in ("to_q", "to_k", "to_v") or name.endswith("ff.net.2")
        if linear and (type(module) is not torch.nn.Linear or own["_parameters"].get("weight") is None):
            raise ValueError(f"{name} of the {part} is quantised, or its weight is computed; load it as it is saved")
        if loaded:
            check_weights(own["_parameters"], name, part)
        dropout = dropout or (isinstance(module, torch.nn.Dropout) and module.training and module.p > 0)
    if dropout:
        raise ValueError(f"the {part} is in training mode and drops values at random; call pipe.{part}.eval()")


def check_processor(part: str, kind: str) -> None:
    if kind not in PROCESSORS:
        cures = {"Fused": "pipe.unfuse_qkv_projections()", "IPAdapter": "pipe.unload_ip_adapter()"}
        default = f"pipe.{part}.set_default_attn_processor()"
        cure = next((cure for start, cure in cures.items() if kind.startswith(start)), default)
        what = "fused, so that to_k and to_v do nothing" if kind.startswith("Fused") else f"done by a {kind}"
        raise ValueError(f"the {part}'s attention is {what}; call {cure}")


def check_configs(unet, vae, text, scheduler) -> None:
    """Raise ValueError unless four configurations (anything with attributes) make a model that predicts ε of latents.

    Refused are v- and other predictions, flow matching, a schedule that ends in pure noise (ᾱ_T = 0: there ε says
    nothing of x_0, and DDIM divides by it), what `check_unet_config` refuses, latents that the VAE shifts or scales by
    channel, a U-Net of other channels (inpainting, editing, upscaling), another text width, masked padding.
    """
    if (kind := getattr(scheduler, "prediction_type", "epsilon")) != "epsilon":
        cure = "the losses and the sampler here are for models that predict ε ('epsilon'): choose such a model"
        raise ValueError(f"this model's scheduler says prediction_type={kind!r}; {cure}")
    if not hasattr(scheduler, "beta_start") or getattr(scheduler, "use_flow_sigmas", False):
        raise ValueError(f"this model's scheduler has no β schedule, from which ᾱ comes; {TEXT_TO_IMAGE}")
    if getattr(scheduler, "rescale_betas_zero_snr", False):
        raise ValueError("rescale_betas_zero_snr goes with v-prediction, not with ε; set it to False in the scheduler")
    check_unet_config(unet)
    channels = getattr(vae, "latent_channels", 4)
    if {unet.in_channels, unet.out_channels} != {channels}:
        taken = f"takes {unet.in_channels} channels and gives {unet.out_channels}, the VAE's latents have {channels}"
        raise ValueError(f"the U-Net {taken} (inpainting, editing or upscaling?); {TEXT_TO_IMAGE}")
    for key in ("shift_factor", "latents_mean", "latents_std"):
        if getattr(vae, key, None) is not None:
            raise ValueError(f"the VAE has a {key}, and latents here are only scaled; {TEXT_TO_IMAGE}")
    if (width := text.hidden_size) != (read := unet.cross_attention_dim):
        raise ValueError(f"the text encoder's embeddings are {width} wide and not {read}; load both from one model")
    if getattr(text, "use_attention_mask", False):
        raise ValueError(f"the text encoder masks padding (use_attention_mask), not done here; {TEXT_TO_IMAGE}")


def check_unet_config(config) -> None:
    """Raise ValueError if the U-Net is asked for more than noisy latents, t and a caption."""
    for key in CONDITIONS:
        if (value := getattr(config, key, None)) not in (None, "default"):
            raise ValueError(f"the U-Net has {key}={value!r}: it wants more than a caption; {TEXT_TO_IMAGE}")
    if getattr(config, "sample_size", None) is None:
        raise ValueError("the U-Net does not say how large its latents are; give its config a sample_size")


def check_weights(weights: Mapping, name: str, part: str) -> None:
    """Raise ValueError unless the parameters of the module `name` are plain floats in memory."""
    for weight in filter(torch.is_tensor, weights.values()):
        if weight.is_meta:
            raise ValueError(f"{name} of the {part} is not in memory (offloaded, or no file has it); load it whole")
        if type(weight) is not torch.nn.Parameter or weight.dtype not in FLOATS:
            raise ValueError(f"{name} of the {part} is quantised ({weight.dtype}); load it in fp32, fp16 or bf16")


def check_live(network, found: Mapping) -> None:
    """Raise ValueError if hooks on the modules `found` {name: module} of `network` would not be heeded."""
    if hasattr(network, "_orig_mod"):
        raise ValueError("this network is compiled, which hides its names; give network._orig_mod")
    for name, module in found.items():
        parent, _, last = name.rpartition(".")
        kind = type(getattr(network.get_submodule(parent), "processor", None)).__name__
        if last in ("to_q", "to_k", "to_v") and kind.startswith("Fused"):
            raise ValueError(f"{name} does nothing, its attention is fused; call pipe.unfuse_qkv_projections()")
        if last in ("to_kv", "to_qkv") and not kind.startswith("Fused"):
            raise ValueError(f"{name} does nothing any more, its attention is not fused; name to_k or to_v")
        if vars(module).get("_compiled_call_impl") is not None:
            raise ValueError(f"{name} is compiled in place and may not heed hooks; load it and do not compile it")


def is_a(thing, kind: str) -> bool:
    """Whether a class of `thing` is called so: importing diffusers for `isinstance` takes seconds."""
    return any(known.__name__ == kind for known in type(thing).__mro__)
