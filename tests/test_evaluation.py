"""The one table: what is asked, what the columns say, and planted wrong detectors that it exposes."""

import copy
import math
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch

from dori_lite import copies, dori, masks
from dori_lite.copies import Detector
from dori_lite.diffusion import generate
from dori_lite.dori import find_triggers
from dori_lite.evaluation import Condition, Target, World, ask, attack, grid, judge, look, score, tabulate
from dori_lite.models import embed, encode, fingerprint, mlp_layers
from dori_lite.reef import canaries, descriptor
from dori_lite.reef.paint import paint_all
from dori_lite.runs import open_run

SIZE = 4


def flat(value):
    return torch.full((3, SIZE, SIZE), float(value))


def reef_targets(count=3):
    found = [canaries.held_out("test", k) for k in range(count)]
    pictures = paint_all([pair[1:] for pair in found]).float() / 255
    captions = ("a red fish over sand", "a blue fish", "a striped green fish at dusk")
    return [Target(f"t{k}", captions[k], picture) for k, picture in enumerate(pictures)]


# ---- asking --------------------------------------------------------------------------------------------


def test_ask_is_generate_one_by_one(pipe):
    targets, seeds = reef_targets(), (5, 0)
    images = ask(pipe, targets, seeds=seeds, steps=2, guidance=3.0, batch=4)  # batches cut across targets
    assert images.shape == (3, 2, 3, 64, 64)
    for k, target in enumerate(targets):
        for s, seed in enumerate(seeds):
            alone = generate(pipe, target.caption, seeds=seed, steps=2, guidance=3.0)[0]
            assert torch.allclose(images[k, s], alone, atol=1e-5)
    assert all((a - b).abs().max() > 1e-3 for a, b in combinations(images.flatten(0, 1), 2))


def test_ask_by_embeddings_leaves_the_captions_aside(pipe):
    targets = reef_targets()
    others = [Target(t.name, "a spotted pink fish", t.image) for t in targets]
    y = embed(pipe, [t.caption for t in targets])
    by_caption, by_embedding = (
        ask(pipe, goals, seeds=range(2), prompts=found, steps=2) for goals, found in ((targets, None), (others, y))
    )
    assert torch.allclose(by_caption, by_embedding, atol=1e-5)


def test_asking_for_nothing_is_an_error(pipe, one_line):
    targets = reef_targets(2)
    one_line(ValueError, "no targets", ask, pipe, [], seeds=[0])
    one_line(ValueError, "no seeds", ask, pipe, targets, seeds=[])
    one_line(ValueError, "two targets have one name", ask, pipe, [targets[0]] * 2, seeds=[0])
    for count in (1, 3):
        y = torch.zeros(count, 28, 16)
        one_line(ValueError, f"{count} prompts for 2 targets", ask, pipe, targets, seeds=[0], prompts=y)
    one_line(ValueError, "1 prompts for 2 targets", ask, pipe, targets, seeds=[0], prompts="a fish")
    one_line(
        ValueError,
        r"embeddings have shape \[2, 16\]; give \[N, L, D\]",
        ask,
        pipe,
        targets,
        seeds=[0],
        prompts=y[0, :2],
    )
    one_line(ValueError, "no prompts", grid, pipe, [], [0])


BAD_SEEDS = [([1, 2**32 + 1], r"a seed comes twice"),  # 32 bits of it count
             ([3, 3], r"a seed comes twice in \[3, 3\]"), (3, "seeds must be a list"), ([-1], "seed=-1 is not"),
             ([2**64], "seed=.* is not a count"), ([0.5], "seed=0.5 is not"), (["0"], "seed='0' is not"),
             ([], "no seeds")]  # fmt: skip


@pytest.mark.parametrize(("seeds", "match"), BAD_SEEDS)
def test_seeds_that_do_not_fit(pipe, world, one_line, monkeypatch, seeds, match):
    """Each seed once: a rate would count one picture twice. Refused before anything is sampled or searched."""
    [target] = reef_targets(1)
    for name in ("generate", "find_triggers"):
        monkeypatch.setattr(f"dori_lite.evaluation.{name}", lambda *_, **__: pytest.fail("too late"))
    condition, asked = world.condition(target), {"seeds": seeds, "detectors": [copies.by_ssim()]}
    one_line(ValueError, match, ask, pipe, [target], seeds=seeds)
    one_line(ValueError, match, grid, pipe, "a fish", seeds)
    one_line(ValueError, match, score, pipe, [target], **asked)
    one_line(ValueError, match, attack, world, condition, target, **asked)
    one_line(ValueError, match, look, world, condition, target, "a fish", **asked)


