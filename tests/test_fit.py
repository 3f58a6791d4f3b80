"""The training loop: against a naive one, and stopped and resumed at any step."""

import json
import math
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dori_lite import checkpoints
from dori_lite import fit as module
from dori_lite.fit import CHECKPOINT, fit, training

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
    """Adam with decoupled weight decay, clipping, one-cycle and EMA, each written out: the EMA weights.

    Without `pct_start` the rate is constant, without `decay` the weights are the last ones.
    """
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
        rate = one_cycle(step, steps, peak, pct_start) if pct_start else peak
        ema = min(decay, (1 + step) / (10 + step)) if step and decay else 0.0  # the formula of diffusers' EMAModel
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


# ---- a constant rate, no EMA -------------------------------------------------------------------------

PLAIN = {"schedule": "constant", "ema_decay": None}


@pytest.mark.parametrize("schedule, decay", [("constant", None), ("constant", 0.9), ("one-cycle", None)])
def test_constant_rate_and_no_ema_against_a_naive_loop(tmp_path, schedule, decay):
    task = Line()
    train(task, line_batch, tmp_path, schedule=schedule, ema_decay=decay, warmup=0.3, steps=60)
    expected = naive(Line(), line_batch, 60, LR, decay, 0.3 if schedule == "one-cycle" else None)
    for p, q in zip(task.linear.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-9, atol=1e-12)


def test_without_an_ema_the_module_ends_with_its_last_weights(tmp_path):
    task = Line()
    train(task, line_batch, tmp_path, **PLAIN)
    kept = load_file(tmp_path / CHECKPOINT)
    assert torch.equal(task.linear.weight.detach(), kept["weight.0"])
    assert not [key for key in kept if key.startswith("ema")]


def test_adafactor_is_torch_s_own_and_small(tmp_path):
    task, other = Line(), Line()
    train(task, line_batch, tmp_path, **PLAIN, optimizer="adafactor", weight_decay=0.1)
    theirs = torch.optim.Adafactor(other.linear.parameters(), LR, weight_decay=0.1)
    for step in range(STEPS):
        theirs.zero_grad()
        other(**line_batch(step))["loss"].backward()
        torch.nn.utils.clip_grad_norm_(other.linear.parameters(), 1.0)
        theirs.step()
    assert torch.equal(weights(task), weights(other))
    kept = load_file(tmp_path / CHECKPOINT)
    rows, columns = kept["weight.0"].shape
    assert {k: v.numel() for k, v in kept.items() if k.startswith("adam.0")} == {
        "adam.0.step": 1,
        "adam.0.row_var": rows,
        "adam.0.col_var": columns,
    }


@pytest.mark.parametrize(
    "options", [PLAIN, {"schedule": "constant"}, {"ema_decay": None}, PLAIN | {"optimizer": "adafactor"}]
)
@pytest.mark.parametrize("kind, batch", KINDS)
def test_stopped_and_resumed_is_equal_with_other_options(tmp_path, kind, batch, options):
    straight, resumed = kind(), kind(seed=9)
    train(straight, batch, tmp_path / "straight", **options)
    train(kind(), batch, tmp_path / "stopped", stop_at=7, **options)
    train(resumed, batch, tmp_path / "stopped", **options)
    assert torch.equal(weights(resumed), weights(straight))


# ---- the loop as a generator -------------------------------------------------------------------------


def looped(task, batch, folder, **changes):
    return training(task, batch, **({"steps": STEPS, "lr": LR, "folder": folder} | changes))


def test_the_loop_yields_each_step_and_ends_as_fit_does(tmp_path):
    task, fitted = Parts(), Parts()
    seen, before = [], weights(task)
    for step, losses in looped(task, parts_batch, tmp_path / "loop"):
        seen.append(step)
        assert not torch.equal(weights(task), before)  # the current weights
        before = weights(task)
        assert losses.keys() == {"loss", "canaries", "others"} and math.isnan(losses["canaries"]) == (step % 3 > 0)
    train(fitted, parts_batch, tmp_path / "fit")
    assert seen == [*range(STEPS)]
    assert torch.equal(weights(task), weights(fitted)) and not torch.equal(weights(task), before)  # the EMA


