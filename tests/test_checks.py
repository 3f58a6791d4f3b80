"""Checks of what goes in: numbers, captions, pictures, and pipelines that are not what the code takes them for."""

import copy
import inspect
import re
from collections import OrderedDict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, StableDiffusionImg2ImgPipeline
from diffusers.models.attention_processor import AttnProcessor2_0, IPAdapterAttnProcessor2_0, SlicedAttnProcessor
from torch.nn.utils import prune

from dori_lite import checks, detection, diffusion, dori, evaluation, hooks, masks, models, nemo, wanda
from dori_lite.checks import (
    check_captions,
    check_count,
    check_number,
    check_pictures,
    check_pipe,
    check_positive,
    check_seed,
    check_seeds,
)

CAPTIONS = ["a red fish over sand", "a large fish at dusk"]
ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn2"
NAN = float("nan")


# ---- numbers, captions, pictures ------------------------------------------------------------------------


def test_counts_numbers_and_seeds(one_line):
    for value in (1, 5, np.int64(3), np.uint8(5)):
        assert type(check_count("n", value, 1, 5)) is int and check_count("n", value) == value
    for value in (0, 6, -1, 1.0, 1.5, True, NAN, "3", None, [1], torch.tensor(3)):
        one_line(
            ValueError,
            "^n=.* is not a count that fits; give a whole number from 1 to 5$",
            check_count,
            "n",
            value,
            1,
            5,
        )
    one_line(ValueError, "a whole number from 2 on$", check_count, "n", 1, 2)
    for value in (0, 1.5, np.float32(0.5), np.int64(1)):
        assert type(check_number("x", value)) is float and check_number("x", value, 0, 2) == value
    for value in (NAN, float("inf"), -float("inf"), True, "1", None, 1j, 3, -1):
        one_line(
            ValueError,
            "^x=.* does not fit; give a finite number, at least 0, at most 2$",
            check_number,
            "x",
            value,
            0,
            2,
        )
    assert check_positive("x", 1e-9) == 1e-9
    for value in (0, -1.0):
        one_line(ValueError, "^x must be above 0; got x=", check_positive, "x", value)
    for value in (0, 2**64 - 1, np.int64(7)):
        torch.Generator().manual_seed(check_seed(value)), np.random.default_rng(check_seed(value))
    for value in (2**64, -1, 1.5, True, NAN, "1", None):
        one_line(
            ValueError, "seed=.* is not a count that fits; give a whole number from 0 to 1844674", check_seed, value
        )
        one_line(ValueError, "seed", check_seeds, [0, value])
    for seeds in ([0, 3], (0, 3), range(0, 4, 3), iter([0, 3]), np.array([0, 3]), torch.tensor([0, 3])):
        assert check_seeds(seeds) == [0, 3]
    one_line(ValueError, r"seeds must be a list; for the first 4 seeds give range\(4\)$", check_seeds, 4)
    for seeds in (1.5, NAN, None, True, "12", b"1", {1: 2}):
        one_line(ValueError, "must be a list; give whole numbers, such as", check_seeds, seeds)
    one_line(ValueError, "there are no seeds; give at least one", check_seeds, [])


def test_captions(pipe, one_line):
    for prompts in (CAPTIONS, tuple(CAPTIONS), iter(CAPTIONS), np.array(CAPTIONS)):
        assert check_captions(prompts) == CAPTIONS
    assert check_captions("") == [""] and check_captions("é 中文 🐟") == ["é 中文 🐟"]
    for prompts in (3, None, NAN, b"a fish", {"a": 1}, {"a fish"}, True):
        match = r"^prompts are a \w+; give a caption, a list of captions, or embeddings \[B, L, D\]$"
        one_line(ValueError, match, check_captions, prompts)
    one_line(ValueError, "there are no prompts; give at least one", check_captions, [])
    bad = {"a float, not text: nan": NAN, "a int, not text: 3": 3, "a NoneType, not text": None, "a list, not": ["a"]}
    for said, value in (bad | {"a bytes, not": b"a", "a Tensor, not": torch.ones(2, 2)}).items():
        for function in (models.embed, models.conditions, diffusion.generate, nemo.statistics):
            one_line(ValueError, f"caption 2 is {said}", function, pipe, [*CAPTIONS, value])
    one_line(ValueError, "caption 1 holds half a character", check_captions, ["a", "\ud83d"])
    one_line(ValueError, "caption 1 is empty", nemo.activations, pipe, [CAPTIONS[0], " "], batch=1)