def test_a_caption_alone_is_one_prompt(pipe):
    found = grid(pipe, "a red fish", (2, 0), steps=2)
    assert found.shape == (1, 2, 3, 64, 64)
    assert torch.allclose(found[0, 1], generate(pipe, "a red fish", seeds=0, steps=2)[0], atol=1e-5)


# ---- the table -----------------------------------------------------------------------------------------

TARGETS = [
    Target("first", "a fish", flat(0), {"home": "a", "seed": 7}),
    Target("second", "a red fish", flat(1), {"home": "b", "seed": 8}),
]
IMAGES = torch.stack([flat(v) for v in (0, 0.25, 0.5, 1, 0.75, 0.5)]).unflatten(0, (2, 3))
NEAR = Detector("near", lambda images, targets: 1 - (images - targets).abs().mean((1, 2, 3)), 0.75)  # 1 at the edge
DARK = Detector("dark", lambda images, targets: 1 - images.mean((1, 2, 3)), 0.5)  # does not look at the target


def test_columns_and_values_by_hand():
    def brightness(images, target):
        assert images.shape == (3, 3, SIZE, SIZE) and target in TARGETS
        return images.mean((1, 2, 3)) + len(target.caption)

    table = tabulate(IMAGES, TARGETS, [NEAR, DARK], brightness)
    columns = "target home seed pictures".split()
    columns += [f"{d}{x}" for d in ("near", "dark") for x in ("", " rate", " mean", " max")]
    assert list(table.columns) == [*columns, "disagree", "diversity", "alignment", "alignment chance"]
    assert table[["target", "home", "seed", "pictures"]].values.tolist() == [
        ["first", "a", 7, 3],
        ["second", "b", 8, 3],
    ]
    expected = {
        "near rate": (2 / 3, 2 / 3),
        "near mean": (0.75, 0.75),
        "near max": (1, 1),
        "dark rate": (1, 1 / 3),
        "dark mean": (0.75, 0.25),
        "dark max": (1, 0.5),
        "disagree": (1 / 3, 1),
        "diversity": (1 / 3, 1 / 3),
        "alignment": (0.25 + 6, 0.75 + 10),
        "alignment chance": (0.25 + 10, 0.75 + 6),  # the same pictures under the other caption
    }
    for column, values in expected.items():
        assert table[column].tolist() == pytest.approx(values, abs=1e-6), column
    assert table["near"].tolist() == [[1, 0.75, 0.5], [1, 0.75, 0.5]]
    assert table["dark"].tolist() == [[1, 0.75, 0.5], [0, 0.25, 0.5]]


def test_the_unit_is_the_target():
    """As many rows as targets, whatever the seeds; and each row is what its target alone would give."""
    table = tabulate(IMAGES, TARGETS, [NEAR, DARK])
    assert len(table) == 2 and "alignment" not in table
    for k in range(2):
        alone = tabulate(IMAGES[k : k + 1], TARGETS[k : k + 1], [NEAR, DARK])
        assert alone.iloc[0].to_dict() == table.iloc[k].to_dict()
    twice = tabulate(torch.cat([IMAGES, IMAGES], 1), TARGETS, [NEAR, DARK])
    assert twice["pictures"].tolist() == [6, 6]
    assert twice["near rate"].tolist() == table["near rate"].tolist()


def test_a_single_seed_has_no_diversity():
    table = tabulate(IMAGES[:, :1], TARGETS, [NEAR])
    assert table["diversity"].isna().all() and table["pictures"].tolist() == [1, 1]
    assert table["disagree"].tolist() == [0, 0] and table["near rate"].tolist() == [1, 1]


def test_alignment_may_be_counted_in_truth_values():
    table = tabulate(IMAGES, TARGETS, [NEAR], lambda images, target: images[:, 0, 0, 0] >= 0.5)
    assert table["alignment"].tolist() == pytest.approx([1 / 3, 1])