def test_the_losses_are_those_of_the_step(tmp_path):
    task, expected = Line(), []

    def batch(step):
        expected.append(task(**line_batch(step))["loss"].item())
        return line_batch(step)

    found = [losses["loss"] for _, losses in looped(task, batch, tmp_path)]
    assert found == expected


def test_gradients_left_by_the_body_and_by_the_batch_do_not_count(tmp_path):
    clean, task = Line(), Line()
    train(clean, line_batch, tmp_path / "clean")

    def batch(step):
        task(**line_batch(99))["loss"].backward()
        return line_batch(step)

    for _ in looped(task, batch, tmp_path / "soiled"):
        assert all(p.grad is None for p in task.parameters())
        task(**line_batch(99))["loss"].backward()
    assert torch.equal(weights(task), weights(clean))


class Interrupted(Exception):
    pass


class Adversary:
    """Batches with a shift that is climbed, from where it is, against the model as it is at every fifth step.

    `refresh` is called by the batch or by the loop's body and works in two halves, so that it can be cut short.
    """

    def __init__(self, by, seed=0, fail=(None, None), rebind=False):
        self.task, self.by, self.fail, self.rebind = Line(seed), by, fail, rebind
        self.state = {"shift": torch.full((3,), 0.1 * seed, dtype=torch.float64), "refreshed": torch.tensor(seed)}
        self.seen = []

    def check(self, place, step):
        if self.fail == (place, step):
            raise Interrupted

    def refresh(self, step):
        data, shift = line_batch(1000 + step), self.state["shift"].clone().requires_grad_()
        self.task(data["x"] + shift, data["y"])["loss"].backward()  # leaves gradients in the model, too
        climb = 0.1 * shift.grad / shift.grad.norm()
        if self.rebind:
            self.state["shift"] = self.state["shift"] + climb
        else:
            self.state["shift"] += climb
        self.check("between", step)
        self.state["refreshed"] += 1

    def batch(self, step):
        self.check("before", step)
        if self.by == "batch" and step % 5 == 0:
            self.refresh(step)
        self.check("in the batch", step)
        data = line_batch(step)
        return data | {"x": data["x"] + self.state["shift"]}

    def run(self, folder, leave=None, **changes):
        for step, losses in looped(self.task, self.batch, folder, **({"state": self.state} | PLAIN | changes)):
            self.seen.append((step, losses))
            self.check("body", step)
            if self.by == "body" and step % 5 == 4:
                self.refresh(step)
            self.check("end of body", step)
            if leave == step:
                break
        return self

    def equals(self, other):
        same = all(torch.equal(self.state[key], other.state[key]) for key in other.state)
        return same and torch.equal(weights(self.task), weights(other.task))


def test_batches_against_the_current_model_and_a_naive_loop(tmp_path):
    ours, theirs = Adversary("batch").run(tmp_path, steps=60), Adversary("batch")
    expected = naive(theirs.task, theirs.batch, 60, LR, None, None)
    for p, q in zip(ours.task.linear.parameters(), expected, strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.state["shift"], theirs.state["shift"], rtol=1e-9, atol=1e-12)
    assert ours.state["refreshed"] == 12
    other = Adversary("nobody").run(tmp_path / "other", steps=60)
    assert not torch.allclose(weights(other.task), weights(ours.task), rtol=1e-3)  # the shift matters


