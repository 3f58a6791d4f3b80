"""NeMo (Hintersdorf et al. 2024): the value neurons that a memorized caption excites, and no more of them than needed.

A neuron is an output feature of a cross-attention value layer `attn2.to_v`, a row of its weight; blocking it sets it
to zero. Where the paper and its code differ, the code is followed; `variant="paper"` is the paper's Algorithm 2, whose
test on z is one-sided (its text is two-sided). Defaults are the reef's; for Stable Diffusion pass `steps=50`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .ablation import Ablation
from .detection import between_seed_similarity, noise_differences, similarity
from .masks import WeightMask, of_neurons
from .models import value_layers
from .sampling import STEPS, conditions

SEEDS = range(10)
THETA, FLOOR, STEP = 5.0, 1.0, 0.25  # the schedule of the threshold θ on |z|; k grows by one as θ falls by STEP
VARIANTS = {
    "code": {"step": 1, "sides": 2, "multiscale": True},
    "paper": {"step": 0, "sides": 1, "multiscale": False},
}


@dataclass(frozen=True)
class Statistics:
    """μ and σ (unbiased) of each neuron's activation over captions that are not memorized: {layer: [out]}."""

    mean: Mapping[str, torch.Tensor]
    std: Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Localised:
    """What NeMo says of one caption. `neurons` {layer: ascending indices} are the result.

    `memorized` is False, and all sets empty, when no seed's noise difference resembles another's. `candidates` are
    the neurons before refinement, found at (`theta`, `k`); `reached_floor` says that the schedule ended without
    the similarity falling to its threshold. `tau_ref` is what refinement held to, `seeds` the seeds that were
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

    @property
    def count(self) -> int:
        return sum(map(len, self.neurons.values()))

    def mask(self, unet) -> WeightMask:
        """The mask that prunes the neurons' rows. Of an empty result it prunes nothing."""
        return of_neurons(unet, self.neurons)


def layers(unet, which: str = "seven") -> dict[str, torch.nn.Linear]:
    """The value layers NeMo searches: "seven" in down and mid blocks (the papers), or all "sixteen".

    Raises ValueError for another word.
    """
    if which not in ("seven", "sixteen"):
        raise ValueError(f"layers are 'seven' or 'sixteen'; got {which!r}")
    if which == "seven":
        return value_layers(unet)
    found = {name: module for name, module in unet.named_modules() if name.endswith("attn2.to_v")}
    return dict(sorted(found.items()))  # down, mid, up: the order of execution, as for `models.mlp_layers`


@torch.no_grad()
def activations(pipe, prompts=None, *, embeddings=None, which: str = "seven", batch: int = 256) -> dict:
    """a_i(y) = mean over tokens of |(W_v y)_i|: {layer: [B, out]}. It depends on the caption alone, not on noise.

    Raises ValueError for an empty caption or embeddings of a wrong shape.
    """
    known = [prompts] if isinstance(prompts, str) else prompts if embeddings is None else embeddings
    found = {name: [] for name in layers(pipe.unet, which)}
    for k in range(0, len(known), batch):
        part = known[k : k + batch]
        y = conditions(pipe, part, None) if embeddings is None else conditions(pipe, None, part)
        for name, layer in layers(pipe.unet, which).items():
            values = layer(y)  # means of halves would tie, and ties reorder the most active
            found[name].append(values.to(torch.promote_types(values.dtype, torch.float32)).abs().mean(1))
    return {name: torch.cat(parts) for name, parts in found.items()}


def statistics(pipe, prompts, *, which: str = "seven") -> Statistics:
    """Mean and standard deviation of every neuron over `prompts`, captions that are not memorized.

    The paper takes 50,000. Raises ValueError for fewer than two.
    """
    if isinstance(prompts, str) or len(prompts) < 2:
        raise ValueError("statistics need many captions that are not memorized: give at least two")
    found = activations(pipe, prompts, which=which)
    return Statistics({k: a.mean(0) for k, a in found.items()}, {k: a.std(0) for k, a in found.items()})


