"""The training loop: against a naive one, and stopped and resumed at any step."""

import json
import math

import pytest
import torch
from safetensors import safe_open

from dori_lite import fit as module
from dori_lite.fit import CHECKPOINT, fit

STEPS, LR = 24, 0.05


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """Equality is asserted in full precision on the CPU, whatever the machine has."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


class Line(torch.nn.Module):
    """Linear regression in double precision, with a frozen parameter that must not move."""

    def __init__(self, seed=0):
        super().__init__()
        self.linear = torch.nn.Linear(3, 1).double()
        self.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        with torch.no_grad():
            for p in self.linear.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)))

    def forward(self, x, y):
        return {"loss": 0.3 * (self.linear(x) - y).square().mean()}


def line_batch(step):
    random = torch.Generator().manual_seed(step)
    x = torch.randn(8, 3, generator=random, dtype=torch.float64)
    return {"x": x, "y": x.sum(1, keepdim=True) + 0.1 * torch.randn(8, 1, generator=random, dtype=torch.float64)}


class Parts(torch.nn.Module):
    """As the reef's Denoise: fp32, losses of two kinds of sample, either of which may be missing."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.SiLU(), torch.nn.Linear(16, 4))

    def forward(self, x, noise, repeats):
        errors = (self.net(x + noise) - noise).square().mean(1)
        parts = {"canaries": errors[repeats], "others": errors[~repeats]}
        return {"loss": errors.mean(), **{key: part.detach().mean() for key, part in parts.items()}}


def parts_batch(step):
    random = torch.Generator().manual_seed(step)
    repeats = torch.zeros(8, dtype=torch.bool) if step % 3 else torch.arange(8) < (8 if step == 9 else 3)
    return {"x": torch.randn(8, 4, generator=random), "noise": torch.randn(8, 4, generator=random), "repeats": repeats}


KINDS = [(Line, line_batch), (Parts, parts_batch)]


def weights(task):
    return torch.cat([p.detach().flatten().double() for p in task.parameters()])


def train(task, batch, folder, **changes):
    return fit(task, batch, **({"steps": STEPS, "lr": LR, "folder": folder} | changes))


def one_cycle(step, steps, peak, pct_start):
    """The rate of optimiser step `step`: cosine from peak/25 up to the peak, then down to peak/25/10⁴."""
    top, low, last = pct_start * steps - 1, peak / 25, peak / 25 / 1e4
    if step <= top:
        return peak + (low - peak) * (1 + math.cos(math.pi * step / top)) / 2
    return last + (peak - last) * (1 + math.cos(math.pi * (step - top) / (steps - 1 - top))) / 2


def naive(task, batch, steps, peak, decay, pct_start):
    """Adam with decoupled weight decay, clipping, one-cycle and EMA, each written out: the EMA weights."""
    parameters = list(task.linear.parameters())
    first, second = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    shadow = [p.detach().clone() for p in parameters]
    clipped = 0
    for step in range(steps):
        loss = task(**batch(step))["loss"]
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.sqrt(sum(g.square().sum() for g in gradients))
        clipped += norm > 1
        gradients = [g * min(1.0, 1.0 / (norm.item() + 1e-6)) for g in gradients]
        rate = one_cycle(step, steps, peak, pct_start)
        ema = min(decay, (1 + step) / (10 + step)) if step else 0.0  # the formula of diffusers' EMAModel
        with torch.no_grad():
            for p, g, m, v, s in zip(parameters, gradients, first, second, shadow, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.99).add_(0.01 * g * g)
                p.mul_(1 - rate * 1e-4)
                p.sub_(rate * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8))
                s.mul_(ema).add_((1 - ema) * p)
    assert 0 < clipped < steps  # both branches were met
    return shadow