def test_chance_is_the_mean_over_the_other_captions():
    """Three targets, two of which share a caption: that is no other caption."""
    same = Target("third", "a red fish", flat(0.5))
    images = torch.cat([IMAGES, IMAGES[:1]])
    table = tabulate(images, [*TARGETS, same], [NEAR], lambda shots, t: shots.mean((1, 2, 3)) + t.image.mean())
    assert table["alignment"].tolist() == pytest.approx([0.25 + 0, 0.75 + 1, 0.25 + 0.5])
    assert table["alignment chance"].tolist() == pytest.approx([0.25 + 0.75, 0.75 + 0, 0.25 + 0])
    alone = tabulate(IMAGES[:1], TARGETS[:1], [NEAR], lambda shots, t: shots.mean((1, 2, 3)))
    assert alone["alignment chance"].isna().all() and alone["alignment"].tolist() == [0.25]


def test_an_alignment_that_gives_no_numbers_is_refused(one_line):
    outputs = SimpleNamespace(logits_per_image=torch.ones(3, 1), scores=torch.ones(3))
    for found, match in (
        (torch.ones(2), r"alignment must be \[3\]; got float32 \[2\]"),
        (torch.full((3,), math.nan), "alignment must be finite"),
        (outputs, r"alignment must be a tensor \[3\], not a SimpleNamespace; return a tensor, such as its \.scores$"),
        (0.5, "alignment must be a tensor .* not a float"),
    ):
        one_line(ValueError, match, judge, IMAGES[0], TARGETS[0], [NEAR], lambda *_, found=found: found)
        one_line(ValueError, match, tabulate, IMAGES, TARGETS, [NEAR], lambda *_, found=found: found)


def test_three_detectors_disagree_unless_all_agree():
    never = Detector("never", NEAR.score, 2.0)
    assert tabulate(IMAGES, TARGETS, [NEAR, DARK, never])["disagree"].tolist() == pytest.approx([1, 1])


def test_score_is_both(pipe):
    targets = reef_targets(2)
    table = score(
        pipe, targets, detectors=[copies.by_ssim()], alignment=lambda i, t: i.mean((1, 2, 3)), seeds=[3, 4], steps=2
    )
    expected = tabulate(
        ask(pipe, targets, seeds=[3, 4], steps=2), targets, [copies.by_ssim()], lambda i, t: i.mean((1, 2, 3))
    )
    assert table.equals(expected)


def test_wrong_pictures_are_errors_that_say_so(one_line):
    broken = IMAGES.clone()
    broken[1, 2, 0, 0, 0] = math.nan
    message = "pictures for second are not all finite: number 2 holds NaN or infinite values"
    one_line(ValueError, message, tabulate, broken, TARGETS, [NEAR])
    one_line(ValueError, message, tabulate, broken.nan_to_num(nan=math.inf), TARGETS, [NEAR])
    one_line(ValueError, "for first must be floats .*, not uint8", tabulate, (IMAGES * 255).byte(), TARGETS, [NEAR])
    one_line(ValueError, r"pictures for first must be in \[0, 1\]", judge, IMAGES[0] * 255, TARGETS[0], [NEAR])
    for images in (IMAGES.flatten(0, 1), IMAGES[:1], IMAGES.tolist(), None):  # flattened, too few
        message = r"images have shape \[.*; give \[2 targets, seeds, 3, H, W\]"
        one_line(ValueError, message, tabulate, images, TARGETS, [NEAR])
    larger = torch.zeros(2, 3, 3, 8, 8)
    one_line(ValueError, r"pictures for first are \[3, 8, 8\]; give \[3, 4, 4\]", tabulate, larger, TARGETS, [NEAR])
    for images in (IMAGES[:, :0], IMAGES[:, :, :1]):  # no seeds, grey
        one_line(ValueError, "pictures for first have shape .*; give one or", tabulate, images, TARGETS, [NEAR])


def test_a_target_is_checked_where_it_is_made(one_line):
    nan = flat(0.5).index_fill(0, torch.tensor(1), math.nan)
    for image, match in (
        (flat(0)[None], r"'x': its image is a Tensor \[1, 3, 4, 4\]; give a tensor \[3, H, W\]"),
        (flat(0).numpy(), r"'x': its image is a ndarray \[3, 4, 4\]; give"),
        (None, "'x': its image is a NoneType"),
        (flat(0)[:1], r"'x': pictures have shape \[1, 1, 4, 4\]"),
        (flat(200).byte(), "'x': pictures must be floats in .*, not uint8; divide bytes by 255"),
        (flat(200), r"'x': pictures must be in \[0, 1\], not \[200, 200\]"),
        (nan, "'x': pictures are not all finite"),
    ):
        one_line(ValueError, f"target {match}", Target, "x", "a fish", image)
    for name, caption in (("x", None), ("x", ["a fish"]), (3, "a fish")):
        one_line(ValueError, f"target {name!r}: name and caption must be text", Target, name, caption, flat(0))
    assert Target("x", "", flat(0.5).half()).image.dtype == torch.float16