def z_scores(pipe, prompt: str, statistics: Statistics) -> dict[str, torch.Tensor]:
    """How unusual one caption's activations are, (a − μ) / σ: {layer: [out]}. A neuron that never varies gets 0.

    Raises ValueError for statistics of another model.
    """
    check(pipe, statistics)
    found = activations(pipe, prompt, which=searched(statistics))
    return {name: z_score(a[0], statistics, name) for name, a in found.items()}


def z_score(a, statistics: Statistics, name: str):
    std = statistics.std[name].to(a)
    return torch.where(std > 0, (a - statistics.mean[name].to(a)) / std, 0.0)


def check(pipe, statistics: Statistics) -> None:
    known = {name: layer.out_features for name, layer in layers(pipe.unet, searched(statistics)).items()}
    if known != {name: len(mean) for name, mean in statistics.mean.items()}:
        raise ValueError("these statistics are of other layers or another model; compute them with this one")


def searched(statistics: Statistics) -> str:
    return "seven" if len(statistics.mean) == 7 else "sixteen"


def between_seed_threshold(pipe, prompts, *, seeds=SEEDS, variant: str = "code", steps: int = STEPS) -> float:
    """τ for keeping seeds: mean + one standard deviation over not memorized `prompts` of their highest similarity.

    The paper's value for Stable Diffusion is 0.428 (its script computes it under guidance 7; here there is none, as
    in the search). Raises ValueError for fewer than two prompts or seeds.
    """
    rule = chosen(variant)
    if isinstance(prompts, str) or len(prompts) < 2:
        raise ValueError("a threshold needs several captions that are not memorized: give at least two")
    differences = noise_differences(pipe, prompts, seeds, rule["step"], steps=steps)
    scores = between_seed_similarity(differences, multiscale=rule["multiscale"])
    return (scores.mean() + scores.std()).item()


def same_seed_threshold(pipe, prompts, others, *, seeds=SEEDS, variant: str = "code", steps: int = STEPS) -> float:
    """τ for blocked neurons: how alike *unrelated* captions' noise differences are under the same noise.

    Two runs that share x_T resemble each other whatever the caption, on 16×16 latents much more than τ of
    `between_seed_threshold` allows; so "the caption's content is gone" means: as unlike as captions of something
    else. Mean + one standard deviation over pairs (`prompts` × `others`) of the highest similarity over seeds.
    Not in the paper. Raises ValueError for fewer than two pairs.
    """
    rule = chosen(variant)
    if isinstance(prompts, str) or isinstance(others, str) or len(prompts) * len(others) < 2:
        raise ValueError("a threshold needs several pairs of captions: give two lists, and more of either")
    one, other = (noise_differences(pipe, list(p), seeds, rule["step"], steps=steps) for p in (prompts, others))
    scores = torch.stack([similarity(a, b, rule["multiscale"]).max() for a in one for b in other])
    return (scores.mean() + scores.std()).item()


def chosen(variant: str) -> dict:
    """Timestep index, sides of the test on z, whether SSIM has several scales. Raises ValueError for an unknown one."""
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; choose {' or '.join(VARIANTS)}")
    return VARIANTS[variant]


def candidates(activations: Mapping, statistics: Statistics, theta: float, k: int, sides: int = 2) -> dict:
    """{|z| > θ} ∪ the k highest activations, layer by layer: {layer: ascending indices}; `sides=1`: z > θ."""
    found = {}
    for name, a in activations.items():
        z = z_score(a[0], statistics, name)
        unusual = ((z.abs() if sides == 2 else z) > theta).nonzero().flatten().tolist()
        found[name] = sorted({*unusual, *a[0].topk(min(k, a.shape[1])).indices.tolist()})
    return found