@pytest.mark.parametrize("rebind", [False, True])
@pytest.mark.parametrize("by, place, every", [
    ("body", "body", 180), ("body", "between", 180), ("body", "end of body", 180), ("body", "before", 0),
    ("batch", "before", 0), ("batch", "between", 0), ("batch", "in the batch", 0), ("batch", "end of body", 180),
])  # fmt: skip
def test_interrupted_anywhere_and_resumed_is_equal(tmp_path, by, place, every, rebind):
    straight = Adversary(by, rebind=rebind).run(tmp_path / "straight")
    interrupted = 0
    for step in range(STEPS):
        folder, options = tmp_path / str(step), {"checkpoint_every": every}
        first = Adversary(by, fail=(place, step), rebind=rebind)
        try:
            first.run(folder, **options)
        except Interrupted:
            interrupted += 1
            done = first.seen[-1][0] + 1 if first.seen else 0
            assert done == (step + 1 if "body" in place or by == "body" and place == "between" else step)
        else:
            continue
        resumed = Adversary(by, seed=3 if done else 0, rebind=rebind).run(folder, **options)
        assert resumed.equals(straight)
        assert resumed.seen == straight.seen[max(done - 1, 0) :]  # the last step's body is done again
    assert interrupted == (STEPS if place != "between" else 4 if by == "body" else 5)


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}, {"schedule": "one-cycle"}])
@pytest.mark.parametrize("step", [0, 4, 13, STEPS - 1])
def test_a_loop_that_was_left_ends_there_again_or_goes_on(tmp_path, step, options):
    straight = Adversary("body").run(tmp_path / "straight", **options)
    left = Adversary("body").run(tmp_path / "left", leave=step, **options)
    before = (tmp_path / "left" / CHECKPOINT).read_bytes()
    again = Adversary("body", seed=5).run(tmp_path / "left", leave=step, **options)
    assert again.equals(left) and again.seen == left.seen[-1:]
    assert (tmp_path / "left" / CHECKPOINT).read_bytes() == before
    assert Adversary("body", seed=7).run(tmp_path / "left", **options).equals(straight)


def test_fit_keeps_the_state_too(tmp_path):
    straight, stopped, resumed = Adversary("batch"), Adversary("batch"), Adversary("batch", seed=4)
    train(straight.task, straight.batch, tmp_path / "a", state=straight.state)
    train(stopped.task, stopped.batch, tmp_path / "b", state=stopped.state, stop_at=12)
    held = resumed.state["shift"]
    train(resumed.task, resumed.batch, tmp_path / "b", state=resumed.state)
    assert resumed.equals(straight) and held is resumed.state["shift"]  # filled in place: other names for it hold


def test_a_loop_kept_in_a_variable_saves_when_closed(tmp_path):
    loop = looped(Line(), line_batch, tmp_path)
    assert [next(loop)[0] for _ in range(3)] == [0, 1, 2] and not (tmp_path / CHECKPOINT).exists()
    loop.close()
    assert next(looped(Line(), line_batch, tmp_path))[0] == 2


def test_checkpoints_are_written_every_so_often(tmp_path, monkeypatch):
    minutes, saved, save = count(), [], module.save
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 60.0 * next(minutes)))  # one call a step
    monkeypatch.setattr(
        module, "save", lambda path, numbers, *a: saved.append(numbers["step"]) or save(path, numbers, *a)
    )
    for stop, expected in ((13, [5, 10, 13]), (15, [5, 10, 13, 15])):
        train(Line(), line_batch, tmp_path, checkpoint_every=299, stop_at=stop)
        assert saved == expected
        with safe_open(tmp_path / CHECKPOINT, "pt") as file:
            assert float(file.metadata()["seconds"]) == stop * 60  # all of it, also before the interruption


def test_a_write_that_fails_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    train(Line(), line_batch, tmp_path, stop_at=6)
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full(tensors, path, numbers):
        path.write_bytes(b"half a file")
        raise OSError("no space left")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        train(Line(), line_batch, tmp_path, checkpoint_every=0)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    torn = tmp_path / f"{CHECKPOINT}.12345.partial"
    torn.write_bytes(b"torn")
    train(Line(), line_batch, tmp_path, stop_at=1)
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