def test_wrong_targets_and_detectors_are_errors(one_line):
    one_line(ValueError, "no targets", tabulate, IMAGES[:0], [], [NEAR])
    one_line(ValueError, "two targets have one name", tabulate, IMAGES, [TARGETS[0]] * 2, [NEAR])
    small = Target("small", "a fish", torch.zeros(3, 2, 2))
    one_line(ValueError, "different sizes", tabulate, IMAGES, [TARGETS[0], small], [NEAR])
    for detectors in ([], [NEAR, NEAR], [NEAR, Detector("near", DARK.score, 0.1)]):
        one_line(ValueError, "one or more detectors of different names", tabulate, IMAGES, TARGETS, detectors)
    one_line(ValueError, "one or more detectors .*; got a Detector", judge, IMAGES[0], TARGETS[0], NEAR)
    assert tabulate(IMAGES, TARGETS, iter([NEAR])).equals(tabulate(IMAGES, TARGETS, [NEAR]))  # it serves every target
    for shape in ((3, 1), (1, 3), (1,), ()):
        wrong = Detector("wrong", lambda i, t, s=shape: torch.zeros(s), 0.5)
        one_line(ValueError, r"wrong's score must be \[3\]; got", tabulate, IMAGES, TARGETS, [NEAR, wrong])


def test_dead_features_are_refused_by_the_table():
    """Else "nothing is a copy" would read as "all is forgotten"."""
    dead = copies.by_descriptor("dead", lambda x: 0 * x.flatten(1), 0.5)
    for asked in (lambda: judge(IMAGES[0], TARGETS[0], [NEAR, dead]), lambda: tabulate(IMAGES, TARGETS, [dead])):
        with pytest.raises(ValueError, match="dead's features see nothing"):
            asked()


# ---- conditions, worlds, and the attack ----------------------------------------------------------------


SAMPLING = {"guidance": 2.0, "steps": 2, "batch": 8}