@torch.no_grad()
def localise(
    pipe,
    prompt: str,
    statistics: Statistics,
    tau: float,
    *,
    tau_blocked: float | None = None,
    seeds=SEEDS,
    variant: str = "code",
    steps: int = STEPS,
    lazy: bool = True,
) -> Localised:
    """The neurons that `prompt` is memorized with. `statistics` decides which layers are searched.

    1. Keep the seeds whose noise difference resembles another seed's by more than `tau`; if there are none, the
       caption is not memorized. 2. From θ = 5, k = 0 lower θ by 0.25 and raise k by 1 until blocking the `candidates`
       brings every kept seed's similarity to its own unblocked difference to `tau_blocked` [default: `tau`, as
       in the paper]. θ = 1 is never tried: at the floor the last set's similarity becomes the reference. 3. From the
       last layer to the first, drop whole layers, then from the last to the first single neurons, while the
       similarity stays below the reference.

    Each of `seeds` has its own noise; the code draws ten from one generator. `lazy` spares samples where a first-order
    estimate makes a seed's decision clear; what it returns is checked in the end, but not every set on the way:
    `lazy=False` asks every seed about every set that is accepted (see `Ablation.stays_below`). Sets are
    reproducible in float64; in less, the order of sums can turn a decision that stands on the threshold.

    Raises ValueError for an empty caption, fewer than two seeds, statistics of another model or an unknown variant.
    """
    rule, seeds = chosen(variant), list(dict.fromkeys(int(s) for s in seeds))
    check(pipe, statistics)
    if len(seeds) < 2:
        raise ValueError(f"NeMo compares seeds: give at least two different ones, not {len(seeds)}")
    y = conditions(pipe, [prompt] if isinstance(prompt, str) else prompt, None)
    if len(y) != 1:
        raise ValueError(f"NeMo localises one caption at a time; got {len(y)}")
    clear = noise_differences(pipe, embeddings=y, seeds=seeds, step=rule["step"], steps=steps)[0]
    keep = kept_seeds(clear, tau, rule["multiscale"])
    spent = len(seeds)
    if not keep:
        nothing = {name: [] for name in statistics.mean}
        return Localised(nothing, nothing, False, [], THETA, 0, False, tau, spent, 0)
    ablation = Ablation(pipe, y, [seeds[s] for s in keep], clear[keep], rule["step"], steps, rule["multiscale"], lazy)
    bound = tau if tau_blocked is None else tau_blocked
    a = activations(pipe, embeddings=y, which=searched(statistics))
    blocked, theta, k, floor = schedule(ablation, a, statistics, bound, rule["sides"])
    reference = ablation.highest(blocked) if floor else bound
    found = refine_neurons(ablation, refine_layers(ablation, blocked, reference), reference)
    return Localised(
        found, blocked, True, ablation.seeds, theta, k, floor, reference, spent + ablation.samples, ablation.sets
    )


def kept_seeds(differences, tau: float, multiscale: bool) -> list[int]:
    """Positions of the seeds whose highest similarity to another one exceeds τ, of differences [S, C, h, w]."""
    one, other = torch.combinations(torch.arange(len(differences))).T
    scores = similarity(differences[one], differences[other], multiscale)
    return [s for s in range(len(differences)) if scores[(one == s) | (other == s)].max() > tau]


def schedule(ablation: Ablation, activations, statistics, bound: float, sides: int):
    """Step 2 of `localise`: (candidates, θ, k, whether the floor was reached)."""
    theta, k = THETA, 0
    widest = max(a.shape[1] for a in activations.values())
    while True:
        blocked = candidates(activations, statistics, theta, k, sides)
        if not ablation.any_above(blocked, bound):
            return blocked, theta, k, False
        if theta - STEP <= FLOOR or k + 1 >= widest:
            return blocked, theta, k, True
        theta, k = theta - STEP, k + 1


def refine_layers(ablation: Ablation, blocked: dict, reference: float) -> dict:
    """Step 3a: without a layer's candidates, if the similarity stays below the reference."""
    for name in reversed(blocked):
        if blocked[name] and ablation.stays_below(without := blocked | {name: []}, reference):
            blocked = without
    return blocked


def refine_neurons(ablation: Ablation, blocked: dict, reference: float) -> dict:
    """Step 3b: the same, neuron by neuron, always against what is blocked at the time."""
    if not any(blocked.values()):
        return blocked
    ablation.estimate(blocked)
    judged = ablation.sets
    for careful in (False, True):
        found, ablation.sets = blocked, judged
        for name in reversed(blocked):
            ablation.enter(name)
            for neuron in blocked[name]:
                without = found | {name: [n for n in found[name] if n != neuron]}
                if ablation.stays_below(without, reference, None if careful else (name, neuron)):
                    found = without
        if found is blocked or ablation.confirm(found, reference):
            break
    return found