def test_embeddings_are_named_by_their_place(pipe, one_line):
    y = models.embed(pipe, [*CAPTIONS, *CAPTIONS])
    for value in (torch.nan, torch.inf):
        for function in (models.embed, models.conditions, diffusion.generate, nemo.statistics, wanda.localise):
            bad = y.index_fill(0, torch.tensor(3), value)
            one_line(ValueError, "embedding 3 holds NaN or infinite values; leave it out", function, pipe, bad)
    one_line(ValueError, "embeddings must be floats, not int64", models.embed, pipe, y.long())
    one_line(ValueError, "there are no prompts", models.embed, pipe, y[:0])


def test_pictures(one_line):
    x = torch.rand(4, 3, 8, 8)
    check_pictures(x)
    check_pictures(x.half(), least=4)
    bad = {r"shape \[3, 8, 8\]": x[0], r"shape \[0, 3, 8, 8\]": x[:0], "a list": x.tolist(), "divide bytes": x.byte()}
    bad |= {
        "number 2 holds NaN": x.index_fill(0, torch.tensor(2), torch.nan),
        r"not \[.*, 2\]": x.index_fill(0, torch.tensor(1), 2),
    }
    for match, pictures in bad.items():
        one_line(ValueError, match, check_pictures, pictures)
    one_line(ValueError, "there are 4 images; give at least 5", check_pictures, x, least=5)


# ---- pipelines that are not what they seem -----------------------------------------------------------------


def part(pipe, name, **config):
    """`pipe` with a part whose configuration says something else."""
    setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
    getattr(pipe, name).register_to_config(**config)
    return pipe


def scheduler(pipe, **config):
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **config)
    return pipe


def without(pipe, name):
    setattr(pipe, name, None)
    return pipe


def own(pipe, change, name="unet"):
    """`pipe` with a part of its own that `change` has changed."""
    setattr(pipe, name, copy.deepcopy(getattr(pipe, name)))
    change(getattr(pipe, name))
    return pipe


class Adapted(torch.nn.Module):
    """As an adapter's layer stands in a network: the plain one is below it, under another name."""

    def __init__(self, layer):
        super().__init__()
        self.base_layer, self.lora_A = layer, torch.nn.Linear(layer.in_features, 1, bias=False)
        self.weight = layer.weight

    def forward(self, x):
        return self.base_layer(x)


class Other(torch.nn.Linear):
    """As a quantised layer is: another class, used like the plain one."""


def adapted(network, place=f"{ATTENTION}.to_v"):
    parent, _, name = place.rpartition(".")
    setattr(network.get_submodule(parent), name, Adapted(network.get_submodule(place)))


def offloaded(network):
    network.mid_block._hf_hook = object()


def cached(network):
    network.mid_block._diffusers_hook = type("Registry", (), {"hooks": {"layerwise_casting": 1}})()


def processors(kind):
    return lambda unet: unet.set_attn_processor(kind)


def elsewhere(network):
    network.conv_in.to("meta")


def dropping(network):
    network.train()
    next(m for m in network.modules() if isinstance(m, torch.nn.Dropout)).p = 0.1


class Foreign:
    def __call__(self, attn, x, *args, **options):
        return x


