"""NeMo (Hintersdorf et al. 2024): the value neurons that a memorized caption excites, and no more of them than needed.

A neuron is an output feature of a cross-attention value layer `attn2.to_v`, a row of its weight; blocking it sets it
to zero. Where the paper and its code differ, the code is followed; `variant="paper"` is the paper's Algorithm 2, whose
test on z is one-sided (its text is two-sided). The order in which neurons are tried is the code's. The published τ
goes with the code's range of similarities: `localise(pipe, caption, known, **PUBLISHED)`; see `nemo_published`.

    known = statistics(pipe, captions)
    tau, _ = thresholds(pipe, captions)
    mask = localise(pipe, "a memorized caption", known, tau).mask(pipe.unet)
"""

from dataclasses import dataclass

import torch

from . import nemo_search as search
from .checks import check_count, check_number, check_pipe, check_seeds, check_unet
from .detection import between_seed_similarity, noise_differences, similarity
from .diffusion import STEPS
from .masks import WeightMask, of_neurons
from .models import check_same_model, conditions, embed, fingerprint, spoken, value_layers
from .nemo_search import THETA, Ablation, candidates, kept_seeds, plus_deviation, schedule, z_score
from .nemo_statistics import Statistics

SEEDS = range(10)
VARIANTS = {
    "code": {"step": 1, "sides": 2, "multiscale": True},
    "published": {"step": 1, "sides": 2, "multiscale": "batch"},  # the code's range of similarities, for its τ
    "paper": {"step": 0, "sides": 1, "multiscale": False},
}
PUBLISHED = {"tau": 0.428, "variant": "published"}  # of Stable Diffusion 1.4: both or neither


@dataclass(frozen=True)
class Localised:
    """What NeMo says of one caption. `neurons` {layer: ascending indices} are the result.

    `memorized` is False, and all sets empty, when no seed's noise difference resembles another's. `candidates` are
    the neurons before refinement in the order tried, found at (`theta`, `k`); `reached_floor`: the schedule ended
    without the similarity falling to its threshold. `tau_ref` is what refinement held to, `seeds` the seeds that were
    kept, `samples` the U-Net samples spent (one caption, one noise; a backward pass counts as two more) and `sets`
    the candidate sets judged, each once. For a caption that is not memorized, `tau_ref` is `tau`.
    """

    neurons: dict[str, list[int]]
    candidates: dict[str, list[int]]
    memorized: bool
    seeds: list[int]
    theta: float
    k: int
    reached_floor: bool
    tau_ref: float
    samples: int
    sets: int
    model: str | None = None

    @property
    def count(self) -> int:
        return sum(map(len, self.neurons.values()))

    def mask(self, unet) -> WeightMask:
        """The mask that prunes the neurons' rows, with what the search says `about` it. An empty one prunes nothing."""
        about = {"neurons": self.count, "names": self.neurons, "memorized": self.memorized, "seeds": self.seeds}
        about |= {"candidates": sum(map(len, self.candidates.values())), "theta": self.theta, "k": self.k}
        about |= {"floor": self.reached_floor, "tau_ref": self.tau_ref, "samples": self.samples, "sets": self.sets}
        return WeightMask(of_neurons(unet, self.neurons).layers, self.model, about)


def layers(unet, which: str = "seven") -> dict[str, torch.nn.Linear]:
    """The value layers NeMo searches: "seven" in down and mid blocks (the papers), or all "sixteen".

    Raises ValueError for another word.
    """
    if which not in ("seven", "sixteen"):
        raise ValueError(f"layers are 'seven' or 'sixteen'; got {which!r}")
    if which == "seven":
        return value_layers(unet)
    check_unet(unet, loaded=False)
    # down, mid, up: the order of execution, as for `models.mlp_layers`
    return dict(sorted((name, part) for name, part in unet.named_modules() if name.endswith("attn2.to_v")))