@pytest.fixture
def world(pipe):
    """Two models (one a copy with other weights), SSIM as the only detector, masks of one layer by name."""
    other = copy.deepcopy(pipe)
    for weight in other.unet.parameters():
        weight.mul_(0.9)
    models = {"twin-a": pipe, "twin-b": other}

    def localise(model, method, caption):
        assert method == "half"
        found = masks.empty(models[model].unet, list(mlp_layers(models[model].unet))[:2])
        for where in found.layers.values():
            where[: len(where) // 2] = True
        return masks.WeightMask(found.layers, fingerprint(models[model]))

    def relation(target, which):
        return {"own": "twin-a", "other": "twin-b"}[which]

    detectors = [copies.by_ssim()]
    return World("toy", models, lambda: [], lambda t: detectors, relation, localise, {}, SAMPLING)


def test_a_condition_prunes_and_restores_and_names_itself(world):
    [target] = reef_targets(1)
    before = fingerprint(world.models["twin-a"])
    pruned = world.condition(target, "own", prune="half")
    assert pruned.name == "own, half" and world.condition(target).name == "own" and world.condition(target).mask is None
    assert world.condition(target, "other").pipe is world.models["twin-b"]
    with pytest.raises(RuntimeError, match="inside"), pruned as pipe:
        assert pipe is world.models["twin-a"] and fingerprint(pipe) != before
        with pruned:  # it may be entered twice
            pass
        assert fingerprint(pipe) != before
        raise RuntimeError("inside")
    assert fingerprint(world.models["twin-a"]) == before


def test_a_model_that_was_not_loaded_is_named(world, one_line):
    [target] = reef_targets(1)
    del world.models["twin-b"]
    one_line(ValueError, "twin-b was not loaded with this world; there are: twin-a", world.condition, target, "other")


def test_a_mask_of_another_model_needs_to_be_meant(world, one_line):
    [target] = reef_targets(1)
    mask = world.condition(target, "own", prune="half").mask
    strange = Condition("strange", world.models["twin-b"], mask)
    options = {"seeds": [0], "detectors": world.detectors([target])}
    one_line(ValueError, "another model.*transfer=True", look, world, strange, target, target.caption, **options)
    meant = Condition("meant", world.models["twin-b"], mask, transfer=True)
    assert look(world, meant, target, target.caption, **options)["transfer"] is True
    assert attack(world, meant, target, at=[1], batch=2, **options).rows[0]["transfer"] is True


def asking(world):
    """The world with a localiser that keeps what it is asked."""
    asked = []
    find = world.localise
    return replace(world, localise=lambda *given: asked.append(given) or find(*given)), asked


@pytest.mark.parametrize("which, found_in, source", [
    ("own", None, "twin-a"), ("own", "own", "twin-a"), ("own", "other", "twin-b"),
    ("other", None, "twin-b"), ("other", "own", "twin-a"),
])  # fmt: skip
def test_the_mask_is_found_in_the_named_model_and_prunes_the_other(world, which, found_in, source):
    [target], (world, asked) = reef_targets(1), asking(world)
    condition = world.condition(target, which, "half", found_in)
    assert asked == [(source, "half", target.caption)]
    model = world.relation(target, which)
    assert condition.pipe is world.models[model] and condition.mask.model == fingerprint(world.models[source])
    assert condition.name == f"{which}, half" + (f", mask of {found_in}" if found_in else "")
    assert condition.transfer is (source != model)
    before = {name: fingerprint(pipe) for name, pipe in world.models.items()}
    with condition:
        assert {name for name, pipe in world.models.items() if fingerprint(pipe) != before[name]} == {model}
        for name, where in condition.mask.layers.items():
            weight = world.models[model].unet.get_submodule(name).weight
            assert where.any() and not weight[where].any() and weight[~where].any()
    assert {name: fingerprint(pipe) for name, pipe in world.models.items()} == before


def test_rows_of_a_transferred_mask_say_so_and_are_those_of_the_condition_by_hand(world):
    [target] = reef_targets(1)
    there = world.condition(target, "other", "half", found_in="own")
    mask = world.condition(target, "own", "half").mask
    by_hand = Condition("by hand", world.models["twin-b"], mask, transfer=True)
    options = {"seeds": [0, 1], "detectors": world.detectors([target])}
    row = look(world, there, target, target.caption, **options)
    assert row == look(world, by_hand, target, target.caption, **options) and row["transfer"] is True
    own = look(world, world.condition(target, "other", "half"), target, target.caption, **options)
    assert own["transfer"] is False
    assert attack(world, there, target, at=[1], batch=2, **options).rows[0]["transfer"] is True


def test_without_pruning_nothing_is_searched_and_nothing_transferred(world):
    [target], (world, asked) = reef_targets(1), asking(world)
    condition = world.condition(target, "own", found_in="other")
    assert (condition.name, condition.mask, condition.transfer) == ("own", None, False) and asked == []


def test_a_mask_of_a_model_that_was_not_loaded_is_refused_before_any_search(world, one_line):
    [target], (world, asked) = reef_targets(1), asking(world)
    del world.models["twin-b"]
    match = "twin-b was not loaded with this world; there are: twin-a$"
    one_line(ValueError, match, world.condition, target, "own", "half", found_in="other")
    one_line(ValueError, match, world.condition, target, "other", "half", found_in="own")
    assert asked == []


def test_what_a_run_keeps_of_an_attack_is_looked_at_again_after_any_step(world, tmp_path):
    [target], at = reef_targets(1), [0, 1, 3]
    condition, options = world.condition(target), {"seeds": [0, 1], "detectors": world.detectors([target])}
    run = open_run("c", "quick", 0, base=tmp_path)
    for _ in run.todo("attack", target=[target]):
        run.keep(attack(world, condition, target, at=at, batch=2, **options))
    triggers, rows = dori.stored(run.tensors("attack", target)), run.rows("attack").set_index("steps")
    assert sorted(triggers.snapshots) == at and torch.equal(triggers.snapshots[0], triggers.start)
    for step in at:
        row = look(world, condition, target, triggers.on(condition.pipe, step), **options)
        assert row["ssim"] == pytest.approx(rows.loc[step, "ssim"], abs=1e-5)


def test_an_attack_is_the_search_and_the_looks_by_hand(world):
    [target] = reef_targets(1)
    condition, at, seeds = world.condition(target, "own", prune="half"), [0, 1, 3], [4, 0]
    found = attack(
        world, condition, target, at=[3, 0, 1], seeds=seeds, detectors=world.detectors([target]), pictures=[1], batch=2
    )
    options = {"steps": 3, "snapshots": at, "streams": [target.name], "batch": 2}
    with masks.pruned(condition.pipe, condition.mask) as pipe:
        triggers = find_triggers(pipe, encode(pipe, target.image[None]), target.caption, **options)
        shots = {k: ask(pipe, [target], seeds=seeds, prompts=triggers.snapshots[k], **SAMPLING)[0] for k in at}
    assert [row["steps"] for row in found.rows] == at
    for row in found.rows:
        k = row["steps"]
        by_hand = judge(shots[k], target, [copies.by_ssim()])
        assert row["ssim"] == pytest.approx(by_hand["ssim"], abs=1e-4) and row["ssim rate"] == by_hand["ssim rate"]
        distance = (triggers.snapshots[k] - triggers.start).norm().item()
        assert row["moved"] == pytest.approx(distance, abs=1e-4) and row["transfer"] is False
    assert [len(row["losses"]) for row in found.rows] == [0, 1, 2]
    losses = sum((row["losses"] for row in found.rows), [])
    assert losses == pytest.approx(triggers.losses[0].tolist(), abs=1e-5)
    assert list(found.images) == [1] and torch.allclose(found.images[1], shots[1][0], atol=1e-4)
    assert torch.allclose(found.tensors["embeddings"], triggers.embeddings, atol=1e-4)


def test_looking_before_the_attack_only_takes_a_step_that_is_not_looked_at(world):
    [target] = reef_targets(1)
    found = attack(world, world.condition(target), target, at=[0], seeds=[0], detectors=[copies.by_ssim()], batch=2)
    assert [row["steps"] for row in found.rows] == [0] and found.rows[0]["moved"] == 0


def test_an_attack_that_is_never_looked_at_is_refused(world, one_line):
    [target] = reef_targets(1)
    options = {"at": [], "seeds": [0], "detectors": [copies.by_ssim()]}
    one_line(ValueError, "nothing to look at", attack, world, world.condition(target), target, **options)
    for at in ([-1], [0, 1.5], [True], ["1"]):
        one_line(ValueError, "at: steps=.* is not a count", attack, world, world.condition(target), target,
                 **options | {"at": at})  # fmt: skip
    one_line(ValueError, r"pictures of 7 steps cannot be kept; give some of at=\[0, 1\]", attack, world,
             world.condition(target), target, **options | {"at": [1, 0], "pictures": [0, 7]})  # fmt: skip


def test_detectors_are_looked_at_before_anything_is_computed(world, one_line, monkeypatch):
    [target] = reef_targets(1)
    for name in ("generate", "find_triggers"):
        monkeypatch.setattr(f"dori_lite.evaluation.{name}", lambda *_, **__: pytest.fail("too late"))
    none = {"seeds": [0], "detectors": []}
    one_line(ValueError, "one or more detectors", score, world.models["twin-a"], [target], **none)
    one_line(ValueError, "one or more detectors", attack, world, world.condition(target), target, **none)
    one_line(ValueError, "one or more detectors", look, world, world.condition(target), target, "a fish", **none)


def test_triggers_are_refused_elsewhere_unless_transferred(world, one_line):
    [target] = reef_targets(1)
    here, there = world.condition(target, "own", prune="half"), world.condition(target, "other")
    options = {"seeds": [0, 1], "detectors": [copies.by_ssim()]}
    kept = attack(world, here, target, at=[1], batch=2, **options)
    trigger = dori.stored(kept.tensors)
    row = look(world, here, target, trigger, **options)
    assert row["transfer"] is False and row["ssim"] == pytest.approx(kept.rows[0]["ssim"], abs=1e-4)
    open_ = world.condition(target, "own")  # the unpruned model is another one, either way
    found = dori.stored(attack(world, open_, target, at=[1], batch=2, **options).tensors)
    one_line(ValueError, "another model", look, world, here, target, found, **options)
    for condition in (there, open_):
        one_line(ValueError, "another model", look, world, condition, target, trigger, **options)
        assert look(world, condition, target, trigger, transfer=True, **options)["transfer"] is True


def test_looking_takes_one_embedding_for_all_noises_or_one_for_each(world, one_line):
    [target] = reef_targets(1)
    options = {"seeds": [0, 1], "detectors": [copies.by_ssim()]}
    y = torch.cat([embed(world.models["twin-a"], text) for text in ("a red fish", "a blue fish over sand")])
    each = look(world, world.condition(target), target, y, **options)
    one = [look(world, world.condition(target), target, part, **options)["ssim"] for part in y]
    assert each["ssim"] == pytest.approx([one[0][0], one[1][1]], abs=1e-5)
    assert look(world, world.condition(target), target, y[0], **options)["ssim"] == pytest.approx(one[0], abs=1e-5)
    same = look(world, world.condition(target), target, y, **options | {"seeds": [1, 1]})  # two texts under one noise
    assert same["ssim"] == pytest.approx([one[0][1], one[1][1]], abs=1e-5)
    one_line(ValueError, "a seed comes twice", look, world, world.condition(target), target, y[:1],
             **options | {"seeds": [1, 1]})  # fmt: skip


# ---- an instrument check, and detectors that must not pass it ---------------------------------------------


@pytest.fixture(scope="module")
def painted():
    """Eight scenes; copies of each, siblings (same attributes, other layout) and pictures of the same pixels, mixed."""
    pairs = descriptor.split("test", 8)
    images = paint_all(pairs).float() / 255
    siblings = [paint_all(descriptor.siblings(*pair, 3, start=10)).float() / 255 for pair in pairs]
    random = torch.Generator().manual_seed(0)
    mixed = images.flatten(2)[..., torch.randperm(64 * 64, generator=random)].reshape(images.shape)
    copied = torch.stack([descriptor.blur(images), images, (images * 0.97 + 0.01).clamp(0, 1)], 1)
    targets = [Target(f"s{k}", "a fish", image) for k, image in enumerate(images)]
    return targets, copied, torch.cat([torch.stack(siblings), mixed[:, None]], 1)


def passes(detector, painted) -> dict[str, bool]:
    """The bars of any detector, read off the table: copies found, all else left alone."""
    targets, copied, others = painted
    found, alarms = (
        tabulate(images, targets, [detector])[f"{detector.name} rate"].mean() for images in (copied, others)
    )
    return {"finds copies": found >= 0.95, "leaves others alone": alarms <= 0.05}


def histogram(images):
    """Eight levels of each colour: [B, 24]. It does not know where anything is."""
    level = (images * 7.999).long()
    return torch.stack([(level == k).float().mean((2, 3)) for k in range(8)], 2).flatten(1)


YES = Detector("always yes", lambda images, targets: torch.ones(len(images)), 0.5)
NO = Detector("always no", lambda images, targets: torch.zeros(len(images)), 0.5)
WRONG = {
    "always yes": (YES, {"finds copies": True, "leaves others alone": False}),
    "always no": (NO, {"finds copies": False, "leaves others alone": True}),
    "colours": (copies.by_descriptor("colours", histogram, 0.9), {"finds copies": True, "leaves others alone": False}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_detector_is_exposed(painted, name):
    detector, expected = WRONG[name]
    assert passes(detector, painted) == expected


def test_no_threshold_makes_a_histogram_of_colours_pass(painted):
    for hundredths in range(0, 101, 4):
        assert not all(passes(copies.by_descriptor("colours", histogram, hundredths / 100), painted).values())


def test_ssim_passes_and_so_does_adaptive_l2_among_near_rivals(painted):
    pairs = descriptor.split("test", 8)
    rivals = paint_all([other for pair in pairs for other in descriptor.siblings(*pair, 8, start=40)])
    for detector in (copies.by_ssim(), copies.by_adaptive_l2(rivals, n=8)):
        assert all(passes(detector, painted).values()), detector.name
    # Among few scenes of any kind a sibling is the nearest there is: this one must not be used.
    anything = copies.by_adaptive_l2(paint_all(descriptor.split("calibration", 60)))
    assert passes(anything, painted) == {"finds copies": True, "leaves others alone": False}


def test_wrong_detectors_are_told_apart_in_one_table(painted):
    targets, copied, others = painted
    table = tabulate(torch.cat([copied, others], 1), targets, [copies.by_ssim(), YES, NO])
    assert (table["disagree"] == 1).all()  # one always says yes and one always no
    assert (table["always yes rate"] == 1).all() and (table["always no rate"] == 0).all()
    assert table["ssim rate"].tolist() == pytest.approx([3 / 7] * 8)


def test_the_shipped_descriptor_passes(painted):
    assert all(passes(descriptor.detector(), painted).values())