NO_CAPTION = "it wants more than a caption; choose a text-to-image model"
LOAD = "give a pipeline as dori_lite.load gives it"
BAD = {  # what is done to a pipeline, and what is said of it, the cure with it
    "v-prediction": (lambda p: scheduler(p, prediction_type="v_prediction"), "'v_prediction'.*choose such a model"),
    "sample": (lambda p: scheduler(p, prediction_type="sample"), "prediction_type='sample'.*choose such a model"),
    "zero SNR": (lambda p: scheduler(p, rescale_betas_zero_snr=True), "rescale_betas_zero_snr .*; set it to False"),
    "flow": (
        lambda p: setattr(p, "scheduler", FlowMatchEulerDiscreteScheduler()) or p,
        "no β schedule.*; choose a text-to-image",
    ),
    "fused": (lambda p: own(p, lambda u: u.fuse_qkv_projections()), r"fused, .*; call pipe.unfuse_qkv_projections\(\)"),
    "fused VAE": (lambda p: own(p, with_attention, "vae"), r"vae's attention is fused.*unfuse_qkv_projections\(\)"),
    "IP-Adapter": (
        lambda p: own(p, processors(IPAdapterAttnProcessor2_0(16, 16))),
        r"IPAdapter.*; call pipe.unload_ip_adapter\(\)",
    ),
    "image projection": (
        lambda p: own(p, lambda u: setattr(u, "encoder_hid_proj", torch.nn.Linear(2, 2))),
        r"call pipe.unload_ip_adapter\(\)",
    ),
    "processor": (lambda p: own(p, processors(Foreign())), r"by a Foreign; .*unet.set_default_attn_processor\(\)"),
    "LoRA": (lambda p: own(p, adapted), rf"{ATTENTION}.to_v\); call pipe.unload_lora_weights\(\)"),
    "LoRA in text": (
        lambda p: own(p, lambda t: adapted(t, first_linear(t)), "text_encoder"),
        r"the text_encoder has LoRA .*; call pipe.unload_lora_weights\(\)",
    ),
    "compiled": (
        lambda p: setattr(p, "unet", torch.compile(p.unet, backend="eager")) or p,
        "set pipe.unet = pipe.unet._orig_mod",
    ),
    "compiled in place": (lambda p: own(p, lambda u: u.compile(backend="eager")), "again and do not compile it"),
    "a block compiled": (
        lambda p: own(p, lambda u: u.mid_block.compile(backend="eager")),
        r"\(mid_block\); load it again and do not compile",
    ),
    "compiled VAE": (
        lambda p: setattr(p, "vae", torch.compile(p.vae, backend="eager")) or p,
        "set pipe.vae = pipe.vae._orig_mod",
    ),
    "parallel": (lambda p: setattr(p, "unet", torch.nn.DataParallel(p.unet)) or p, "DataParallel.*from dori_lite.load"),
    "offloaded": (lambda p: own(p, offloaded), r"call pipe.remove_all_hooks\(\), or load it again"),
    "cached": (lambda p: own(p, cached), r"call pipe.remove_all_hooks\(\), or load it again"),
    "FreeU": (lambda p: own(p, lambda u: u.enable_freeu(0.9, 0.2, 1.2, 1.4)), r"call pipe.disable_freeu\(\)"),
    "meta": (lambda p: own(p, elsewhere), "conv_in of the unet is not in memory.*; load it whole"),
    "meta text": (lambda p: own(p, lambda t: t.to("meta"), "text_encoder"), "text_encoder is not in memory.*; load it"),
    "bytes": (lambda p: own(p, lambda u: u.to(torch.float8_e4m3fn)), "quantised .*; load it in fp32, fp16 or bf16"),
    "quantised class": (
        lambda p: own(p, lambda u: setattr(u.get_submodule(ATTENTION), "to_v", Other(16, 16))),
        "to_v of the unet is quantised, or its weight is computed; load it as it is saved",
    ),
    "weight norm": (
        lambda p: own(p, lambda u: torch.nn.utils.parametrizations.weight_norm(u.get_submodule(f"{ATTENTION}.to_v"))),
        "its weight is computed; load it as it is saved",
    ),
    "torch's pruning": (
        lambda p: own(p, lambda u: prune.identity(u.get_submodule(f"{ATTENTION}.to_v"), "weight")),
        "its weight is computed; load it as it is saved",
    ),
    "dropout": (lambda p: own(p, dropping), r"drops values at random; call pipe.unet.eval\(\)"),
    "SDXL": (lambda p: part(p, "unet", addition_embed_type="text_time"), f"'text_time': {NO_CAPTION}"),
    "classes": (lambda p: part(p, "unet", class_embed_type="timestep"), f"class_embed_type='timestep': {NO_CAPTION}"),
    "LCM": (lambda p: part(p, "unet", time_cond_proj_dim=256), f"time_cond_proj_dim=256: {NO_CAPTION}"),
    "image conditions": (lambda p: part(p, "unet", encoder_hid_dim_type="image_proj"), f"'image_proj': {NO_CAPTION}"),
    "GLIGEN": (lambda p: part(p, "unet", attention_type="gated"), f"attention_type='gated': {NO_CAPTION}"),
    "inpainting": (lambda p: part(p, "unet", in_channels=9), "takes 9 channels .*; choose a text-to-image model"),
    "variance": (lambda p: part(p, "unet", out_channels=8), "gives 8, .*; choose a text-to-image model"),
    "no size": (lambda p: part(p, "unet", sample_size=None), "give its config a sample_size"),
    "text width": (lambda p: part(p, "unet", cross_attention_dim=32), "16 wide and not 32; load both from one model"),
    "shift": (lambda p: part(p, "vae", shift_factor=0.1), "the VAE has a shift_factor.*; choose a text-to-image"),
    "means": (lambda p: part(p, "vae", latents_mean=[0.0] * 4), "the VAE has a latents_mean.*; choose a text-to-image"),
    "masked padding": (
        lambda p: own(p, lambda t: setattr(t.config, "use_attention_mask", True), "text_encoder"),
        "use_attention_mask.*; choose a text-to-image",
    ),
    "tokens": (lambda p: own(p, lambda t: t.add_tokens(["<x>"]), "tokenizer"), "tokens.*; load both from one model"),
    "positions": (
        lambda p: own(p, lambda t: setattr(t, "model_max_length", 10**30), "tokenizer"),
        "the text encoder 28 .*; load both from one model",
    ),
    **{f"no {name}": (lambda p, name=name: without(p, name), f"has no {name}; load it whole") for name in (
        "unet", "vae", "text_encoder", "tokenizer", "scheduler")},
    "a U-Net": (lambda p: p.unet, f"a UNet2DConditionModel is no StableDiffusionPipeline; {LOAD}"),
    "a name": (lambda p: "reef/twin-a", f"a str is no StableDiffusionPipeline; {LOAD}"),
    "nothing": (lambda p: None, f"a NoneType is no StableDiffusionPipeline; {LOAD}"),
    "another pipeline": (
        lambda p: StableDiffusionImg2ImgPipeline(**p.components, requires_safety_checker=False),
        f"a StableDiffusionImg2ImgPipeline is no StableDiffusionPipeline; {LOAD}",
    ),
}  # fmt: skip