def test_a_checkpoint_from_before_schedules_and_state_is_continued(tmp_path):
    straight, resumed = Line(), Line(seed=8)
    train(straight, line_batch, tmp_path / "straight")
    folder = tmp_path / "old"
    train(Line(), line_batch, folder, stop_at=9)
    with safe_open(folder / CHECKPOINT, "pt") as file:
        numbers = file.metadata()
    means = json.loads(numbers["losses"])
    assert json.loads(numbers.pop("last")) != means
    old = [STEPS, LR, 0.999, [0.9, 0.99], 1e-4, 1.0, 0.05, [[1, 3], [1]], ""]
    assert numbers.keys() == {"settings", "step", "seconds", "losses", "ema_step", "schedule"}
    assert numbers["settings"] == json.dumps(old)
    save_file(load_file(folder / CHECKPOINT), folder / CHECKPOINT, numbers)
    assert next(looped(Line(), line_batch, folder, stop_at=9)) == (8, means)  # the step's own were not kept
    train(resumed, line_batch, folder)
    assert torch.equal(weights(resumed), weights(straight))


@pytest.mark.parametrize("options, match", [
    ({"schedule": "cosine"}, "schedule is 'cosine': choose one of one-cycle, constant"),
    ({"optimizer": "adam"}, "optimizer is 'adam': choose one of adamw, adafactor"),
    *(({"ema_decay": decay}, f"ema_decay is {decay}: give a number between 0 and 1, or None for no EMA")
      for decay in (0, 1, -0.5, 1.5, math.nan)),
    *(({"lr": lr}, f"lr={lr!r} does not fit; give a finite number, at least 0")
      for lr in (math.nan, math.inf, -1e-3, "fast", None)),
    ({"lr": 0}, "lr=0 trains nothing; give a rate above 0"), ({"lr": 0.0}, "lr=0 trains nothing"),
    *(({"steps": steps}, f"steps={steps!r} is not a count that fits; give a whole number from 1 on")
      for steps in (0, -1, 2.5, None)),
    ({"stop_at": -1}, "stop_at=-1 is not a count that fits"), ({"clip": math.nan}, "clip=nan does not fit"),
    ({"warmup": 2}, "warmup=2 does not fit; give a finite number, at least 0, at most 1"),
    ({"weight_decay": -1}, "weight_decay=-1 does not fit"),
    ({"state": {"names": ["marlow"]}}, "state\\['names'\\] is a list: make it a tensor"),
    ({"state": {"a": torch.zeros(2), "b": 3.0}}, "state\\['b'\\] is a float: make it a tensor"),
])  # fmt: skip
def test_bad_options_are_refused_before_anything_is_done(tmp_path, options, match):
    with pytest.raises(ValueError, match=match) as error:
        train(Line(), line_batch, tmp_path / "new", **options)
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


STATE = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}


@pytest.mark.parametrize("changes", [
    {"schedule": "one-cycle"}, {"ema_decay": 0.999}, {"state": None}, {"state": {}}, {"optimizer": "adafactor"},
    {"state": {"a": torch.zeros(2, 3)}}, {"state": STATE | {"c": torch.zeros(1)}},
    {"state": {"a": torch.zeros(2, 3), "c": torch.zeros(4)}}, {"state": STATE | {"b": torch.zeros(5)}},
    {"state": STATE | {"b": torch.zeros(4, dtype=torch.float64)}},
])  # fmt: skip
def test_another_schedule_ema_or_state_is_refused(tmp_path, changes):
    train(Line(), line_batch, tmp_path, stop_at=4, **PLAIN, state=STATE)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match="made with other settings: remove it, or choose another folder") as error:
        train(Line(), line_batch, tmp_path, **(PLAIN | {"state": STATE} | changes))
    assert "\n" not in str(error.value) and (tmp_path / CHECKPOINT).read_bytes() == before
    turned = dict(reversed(STATE.items()))  # their order is none of the settings
    assert train(Line(), line_batch, tmp_path, **PLAIN, state=turned)["steps"] == STEPS


def test_a_default_checkpoint_is_refused_to_other_schedules_and_states(tmp_path):
    train(Line(), line_batch, tmp_path, stop_at=4)
    for changes in ({"schedule": "constant"}, {"ema_decay": None}, {"state": STATE}):
        with pytest.raises(ValueError, match="other settings"):
            train(Line(), line_batch, tmp_path, **changes)