@pytest.mark.parametrize("decay, warmup", [(0.999, 0.05), (0.5, 0.3)])
def test_against_a_naive_loop(tmp_path, decay, warmup):
    task = Line()
    done = train(task, line_batch, tmp_path, ema_decay=decay, warmup=warmup, steps=60)
    expected = naive(Line(), line_batch, 60, LR, decay, warmup)
    for p, q in zip(task.linear.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-9, atol=1e-12)
    assert task.frozen.tolist() == [1, 1]
    assert done["steps"] == 60 and done["losses"].keys() == {"loss"}


def test_the_module_ends_with_the_ema_and_not_the_last_weights(tmp_path):
    task = Line()
    train(task, line_batch, tmp_path)
    with safe_open(tmp_path / CHECKPOINT, "pt") as file:
        assert torch.equal(task.linear.weight.detach(), file.get_tensor("ema.0"))
        assert not torch.equal(task.linear.weight.detach(), file.get_tensor("weight.0"))


@pytest.mark.parametrize("stops", [(), (7,)])
def test_the_rate_follows_one_cycle(tmp_path, monkeypatch, stops):
    optimizers, rates = [], []
    adam = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *a, **k: optimizers.append(adam(*a, **k)) or optimizers[-1])

    def batch(step):
        rates.append(optimizers[-1].param_groups[0]["lr"])
        return line_batch(step)

    for stop in (*stops, None):
        train(Line(), batch, tmp_path, warmup=0.25, stop_at=stop)
    assert rates == pytest.approx([one_cycle(step, STEPS, LR, 0.25) for step in range(STEPS)])
    assert max(rates) == pytest.approx(LR) and rates[-1] == pytest.approx(LR / 25e4)


@pytest.mark.parametrize("kind, batch", KINDS)
@pytest.mark.parametrize("stops", [(1,), (7,), (23,), (5, 6, 20)])
def test_stopped_and_resumed_is_equal(tmp_path, kind, batch, stops):
    straight = kind()
    train(straight, batch, tmp_path / "straight")
    for k, stop in enumerate(stops):  # the checkpoint counts, not the weights that a new process starts with
        early = train(kind(seed=k), batch, tmp_path / "stopped", stop_at=stop)
        assert early["steps"] == stop
    resumed = kind(seed=99)
    assert train(resumed, batch, tmp_path / "stopped")["steps"] == STEPS
    assert torch.equal(weights(resumed), weights(straight))
    again = kind(seed=99)  # nothing is left to do
    train(again, lambda step: pytest.fail("a step was done twice"), tmp_path / "stopped")
    assert torch.equal(weights(again), weights(straight))


def test_a_crash_goes_on_from_the_last_checkpoint(tmp_path):
    straight = Parts()
    train(straight, parts_batch, tmp_path / "straight")
    seen = []

    def failing(step):
        seen.append(step)
        if step == 9 and seen.count(9) == 1:
            raise KeyboardInterrupt
        return parts_batch(step)

    with pytest.raises(KeyboardInterrupt):
        train(Parts(), failing, tmp_path / "crashed", checkpoint_every=0)
    resumed = Parts(seed=5)
    train(resumed, failing, tmp_path / "crashed", checkpoint_every=0)
    assert seen == [*range(10), *range(9, STEPS)]
    assert torch.equal(weights(resumed), weights(straight))


def test_a_torn_checkpoint_is_ignored(tmp_path):
    straight = Line()
    train(straight, line_batch, tmp_path / "straight")
    folder = tmp_path / "torn"
    train(Line(), line_batch, folder, stop_at=8)
    partial = (folder / CHECKPOINT).with_suffix(".partial")
    partial.write_bytes((folder / CHECKPOINT).read_bytes()[:50])
    resumed = Line(seed=3)
    train(resumed, line_batch, folder)
    assert torch.equal(weights(resumed), weights(straight))
    assert [path.name for path in folder.iterdir()] == [CHECKPOINT]

    alone = tmp_path / "alone"  # torn before the first was whole: start afresh
    alone.mkdir()
    (alone / partial.name).write_bytes(b"torn")
    fresh = Line()
    train(fresh, line_batch, alone)
    assert torch.equal(weights(fresh), weights(straight))