def with_attention(vae):
    """The reef's autoencoder has no attention, Stable Diffusion's has."""
    attention = torch.nn.Module()
    attention.to_q, attention.processor = torch.nn.Linear(2, 2), type("FusedAttnProcessor2_0", (), {})()
    vae.attention = attention


def first_linear(network):
    return next(name for name, module in network.named_modules() if isinstance(module, torch.nn.Linear))


@pytest.fixture(scope="module")
def bad(pipe):
    """`bad(name)`: the pipeline with which this was done, made once."""
    return cache(lambda name: BAD[name][0](copy.copy(pipe)))


@pytest.fixture(scope="module")
def known(pipe):
    """What public functions are given beside the pipeline."""
    given = {
        "y": models.embed(pipe, CAPTIONS),
        "x": diffusion.initial_noise(pipe, [0, 1]),
        "images": torch.rand(1, 3, 64, 64),
    }
    given |= {
        "statistics": nemo.statistics(pipe, CAPTIONS),
        "mask": masks.of_neurons(pipe.unet, {f"{ATTENTION}.to_v": [0]}),
    }
    given["triggers"] = dori.Triggers(given["y"], given["y"], torch.zeros(2, 1), {})
    return given


FEW = {"seeds": [0, 1], "steps": 2}
TARGET = evaluation.Target("x", CAPTIONS[0], torch.rand(3, 64, 64))
PUBLIC = {  # every function that takes a pipeline
    "check_pipe": lambda p, k: check_pipe(p),
    "embed": lambda p, k: models.embed(p, CAPTIONS),
    "embed embeddings": lambda p, k: models.embed(p, k["y"]),
    "conditions": lambda p, k: models.conditions(p, CAPTIONS),
    "fingerprint": lambda p, k: models.fingerprint(p),
    "check_same_model": lambda p, k: models.check_same_model(p, None, "these were", False),
    "encode": lambda p, k: models.encode(p, k["images"]),
    "decode": lambda p, k: models.decode(p, k["x"]),
    "latent_shape": lambda p, k: models.latent_shape(p),
    "check_latents": lambda p, k: models.check_latents(p, k["x"]),
    "check_images": lambda p, k: models.check_images(p, k["images"]),
    "alphas_cumprod": lambda p, k: diffusion.alphas_cumprod(p),
    "initial_noise": lambda p, k: diffusion.initial_noise(p, [0]),
    "trajectory": lambda p, k: next(diffusion.trajectory(p, k["x"], k["y"], steps=2)),
    "unguided trajectory": lambda p, k: next(diffusion.trajectory(p, k["x"], k["y"], steps=2, guidance=1)),
    "generate": lambda p, k: diffusion.generate(p, CAPTIONS, steps=1),
    "pruned": lambda p, k: masks.pruned(p, k["mask"]).__enter__(),
    "pruned by nothing": lambda p, k: masks.pruned(p, None).__enter__(),
    "magnitude": lambda p, k: detection.magnitude(p, CAPTIONS, **FEW, first=1),
    "token_attribution": lambda p, k: detection.token_attribution(p, CAPTIONS[0], **FEW),
    "noise_differences": lambda p, k: detection.noise_differences(p, CAPTIONS, **FEW),
    "find_triggers": lambda p, k: dori.find_triggers(p, k["x"], CAPTIONS, steps=1, batch=1),
    "triggers": lambda p, k: k["triggers"].on(p),
    "activation_norms": lambda p, k: wanda.activation_norms(p, CAPTIONS, calls=1, steps=1),
    "wanda.localise": lambda p, k: wanda.localise(p, CAPTIONS, calls=1, steps=1),
    "activations": lambda p, k: nemo.activations(p, CAPTIONS),
    "statistics": lambda p, k: nemo.statistics(p, CAPTIONS),
    "z_scores": lambda p, k: nemo.z_scores(p, CAPTIONS[0], k["statistics"]),
    "thresholds": lambda p, k: nemo.thresholds(p, CAPTIONS, **FEW),
    "nemo.localise": lambda p, k: nemo.localise(p, CAPTIONS[0], k["statistics"], 0.9999, **FEW),
    "ask": lambda p, k: evaluation.ask(p, [TARGET], seeds=[0], steps=1),
    "grid": lambda p, k: evaluation.grid(p, CAPTIONS, [0], steps=1),
}
OF_UNETS = {  # and those that take a U-Net alone
    "value_layers": lambda u, k: models.value_layers(u),
    "mlp_layers": lambda u, k: models.mlp_layers(u),
    "wanda.layers": lambda u, k: wanda.layers(u, "seven"),
    "nemo.layers": lambda u, k: nemo.layers(u, "sixteen"),
    "masks.weights": lambda u, k: masks.weights(u, [f"{ATTENTION}.to_v"]),
    "masks.empty": lambda u, k: masks.empty(u, [f"{ATTENTION}.to_v"]),
    "masks.of_neurons": lambda u, k: masks.of_neurons(u, {f"{ATTENTION}.to_v": [0]}),
}
SILENT = ["v-prediction", "fused", "LoRA", "IP-Adapter", "compiled", "a U-Net", "a name"]  # asked of every function
STRUCTURE = ["fused", "IP-Adapter", "processor", "LoRA", "compiled", "compiled in place", "offloaded", "FreeU", "SDXL"]
STRUCTURE += ["quantised class", "parallel"]
# reached through the others
INNER = {"check_sampling", "timed_scheduler", "noises", "starts", "check", "score", "pndm"}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", BAD)
def test_a_pipeline_that_is_not_what_it_seems_is_refused(pipe, one_line, name):
    change, match = BAD[name]
    one_line(ValueError, match, check_pipe, change(copy.copy(pipe)))
    check_pipe(pipe)  # the shared one is what it was


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", PUBLIC)
def test_every_function_that_takes_a_pipeline_refuses(pipe, bad, known, one_line, name):
    for fault in SILENT:
        one_line(ValueError, BAD[fault][1], PUBLIC[name], bad(fault), known)
    PUBLIC[name](copy.deepcopy(pipe), known)  # the very same call of a good one