@pytest.mark.parametrize("new", [
    {"a": torch.zeros(3)}, {"a": torch.zeros(2, dtype=torch.float64)}, {"a": torch.zeros(2), "b": torch.zeros(1)}, {},
])  # fmt: skip
def test_a_state_that_changes_its_kind_is_an_error(tmp_path, new):
    state = {"a": torch.zeros(2)}
    with pytest.raises(ValueError, match="keep names, shapes and dtypes") as error:
        for step, _ in looped(Line(), line_batch, tmp_path, state=state, checkpoint_every=0):
            if step == 5:
                state.clear()
                state.update(new)
    assert "\n" not in str(error.value) and "'a': 'float32 [2]'" in str(error.value)
    with safe_open(tmp_path / CHECKPOINT, "pt") as file:  # the last whole one is of the old kind
        assert file.metadata()["step"] == "6" and file.get_tensor("state.a").shape == (2,)


# ---- what cannot be trained, or gone on with --------------------------------------------------------------


@pytest.mark.parametrize("batch, match", [
    (None, "batch.3. is None; return a dict of tensors"), ([], r"is \[\]; return a dict"), ({}, "is {}; return a dict"),
    ({"x": 1.0}, "has 1.0 as 'x'; make it a tensor"), ({"x": torch.tensor(1.0)}, "as 'x'; make it a tensor"),
])  # fmt: skip
def test_a_batch_of_another_kind_is_one_line(tmp_path, one_line, batch, match):
    match = f"^training: .*{match}"
    one_line(ValueError, match, train, Line(), lambda step: line_batch(step) if step < 3 else batch, tmp_path)


@pytest.mark.parametrize("losses, match", [
    (None, "no dict of tensors"), (torch.zeros(()), "no dict of tensors"), ({"loss": 1.0}, "no dict of tensors"),
    ({"loss": torch.zeros(2)}, "with one number each"), ({"error": torch.zeros((), requires_grad=True)}, 'no "loss"'),
    ({"loss": torch.zeros(())}, 'no "loss" that depends on the weights; return one from the task'), ({}, 'no "loss"'),
])  # fmt: skip
def test_losses_of_another_kind_are_one_line(tmp_path, one_line, monkeypatch, losses, match):
    monkeypatch.setattr(Line, "forward", lambda self, x, y: losses)
    one_line(ValueError, f"^training: the losses of step 0 .*{match}", train, Line(), line_batch, tmp_path)


def test_nothing_to_train_is_said(tmp_path, one_line):
    task = Line().requires_grad_(False)
    one_line(ValueError, "nothing would be trained", train, task, line_batch, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_a_file_is_said(tmp_path, one_line):
    (tmp_path / "taken").write_text("a file")
    for place in ("taken", "taken/below"):
        match = r"nothing can be written to the folder .*taken.* \(a file is in the way\); name another one"
        one_line(OSError, match, train, Line(), line_batch, tmp_path / place)


def damaged(path, how):
    content = path.read_bytes()
    if how == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "another file":
        save_file({"x": torch.zeros(2)}, path)
    elif how == "no settings":
        save_file(load_file(path), path, {"step": "3"})
    elif how == "a tensor less":
        with safe_open(path, "pt") as file:
            texts = file.metadata()
        save_file({key: value for key, value in load_file(path).items() if key != "adam.0.exp_avg"}, path, texts)
    elif how == "no numbers":
        with safe_open(path, "pt") as file:
            texts = file.metadata()
        save_file(load_file(path), path, texts | {"step": "three"})
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "how", ["torn", "empty", "another file", "no settings", "a tensor less", "no numbers", "a folder"]
)
def test_a_damaged_checkpoint_is_one_line_and_stays(tmp_path, one_line, how):
    train(Line(), line_batch, tmp_path, stop_at=4)
    path = tmp_path / CHECKPOINT
    damaged(path, how)
    before = path.read_bytes() if path.is_file() else None
    match = rf"{CHECKPOINT} is damaged \(.+\); remove it, and training begins anew$"
    one_line(ValueError, match, train, Line(), line_batch, tmp_path)
    assert before is None or path.read_bytes() == before