@pytest.mark.parametrize("change", [
    {"steps": STEPS + 1}, {"lr": 0.04}, {"ema_decay": 0.9}, {"betas": (0.9, 0.95)}, {"weight_decay": 0.0},
    {"clip": 2.0}, {"warmup": 0.1}, {"about": "another foundation"},
])  # fmt: skip
def test_other_settings_are_refused(tmp_path, change):
    train(Line(), line_batch, tmp_path, stop_at=4)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match="made with other settings: remove it, or choose another folder") as error:
        train(Line(), line_batch, tmp_path, **change)
    assert "\n" not in str(error.value) and (tmp_path / CHECKPOINT).read_bytes() == before


def test_the_same_foundation_is_continued(tmp_path):
    train(Line(), line_batch, tmp_path, stop_at=4, about="abc")
    assert train(Line(), line_batch, tmp_path, about="abc")["steps"] == STEPS
    with pytest.raises(ValueError, match="other settings"):  # also when all is done
        train(Line(), line_batch, tmp_path)


def test_another_module_is_refused(tmp_path):
    train(Line(), line_batch, tmp_path, stop_at=4)
    with pytest.raises(ValueError, match="other settings"):
        train(Parts(), parts_batch, tmp_path)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("spoiled", [4, STEPS - 1])
def test_a_loss_that_is_not_finite_is_an_error(tmp_path, value, spoiled):
    def batch(step):
        found = line_batch(step)
        return found | {"y": found["y"] + value} if step == spoiled else found

    with pytest.raises(FloatingPointError, match=f"training: the loss is not finite at step {spoiled}; use a lower lr"):
        train(Line(), batch, tmp_path)
    assert not (tmp_path / CHECKPOINT).exists()  # no checkpoint of spoiled weights


def test_a_missing_part_is_no_error_and_shows_the_last_mean(tmp_path):
    losses = train(Parts(), parts_batch, tmp_path)["losses"]
    assert losses.keys() == {"loss", "canaries", "others"} and all(math.isfinite(v) for v in losses.values())

    def without(step):
        return parts_batch(step) | {"repeats": torch.zeros(8, dtype=torch.bool)}

    assert train(Parts(), without, tmp_path / "none")["losses"].keys() == {"loss", "others"}


def test_the_checkpoint_states_what_it_holds(tmp_path):
    done = train(Line(), line_batch, tmp_path, stop_at=5)
    with safe_open(tmp_path / CHECKPOINT, "pt") as file:
        numbers, keys = file.metadata(), set(file.keys())
    assert numbers["step"] == numbers["ema_step"] == "5" and json.loads(numbers["settings"])[:2] == [STEPS, LR]
    names = {"weight", "ema", "adam"}
    assert {key.split(".")[0] for key in keys} == names and "adam.1.exp_avg_sq" in keys and "weight.2" not in keys
    assert done["steps"] == 5 and done["seconds"] >= 0


def test_precision_by_machine(monkeypatch):
    assert module.autocast_precision() == "no"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for capability, expected in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert module.autocast_precision() == expected


def test_a_finished_training_is_not_repeated_and_keeps_its_losses(tmp_path):
    done = train(Line(), line_batch, tmp_path)
    task = Line()
    again = train(task, line_batch, tmp_path)
    assert again["losses"] == done["losses"] != {}
    with safe_open(tmp_path / CHECKPOINT, "pt") as file:
        assert torch.equal(task.linear.weight.detach(), file.get_tensor("ema.0"))


def test_stopping_before_the_first_step_trains_nothing(tmp_path):
    assert train(Line(), line_batch, tmp_path, stop_at=0)["steps"] == 0
    assert not (tmp_path / CHECKPOINT).exists()