def test_no_function_is_forgotten():
    """Whatever takes a pipeline first is asked in the table above."""
    asked = Path(__file__).read_text(encoding="utf-8")
    for module in (models, diffusion, masks, detection, dori, wanda, nemo, evaluation):
        for name, function in vars(module).items():
            own = inspect.isfunction(function) and function.__module__ == module.__name__ and name not in INNER
            if own and next(iter(inspect.signature(function).parameters), None) == "pipe":
                assert re.search(rf"{module.__name__.split('.')[-1]}\.{name}\(p\b", asked), name


@pytest.mark.parametrize("name", OF_UNETS)
def test_every_function_that_takes_a_unet_refuses(pipe, bad, known, one_line, name):
    OF_UNETS[name](pipe.unet, known)
    for fault in STRUCTURE:
        one_line(ValueError, BAD[fault][1], OF_UNETS[name], bad(fault).unet, known)


def test_names_of_layers_need_no_weights_and_masks_do(pipe, one_line):
    bare = copy.deepcopy(pipe.unet).to("meta")
    assert len(models.value_layers(bare)) == 7 and len(nemo.layers(bare, "sixteen")) == 16
    one_line(ValueError, "not in memory.*; load it whole", masks.empty, bare, [f"{ATTENTION}.to_v"])