@torch.no_grad()
def activations(pipe, prompts, *, which: str = "seven", batch: int = 256) -> dict:
    """a_i(y) = mean over tokens of |(W_v y)_i|: {layer: [B, out]}. It depends on the caption alone, not on noise.

    `prompts` are captions or embeddings [B, L, D]. Raises ValueError for none, and as `conditions` does.
    """
    check_pipe(pipe)
    known = embed(pipe, prompts) if isinstance(prompts, torch.Tensor) else spoken(prompts)
    batch = check_count("batch", batch)
    found = {name: [] for name in layers(pipe.unet, which)}
    for k in range(0, len(known), batch):
        y = conditions(pipe, known[k : k + batch])
        for name, layer in layers(pipe.unet, which).items():
            values = layer(y)  # means of halves would tie, and ties reorder the most active
            found[name].append(values.to(torch.promote_types(values.dtype, torch.float32)).abs().mean(1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def statistics(pipe, prompts, *, which: str = "seven") -> Statistics:
    """Mean and standard deviation of every neuron over `prompts`, captions that are not memorized.

    The paper takes 50,000. Raises ValueError for fewer than two.
    """
    found = activations(pipe, several(prompts, "statistics need many captions"), which=which)
    mean, std = {k: a.mean(0) for k, a in found.items()}, {k: a.std(0) for k, a in found.items()}
    return Statistics(mean, std, fingerprint(pipe))


def z_scores(pipe, prompt, statistics: Statistics, *, transfer: bool = False) -> dict[str, torch.Tensor]:
    """How unusual one caption's activations are, (a − μ) / σ: {layer: [out]}. A neuron that never varies gets 0.

    Raises ValueError for several captions, and for statistics of another model, unless `transfer`.
    """
    check(pipe, statistics, transfer)
    found = activations(pipe, one_caption(conditions(pipe, prompt)), which=searched(statistics))
    return {name: z_score(a[0], statistics, name) for name, a in found.items()}


def check(pipe, statistics: Statistics, transfer: bool = False) -> None:
    check_pipe(pipe)
    known = {name: layer.out_features for name, layer in layers(pipe.unet, searched(statistics)).items()}
    if known != {name: len(mean) for name, mean in statistics.mean.items()}:
        raise ValueError("these statistics are of other layers or another model; compute them with this one")
    check_same_model(pipe, statistics.model, "these statistics were", transfer)


def searched(statistics: Statistics) -> str:
    if not isinstance(statistics, Statistics):
        raise ValueError(f"a {type(statistics).__name__} is no statistics; give what nemo.statistics makes")
    return "sixteen" if any(name.startswith("up_blocks") for name in statistics.mean) else "seven"


def one_caption(y: torch.Tensor) -> torch.Tensor:
    if len(y) != 1:
        raise ValueError(f"NeMo localises one caption at a time; got {len(y)}")
    return y


def different(seeds) -> list[int]:
    """Each of `seeds` once: with the same noise everything is alike."""
    if len(found := list(dict.fromkeys(check_seeds(seeds)))) < 2:
        raise ValueError(f"NeMo compares seeds: two seeds or more, at least two different ones, not {len(found)}")
    return found


def several(prompts, what: str):
    prompts = prompts if isinstance(prompts, torch.Tensor) else spoken(prompts)
    if getattr(prompts, "ndim", 3) != 3 or len(prompts) < 2:
        raise ValueError(f"{what} that are not memorized: give at least two, or embeddings [B, L, D] of as many")
    return prompts


def thresholds(
    pipe, prompts, memorized=None, *, seeds=SEEDS, variant: str = "code", steps: int = STEPS
) -> tuple[float, float | None]:
    """τ for keeping seeds, and τ for blocked neurons: each is a mean plus one standard deviation.

    The first, of the paper, is over not memorized `prompts` of the highest similarity between their seeds (its value
    for Stable Diffusion is 0.428; its script computes it under guidance 7, here there is none, as in the search).

    The second is not in the paper, and None without `memorized` captions: how alike *unrelated* captions' noise
    differences are under the same noise, over pairs of `memorized` × `prompts`, the highest over seeds. Two runs that
    share x_T resemble each other whatever the caption, on 16×16 latents much more than the first τ allows.

    (len(prompts) + len(memorized)) · len(seeds) U-Net samples. Raises ValueError for fewer than two prompts or seeds.
    """
    prompts, rule, seeds = (
        several(prompts, "a threshold needs several captions"),
        chosen(variant, steps),
        different(seeds),
    )
    others = noise_differences(pipe, prompts, seeds, rule["step"], steps=steps)
    tau = plus_deviation(between_seed_similarity(others, multiscale=rule["multiscale"]))
    if memorized is None:
        return tau, None
    own = noise_differences(pipe, memorized, seeds, rule["step"], steps=steps)
    return tau, plus_deviation(torch.stack([similarity(a, b, rule["multiscale"]).max() for a in own for b in others]))


def chosen(variant: str, steps: int) -> dict:
    """Timestep index, sides of the test on z, whether SSIM has several scales. Raises ValueError for an unknown one."""
    if variant not in [*VARIANTS]:
        raise ValueError(f"variant {variant!r} is unknown; choose {' or '.join(VARIANTS)}")
    check_count("steps", steps, VARIANTS[variant]["step"] + 1)
    return VARIANTS[variant]


@torch.no_grad()
def localise(
    pipe,
    prompt,
    statistics: Statistics,
    tau: float,
    *,
    tau_blocked: float | None = None,
    seeds=SEEDS,
    variant: str = "code",
    order: str = "code",
    steps: int = STEPS,
    lazy: bool = True,
    transfer: bool = False,
) -> Localised:
    """The neurons that `prompt`, a caption or embeddings [L, D], is memorized with.

    `statistics` decides which layers are searched.

    1. Keep the seeds whose noise difference resembles another seed's by more than `tau`; if there are none, the
       caption is not memorized. 2. From θ = 5, k = 0 lower θ by 0.25 and raise k by 1 until blocking the `candidates`
       brings every kept seed's similarity to its own unblocked difference to `tau_blocked` [default: `tau`, as
       in the paper]. θ = 1 is never tried: at the floor the last set's similarity becomes the reference. 3. From the
       last layer to the first, drop whole layers, then single neurons, while the similarity stays below the reference.
       What is found hangs on the `order` within a layer (see `candidates`): of neurons that can stand in for each
       other, the first one tried is dropped.

    Each of `seeds` has its own noise; the code draws ten from one generator. `lazy` spares samples where a first-order
    estimate makes a seed's decision clear; its result is checked in the end, but not every set on the way: `lazy=False`
    asks every seed about every accepted set (`Ablation.stays_below`). Sets are reproducible in float64 only.

    Raises ValueError for a caption, seeds, statistics (another model's unless `transfer`), a variant or order unfit.
    """
    rule, seeds, tau = chosen(variant, steps), different(seeds), check_number("tau", tau)
    bound = tau if tau_blocked is None else check_number("tau_blocked", tau_blocked)
    search.check_order(order), check(pipe, statistics, transfer)
    y = one_caption(conditions(pipe, prompt))
    clear = noise_differences(pipe, y, seeds, rule["step"], steps=steps)[0]
    keep, spent = kept_seeds(clear, tau, rule["multiscale"]), len(seeds)
    lazy = lazy and rule["multiscale"] != "batch"  # there a score depends on the seeds asked beside it
    if not keep:
        nothing = {name: [] for name in statistics.mean}
        return Localised(nothing, nothing, False, [], THETA, 0, False, tau, spent, 0, fingerprint(pipe))
    ablation = Ablation(pipe, y, [seeds[s] for s in keep], clear[keep], rule["step"], steps, rule["multiscale"], lazy)
    a = activations(pipe, y, which=searched(statistics))
    widest = max(part.shape[1] for part in a.values())
    rest = rule["sides"], order
    blocked, theta, k, floor = schedule(ablation, lambda *at: candidates(a, statistics, *at, *rest), bound, widest)
    reference = ablation.highest(blocked) if floor else bound
    found = search.refine_neurons(ablation, search.refine_layers(ablation, blocked, reference), reference)
    spent, sets = spent + ablation.samples, ablation.sets
    return Localised(found, blocked, True, ablation.seeds, theta, k, floor, reference, spent, sets, fingerprint(pipe))
