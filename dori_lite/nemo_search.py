"""NeMo's search for one caption's neurons, with as few U-Net samples as decide. `nemo.localise` runs it so:

    blocked, theta, k, floor = schedule(ablation, propose, bound, widest)
    neurons = refine_neurons(ablation, refine_layers(ablation, blocked, bound), bound)

The search comes first; the engine, `Ablation`, answers its questions.
"""

from collections.abc import Mapping

import torch

from .checks import check_count, check_number, is_a
from .detection import similarity
from .diffusion import initial_noise, timed_scheduler
from .hooks import edited, replayed, trace

THETA, FLOOR, STEP = 5.0, 1.0, 0.25  # the schedule of the threshold θ on |z|; k grows by one as θ falls by STEP


def kept_seeds(differences, tau: float, multiscale: bool) -> list[int]:
    """Positions of the seeds whose highest similarity to another one exceeds τ, of differences [S, C, h, w]."""
    one, other = torch.combinations(torch.arange(len(differences))).T
    scores = similarity(differences[one], differences[other], multiscale)
    return [s for s in range(len(differences)) if scores[(one == s) | (other == s)].max() > tau]


def z_score(a, statistics, name: str):
    if not is_a(statistics, "Statistics") or name not in statistics.mean or statistics.mean[name].shape != a.shape:
        raise ValueError("these statistics are of other layers or another model; compute them with this one")
    std = statistics.std[name].to(a)
    return torch.where(std > 0, (a - statistics.mean[name].to(a)) / std, 0.0)


def check_order(order: str) -> None:
    if order not in ("code", "ascending"):
        raise ValueError(f"order is 'code' or 'ascending'; got {order!r}")


def candidates(activations: Mapping, statistics, theta: float, k: int, sides: int = 2, order: str = "code") -> dict:
    """{|z| > θ} ∪ the k highest activations, as refinement visits them: {layer: list}; `sides=1`: z > θ.

    "code": those with |z| > θ by index, then the k, most active first. One that is both is tried among the k: the code
    lists it twice, and giving back one copy changes nothing (at the floor, where nothing was given back before, the
    code so passes it over; here it is tried). "ascending": all by index. ValueError for another word.
    """
    check_count("k", k, 0), check_number("theta", theta), check_count("sides", sides, 1, 2), check_order(order)
    found = {}
    for name, a in activations.items():
        z = z_score(a[0], statistics, name)
        unusual = ((z.abs() if sides == 2 else z) > theta).nonzero().flatten().tolist()
        active = a[0].topk(min(k, a.shape[1])).indices.tolist()
        listed = [neuron for neuron in unusual if neuron not in active] + active
        found[name] = listed if order == "code" else sorted(listed)
    return found


def plus_deviation(scores: torch.Tensor) -> float:
    return (scores.mean() + scores.std()).item()


def schedule(ablation: "Ablation", propose, bound: float, widest: int):
    """Step 2 of `nemo.localise`: (candidates, θ, k, whether the floor was reached).

    `propose(theta, k)` gives the candidates {layer: neurons}, `widest` is the size of the largest layer.
    """
    theta, k = THETA, 0
    while True:
        blocked = propose(theta, k)
        if not ablation.any_above(blocked, bound):
            return blocked, theta, k, False
        if theta - STEP <= FLOOR or k + 1 >= widest:
            return blocked, theta, k, True
        theta, k = theta - STEP, k + 1


def refine_layers(ablation: "Ablation", blocked: dict, reference: float) -> dict:
    """Step 3a of `nemo.localise`: without a layer's candidates, if the similarity stays below the reference."""
    for name in reversed(blocked):
        if blocked[name] and ablation.stays_below(without := blocked | {name: []}, reference):
            blocked = without
    return blocked


def refine_neurons(ablation: "Ablation", blocked: dict, reference: float) -> dict:
    """Step 3b: the same, neuron by neuron as listed, always against what is blocked then: {layer: ascending}."""
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
    return {name: sorted(rows) for name, rows in found.items()}