def test_what_computes_the_same_is_accepted(pipe):
    same = copy.deepcopy(pipe)
    for change in (
        lambda: same.unet.train() and same.text_encoder.train(),  # nothing drops values
        lambda: same.unet.set_attn_processor(SlicedAttnProcessor(1)),
        lambda: same.unet.set_attn_processor(AttnProcessor2_0()),
        lambda: same.unet.half(),
        lambda: same.unet.enable_freeu(1, 1, 1, 1) or same.unet.disable_freeu(),
    ):
        change()
        check_pipe(same)

    class Mine(type(pipe)):
        pass

    check_pipe(Mine(**pipe.components, requires_safety_checker=False))


def test_fused_and_unfused_again_is_the_same_model(pipe):
    own = copy.deepcopy(pipe)
    options, model, mask = (
        {"steps": 2, "output": "latents"},
        models.fingerprint(pipe),
        masks.of_neurons(pipe.unet, {name: [0, 1] for name in models.value_layers(pipe.unet)}),
    )
    mask = masks.WeightMask(mask.layers, model)
    plain = diffusion.generate(own, CAPTIONS, **options)
    with masks.pruned(own, mask):
        pruned = diffusion.generate(own, CAPTIONS, **options)
    own.fuse_qkv_projections()
    own.unfuse_qkv_projections()
    assert hasattr(own.unet.get_submodule(ATTENTION), "to_kv")  # left behind
    assert models.fingerprint(own) == model
    assert torch.equal(diffusion.generate(own, CAPTIONS, **options), plain)
    with masks.pruned(own, mask):
        assert torch.equal(diffusion.generate(own, CAPTIONS, **options), pruned)
    assert (pruned - plain).abs().max() > 1e-6


def test_hooks_refuse_what_is_dead(pipe, one_line):
    unet, names = copy.deepcopy(pipe.unet), [f"{ATTENTION}.to_v"]
    functions = [hooks.trace, hooks.edited, hooks.replayed]

    def wrong(match, network, names):
        for function in functions:
            context = function(network, OrderedDict.fromkeys(names, torch.relu))
            one_line(ValueError, match, context.__enter__)

    unet.fuse_qkv_projections()
    wrong(r"to_v does nothing, its attention is fused; call pipe.unfuse_qkv_projections\(\)", unet, names)
    for function in functions:
        with function(unet, {f"{ATTENTION}.to_kv": torch.relu}):
            pass  # this one is what is computed
    unet.unfuse_qkv_projections()
    wrong("to_kv does nothing any more, its attention is not fused; name to_k or to_v", unet, [f"{ATTENTION}.to_kv"])
    wrong("compiled, which hides its names; give network._orig_mod", torch.compile(unet, backend="eager"), names)
    unet.mid_block.compile(backend="eager")
    wrong("mid_block is compiled in place and may not heed hooks", unet, ["mid_block"])
    wrong("a str is no network; give a torch.nn.Module, such as pipe.unet", "reef/twin-a", names)
    wrong("a StableDiffusionPipeline is no network", pipe, names)


# ---- settings of sampling ------------------------------------------------------------------------------------

COUNTS = (0, -1, 1.5, True, NAN, "2", None)
SETTINGS = {
    "generate": (lambda p, k, **o: diffusion.generate(p, CAPTIONS[0], **o), ("steps", "guidance", "batch")),
    "trajectory": (lambda p, k, **o: next(diffusion.trajectory(p, k["x"], k["y"], **o)), ("steps", "guidance")),
    "magnitude": (lambda p, k, **o: detection.magnitude(p, CAPTIONS[0], **o), ("steps", "guidance", "batch", "first")),
    "token_attribution": (
        lambda p, k, **o: detection.token_attribution(p, CAPTIONS[0], **o),
        ("steps", "guidance", "batch", "first"),
    ),
    "noise_differences": (lambda p, k, **o: detection.noise_differences(p, CAPTIONS, **o), ("steps", "batch", "step")),
    "activation_norms": (
        lambda p, k, **o: wanda.activation_norms(p, CAPTIONS, **o),
        ("steps", "guidance", "batch", "calls", "seed"),
    ),
    "wanda.localise": (
        lambda p, k, **o: wanda.localise(p, CAPTIONS, **o),
        ("steps", "guidance", "batch", "calls", "seed", "rho"),
    ),
    "activations": (lambda p, k, **o: nemo.activations(p, CAPTIONS, **o), ("batch",)),
    "thresholds": (lambda p, k, **o: nemo.thresholds(p, CAPTIONS, **o), ("steps",)),
    "nemo.localise": (
        lambda p, k, **o: nemo.localise(p, CAPTIONS[0], k["statistics"], **({"tau": 0.9} | o)),
        ("steps", "tau", "tau_blocked"),
    ),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_impossible_settings_are_one_line(pipe, known, one_line, name):
    function, settings = SETTINGS[name]
    for setting in settings:
        if setting in ("guidance", "rho", "tau", "tau_blocked"):
            bad = (NAN, float("inf"), -float("inf"), "1", True)
        else:
            bad = tuple(v for v in COUNTS if not (setting in ("step", "seed") and v == 0 and v is not False))
        bad += {"steps": (1001,), "first": (51,), "step": (50,), "calls": (51,), "seed": (2**64,)}.get(setting, ())
        for value in bad:
            if value is None and setting == "first":
                continue  # says "all of them"
            what = "ρ" if setting == "rho" else setting
            one_line(ValueError, f"^{what}=.*; give a (whole|finite) number", function, pipe, known, **{setting: value})


def test_numpys_settings_are_settings(pipe):
    given = {"steps": 2, "batch": 1, "guidance": 5.0}
    theirs = {"steps": np.int64(2), "batch": np.int32(1), "guidance": np.float32(5)}
    for function in (diffusion.generate, detection.magnitude):
        found, same = (function(pipe, CAPTIONS, seeds=np.array([0, 1]), **options) for options in (given, theirs))
        assert torch.equal(found, same)


def test_what_nemo_wants_several_of(pipe, known, one_line):
    y = known["y"]
    for function in (nemo.thresholds, nemo.statistics):
        for few in (y[0], y[:1], CAPTIONS[0], CAPTIONS[:1], iter(CAPTIONS[:1])):
            one_line(ValueError, r"give at least two, or embeddings \[B, L, D\]", function, pipe, few)
        function(pipe, iter(CAPTIONS), **({"seeds": [0, 1], "steps": 2} if function is nemo.thresholds else {}))
    one_line(ValueError, "^steps=1 .* from 2 on$", nemo.thresholds, pipe, CAPTIONS, steps=1)
    one_line(ValueError, "^steps=1 .* from 2 on$", nemo.localise, pipe, CAPTIONS[0], known["statistics"], 0.4, steps=1)
    one_line(
        ValueError, "a dict is no statistics; give what nemo.statistics", nemo.localise, pipe, CAPTIONS[0], {}, 0.4
    )


def test_a_check_costs_no_reading_of_weights(pipe, monkeypatch):
    """Structure only: no arithmetic on parameters, which would take seconds for a large model."""
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), options=None):
            if getattr(function, "__name__", "") not in ("__get__", "dtype", "is_meta"):
                seen.append(function)
            return function(*args, **(options or {}))

    with Watch():
        checks.check_pipe(pipe)
    assert not seen