class Ablation:
    """How like its unblocked self each kept seed's noise difference stays when neurons are blocked.

    `y` [1, L, D] is the caption, `clear` [S, C, h, w] the unblocked differences of `seeds`. Neurons are blocked by
    scaling the value layers' outputs by 0, as zeroing rows of weight would. It counts its U-Net `samples` and `sets`.
    """

    def __init__(self, pipe, y, seeds, clear, step: int, steps: int, multiscale: bool, lazy: bool = True):
        self.unet, self.y, self.seeds, self.clear = pipe.unet, y, seeds, clear
        self.multiscale, self.lazy = multiscale, lazy
        self.x_T = initial_noise(pipe, seeds, y.dtype).to(y.device)
        self.t = timed_scheduler(pipe, steps, y.device).timesteps[step]
        self.last = torch.ones(len(seeds), dtype=torch.float64)  # each seed's similarity for what is blocked now,
        self.doubt = torch.zeros_like(self.last)  # and how far it may be off where it was estimated
        self.slopes, self.rows = {}, {}
        self.known, self.stored, self.prefix = {}, {}, []
        self.samples = self.sets = 0

    @torch.no_grad()
    def measure(self, blocked: dict, which) -> torch.Tensor:
        """Similarities of the seeds at positions `which`, [len(which)], on the CPU."""
        which = [int(s) for s in which]
        key = tuple((name, *sorted(rows)) for name, rows in blocked.items() if rows)  # of the set, however ordered
        if not (key and which):
            return torch.ones(len(which))  # nothing is blocked: the very same differences
        known = self.known.setdefault(key, {})
        if fresh := [s for s in which if s not in known]:
            scores = similarity(self.clear[fresh], self.differences(blocked, fresh), self.multiscale).cpu()
            known.update(zip(fresh, scores, strict=True))
        return torch.stack([known[s] for s in which])

    def differences(self, blocked: dict, which: list[int]) -> torch.Tensor:
        """δ of some seeds with neurons blocked. What stands before the layer in work is replayed."""
        self.samples += len(which)
        ready = all(s in self.stored for s in which)
        past = {m: joined([self.stored[s][m] for s in which]) for m in self.prefix} if ready else {}
        with replayed(self.unet, past), trace(self.unet, [] if ready else self.prefix) as seen:
            found = self.forward(self.gates(blocked), which)
        if not ready:
            for place, s in enumerate(which):
                self.stored[s] = {m: piece(outputs[0], place) for m, outputs in seen.items()}
        return found

    def any_above(self, blocked: dict, bound: float) -> bool:
        """Whether a seed's similarity exceeds `bound`; the likeliest is asked first, and alone."""
        self.sets += 1
        order = self.last.argsort(descending=True)
        for group in (order[:1], order[1:]) if self.lazy else (order,):
            scores = self.measure(blocked, group)
            self.last[group] = scores.to(self.last)
            if (scores > bound).any():
                return True
        return False

    def stays_below(self, blocked: dict, reference: float, restored: tuple[str, int] | None = None) -> bool:
        """Whether every seed's similarity is below `reference`; if so, `blocked` counts as what is blocked now.

        The highest seed is asked first and can refuse alone. Where one neuron (layer, index) is `restored`, the
        others are asked only if `effect` leaves it possible that they come to the reference. That is an estimate: a
        seed that would have refused can be missed, and `confirm` sees it only if it is still too high in the end.
        """
        self.sets += 1
        slope, unsure = self.effect(*restored) if restored and self.slopes else (0, 0)
        expected, doubt = self.last + slope, self.doubt + unsure
        order = expected.argsort(descending=True)
        asked = order
        if restored and self.slopes:
            near = (expected + doubt)[order] >= reference
            near[0] = True
            asked = order[near]
        scores = torch.zeros(0).to(self.last)
        for group in (asked[:1], asked[1:]) if self.lazy else (asked,):
            scores = torch.cat([scores, self.measure(blocked, group).to(scores)])
            if (scores >= reference).any():
                return False
        self.last, self.doubt = expected.index_put((asked,), scores), doubt.index_fill(0, asked, 0)
        return True

    def effect(self, layer: str, neuron: int):
        """What restoring a neuron changes for each seed, by `estimate`, and how far that may be off: [S] twice.

        Slopes err by their own size, and small ones by more; so the doubt is the slope and the layer's average one. On
        the reef's tuning canaries no decision was missed (benchmarks/nemo.py stops if one is).
        """
        slopes = self.slopes[layer]
        return slopes[:, neuron], slopes[:, neuron].abs() + slopes[:, self.rows[layer]].abs().mean(1)

    def confirm(self, blocked: dict, reference: float) -> bool:
        """Whether all seeds, now asked, are below `reference`."""
        return not self.lazy or self.highest(blocked) < reference

    def highest(self, blocked: dict) -> float:
        """The highest similarity over all seeds: NeMo's `mem`."""
        self.last, self.doubt = self.measure(blocked, range(len(self.seeds))).to(self.last), self.doubt * 0
        return self.last.max().item()

    def estimate(self, blocked: dict) -> None:
        """First-order effect of restoring each neuron on each seed's similarity: one backward pass a seed.

        A blocked neuron is a gate at 0 on a linear layer's output: one pass gives the slopes at all, for three samples.
        """
        if not self.lazy:
            return
        slopes = {name: [] for name, rows in blocked.items() if rows}
        scale = 2.0**14 if self.y.dtype == torch.float16 else 1.0  # halves have no numbers as small as these slopes
        for s in range(len(self.seeds)):
            gates = {name: gate.requires_grad_() for name, gate in self.gates(blocked).items()}
            with torch.enable_grad(), self.gated(gates):  # to the end: checkpointed blocks are computed again
                score = similarity(self.clear[s : s + 1], self.predicted([s]), self.multiscale).sum() * scale
                for name, slope in zip(gates, torch.autograd.grad(score, list(gates.values())), strict=True):
                    slopes[name].append(slope.to(self.last) / scale)
        self.samples, self.rows = self.samples + 3 * len(self.seeds), blocked
        self.slopes = {name: torch.stack(rows) for name, rows in slopes.items()}

    def gates(self, blocked: dict) -> dict:
        """0 for blocked neurons and 1 for the others, for each layer with blocked ones: {layer: [out]}."""
        gates = {}
        for name, rows in ((name, rows) for name, rows in blocked.items() if rows):
            gates[name] = torch.ones(self.unet.get_submodule(name).out_features).to(self.y)
            gates[name][rows] = 0
        return gates

    def enter(self, layer: str) -> None:
        """From now on only neurons of `layer` change: what is computed before it may be kept."""
        self.prefix, self.stored = before(self.unet, layer), {}

    def forward(self, gates: dict, which: list[int]):
        """δ of some seeds with the value layers' outputs scaled by `gates`."""
        with self.gated(gates):
            return self.predicted(which)

    def gated(self, gates: dict):
        return edited(self.unet, {name: (lambda v, name=name: v * gates[name]) for name in gates})

    def predicted(self, which: list[int]):
        x_T, y = self.x_T[which], self.y.expand(len(which), -1, -1)
        return self.unet(x_T, self.t, y, return_dict=False)[0] - x_T


def before(unet, layer: str) -> list[str]:
    """The modules that have run when the U-Net comes to a cross-attention layer: whole blocks, and parts of its own."""
    blocks = [f"down_blocks.{k}" for k in range(len(unet.down_blocks))] + ["mid_block"]
    blocks += [f"up_blocks.{k}" for k in range(len(unet.up_blocks))]
    own, place = layer.split(".attentions.")
    place, names = int(place.split(".")[0]), blocks[: blocks.index(own)]
    for k in range(place + 1):
        names += [f"{own}.resnets.{k}"] + ([f"{own}.attentions.{k}"] if k < place else [])
    return names


def piece(output, place: int):
    """One sample of a module's output, which may be a tuple of outputs."""
    return output[place : place + 1] if torch.is_tensor(output) else tuple(piece(part, place) for part in output)


def joined(outputs):
    """Samples of one module's output as a batch again."""
    return torch.cat(outputs) if torch.is_tensor(outputs[0]) else tuple(map(joined, zip(*outputs, strict=True)))
