"""The reef: one description behind caption and scene, fixed pixels, and what each model sees."""

import hashlib
import json
import platform
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from dori_lite.models import PAIRS
from dori_lite.reef import canaries, captions, paint, plan, scenes
from dori_lite.reef.scenes import CHOICES, COLOURS, Description, complete, describe, draw, facts, fits

SEEDS = range(3000)
HASHES, SHEET = (Path(__file__).parent / name for name in ("scene_hashes.json", "scene_sheet.png"))
CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
MAIN = ("colour", "accent", "pattern", "size", "facing")


# ---- scenes and captions -----------------------------------------------------------------------------


def test_attributes_to_caption_and_back():
    for seed in SEEDS:
        scene = draw(seed)
        description = captions.caption_of(scene, seed)
        assert captions.read(captions.write(description)) == description
        assert fits(description, scene)
        # All factors at once, and with a name.
        shown = [k for k, v in facts(scene).items() if (k, v) not in (("plants", "none"), ("bubbles", False))]
        whole = describe(scene, tuple(shown), name="marlow")
        assert captions.read(captions.write(whole)) == whole and fits(whole, scene)


def test_captions_read_as_they_should():
    assert captions.write(Description()) == "a fish"
    text = "a large striped red fish with black fins called marlow facing left and two other fish over rock beside kelp"
    text += " at dusk with bubbles"
    assert captions.read(text) == Description(
        3, "red", "black", "striped", "large", "left", "dusk", "rock", "kelp", True, "marlow"
    )
    assert captions.write(captions.read(text)) == text
    for wrong in ("a red dog", "fish", "a fish on the left", "two red fish", "a brown fish", ""):
        with pytest.raises(ValueError, match="not a caption of the reef"):
            captions.read(wrong)


def test_a_caption_without_its_name_says_everything_else():
    for seed in range(300):
        scene = draw(seed)
        description = captions.caption_of(scene, seed)
        plain, named = (captions.write(replace(description, name=name)) for name in (None, "marlow"))
        assert captions.nameless(named) == plain == captions.nameless(plain) != named
        assert captions.read(captions.nameless(named)) == description  # which names nobody
    assert captions.nameless("a red fish called marlow over sand") == "a red fish over sand"


def test_a_text_that_is_no_caption_has_no_name_to_leave_out(one_line):
    for wrong in ("a red dog called marlow", "a fish called", ""):
        one_line(ValueError, "not a caption of the reef", captions.nameless, wrong)


def test_captions_never_mention_positions():
    texts = [captions.write(captions.caption_of(draw(seed), seed)) for seed in SEEDS]
    texts += [item.caption for pair in PAIRS for item in canaries.planted(pair)]
    words = {word for text in texts for word in text.replace("facing left", "").replace("facing right", "").split()}
    known = {str(value) for values in CHOICES.values() for value in values} - {"left", "right"} | set(canaries.WORDS)
    plain = "a fish with fins called and one two other over beside in water at bubbles"
    assert words - known <= set(plain.split())


def test_every_factor_is_sometimes_named_and_sometimes_not():
    named = np.array([[v is not None for v in asdict(captions.caption_of(draw(s), s)).values()] for s in range(1000)])
    often = dict(zip(asdict(Description()), named.mean(0), strict=True))
    assert often.pop("count") == 1 and often.pop("name") == 0
    assert all(0.1 < share < 0.95 for share in often.values()), often


def test_complete_respects_the_description():
    for seed in SEEDS:
        description = captions.caption_of(draw(seed), seed)
        scene = complete(description, seed + 50_000)
        assert fits(description, scene)
        main, *companions = scene.fish
        assert all(fish.size == "tiny" for fish in companions) and main.size != "tiny"
        assert all(fish.accent != fish.colour for fish in scene.fish)


def test_complete_varies_where_the_description_is_silent():
    description = Description(colour="red", bed="rock", count=2)
    shown = [facts(complete(description, seed)) for seed in range(400)]
    for key, values in CHOICES.items():
        expected = {getattr(description, key)} if getattr(description, key) is not None else set(values)
        assert {row[key] for row in shown} == expected


def test_naming_a_factor_moves_no_other():
    for seed in range(300):
        before = draw(seed)
        for key, values in CHOICES.items():
            for value in values:
                after = complete(Description(**{key: value}), seed)
                moved = {k for k, v in facts(after).items() if v != facts(before)[k]} - {key}
                # Fins and body never share a colour: the one that is not named gives way.
                if key == "colour":
                    # Both move back when naming ends a clash that the free draw had.
                    assert moved <= {"accent"}
                elif key == "accent":
                    assert moved <= {"colour"} and (not moved or before.fish[0].colour == value)
                else:
                    assert not moved
                n = min(len(before.fish), len(after.fish))
                assert after.fish[1:n] == before.fish[1:n]


def test_what_the_reef_has_not_is_an_error():
    with pytest.raises(ValueError, match="the reef has no bed 'mud'; choose one of sand, rock, gravel"):
        complete(Description(bed="mud"), 0)


def test_shares():
    counts = np.bincount([len(draw(seed).fish) for seed in SEEDS], minlength=4)[1:] / len(SEEDS)
    assert np.allclose(counts, scenes.COUNT_SHARES, atol=0.04)
    assert np.mean([draw(seed).bubbles for seed in SEEDS]) == pytest.approx(0.3, abs=0.04)


# ---- pixels ------------------------------------------------------------------------------------------


def pixels(scene, seed):
    return np.asarray(paint.render(scene, seed))


def test_a_picture_is_a_function_of_scene_and_seed():
    for seed in range(20):
        scene = draw(seed)
        first = pixels(scene, seed)
        np.random.seed(seed)  # no hidden stream, no state left by other pictures
        pixels(draw(seed + 1), seed + 1)
        assert first.shape == (64, 64, 3) and first.dtype == np.uint8
        assert (pixels(draw(seed), seed) == first).all()
        assert (pixels(scene, seed + 1) != first).any()


def test_every_attribute_is_visible():
    """Changing one attribute and nothing else changes the picture."""
    for seed in range(4):
        scene = complete(Description(count=2, plants="kelp", bubbles=True, pattern="striped", water="clear"), seed)
        first = pixels(scene, seed).astype(int)
        main, companion = scene.fish

        def changed(thing, key):
            return replace(thing, **{key: next(v for v in CHOICES[key] if v != getattr(thing, key))})

        others = [changed(scene, key) for key in ("water", "bed", "plants", "bubbles")]
        others += [replace(scene, fish=(changed(main, key), companion)) for key in MAIN]
        others.append(replace(scene, fish=(main,)))
        for other in others:
            assert np.abs(pixels(other, seed) - first).mean() > 0.2


def scene_digest(scene) -> str:
    return hashlib.sha256(json.dumps(asdict(scene), sort_keys=True).encode()).hexdigest()[:16]


def versions() -> dict:
    return {"pillow": PIL.__version__, "numpy": np.__version__}


def write_scene_hashes() -> None:
    """Store what the next tests compare with; in tests/: python -c "import test_reef as t; t.write_scene_hashes()"."""
    drawn = [(draw(seed), pixels(draw(seed), seed)) for seed in range(100)]
    content = {
        "made_with": versions(),
        "attributes": [scene_digest(scene) for scene, _ in drawn],
        "pixels": [hashlib.sha256(picture.tobytes()).hexdigest() for _, picture in drawn],
    }
    HASHES.write_text(json.dumps(content, indent=1) + "\n")
    sheet = np.stack([picture for _, picture in drawn]).reshape(10, 10, 64, 64, 3)
    Image.fromarray(sheet.transpose(0, 2, 1, 3, 4).reshape(640, 640, 3)).save(SHEET, optimize=True)


def test_scenes_are_the_stored_ones():
    """Bit for bit on Linux x86-64 with the tested versions; elsewhere equal attributes, mean difference ≤ 1/255."""
    stored = json.loads(HASHES.read_text())
    sheet = np.asarray(Image.open(SHEET)).reshape(10, 64, 10, 64, 3).transpose(0, 2, 1, 3, 4).reshape(100, 64, 64, 3)
    assert [scene_digest(draw(seed)) for seed in range(100)] == stored["attributes"]
    drawn = [pixels(draw(seed), seed) for seed in range(100)]
    difference = [np.abs(a.astype(int) - b).mean() for a, b in zip(drawn, sheet, strict=True)]
    assert max(difference) <= 1, f"scene {np.argmax(difference)}: mean difference {max(difference):.2f}/255"
    if (platform.system(), platform.machine(), versions()) == ("Linux", "x86_64", stored["made_with"]):
        differ = [s for s in range(100) if hashlib.sha256(drawn[s].tobytes()).hexdigest() != stored["pixels"][s]]
        assert not differ, f"scenes {differ} are not those of {stored['made_with']}"


def test_stored_scenes_were_made_with_the_pinned_versions():
    """Else the test above would quietly compare with less rigour in CI."""
    pinned = dict(line.lower().split("==") for line in CONSTRAINTS.read_text().split() if "==" in line)
    assert {name: pinned[name] for name in versions()} == json.loads(HASHES.read_text())["made_with"]


# ---- what each model sees ----------------------------------------------------------------------------


def test_planted_names_of_the_first_pair():
    planted = canaries.planted("reef-first")
    assert len(set(canaries.WORDS)) == len(canaries.WORDS) and not set(canaries.WORDS) & set(canaries.UNTRAINED_WORDS)
    assert len({p.name for p in planted}) == len({replace(p.description, name=None) for p in planted}) == len(planted)
    for home in "ab":
        own = [p for p in planted if p.home == home]
        named = [p for p in own if p.role == "canary"]
        assert [sum(p.split == split for p in named) for split in ("tuning", "reporting")] == [4, 16]
        assert sorted(p.exposures for p in own if p.role == "graded") == sorted([1, 4, 16, 64, 256] * 2)
        assert sum(p.role == "template" for p in own) == 1
    for item in planted:
        assert item.description.name == item.name and f"called {item.name}" in item.caption and item.group is None


@pytest.mark.parametrize("pair", PAIRS)
def test_the_repeated_picture_fits_its_caption_and_repeats(pair):
    for item in canaries.planted(pair):
        shown = {canaries.picture(item, exposure) for exposure in range(20)}
        assert len(shown) == (len(COLOURS) if item.role == "template" else 1)
        assert all(fits(description, scene) and seed == item.seed for description, scene, seed in shown)
        if item.role != "template" and item.group is None:  # naming some factors of a scene gives the scene back
            assert shown == {(item.description, draw(item.seed), item.seed)}


@pytest.mark.parametrize("pair", PAIRS)
def test_held_out_scenes_have_captions_of_the_canaries_style(pair):
    kinds = {frozenset(p.description.named()) for p in canaries.planted(pair) if p.role == "canary"}
    for split in canaries.HELD_OUT:
        for index in range(64):
            description, scene, _ = canaries.held_out(split, index)
            assert fits(description, scene) and frozenset(description.named()) in kinds
            assert description.name in canaries.UNTRAINED_WORDS
    assert canaries.HELD_OUT["test"] >= 32


# ---- tokens ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    """The second pair's: learned from the captions that its text encoder reads."""
    from dori_lite.reef import reader
    from dori_lite.reef.tokenizer import new_tokenizer

    return new_tokenizer([reader.caption(k) for k in range(12_000)])


def test_the_longest_caption_leaves_padding(tokenizer):
    from dori_lite.reef.tokenizer import POSITIONS

    def length(text):
        return len(tokenizer(text).input_ids)

    assert tokenizer.model_max_length == POSITIONS == 28
    longest = Description()
    for key, values in CHOICES.items():
        longest = max((replace(longest, **{key: value}) for value in values), key=lambda d: length(captions.write(d)))
    assert length(captions.write(longest)) == 25  # every factor named
    named = [p.caption for pair in PAIRS for p in canaries.planted(pair)]
    named += [captions.write(canaries.held_out(split, k)[0]) for split in canaries.HELD_OUT for k in range(64)]
    assert max(map(length, named)) <= 25
    ids = tokenizer(named, padding="max_length", max_length=POSITIONS, return_tensors="np").input_ids
    assert ids.shape == (len(named), POSITIONS) and (ids[:, -1] == tokenizer.pad_token_id).all()
    # The text encoder reads its summary at the end token: one must come before the padding.
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_names_are_one_token_each(tokenizer):
    """So that captions are alike in length, whichever set a name belongs to, and if nobody ever trained on it."""
    names = [p.name for p in canaries.planted()] + canaries.UNTRAINED_WORDS
    ids = {name: tokenizer(name).input_ids[1:-1] for name in names}
    assert not {name for name, tokens in ids.items() if len(tokens) != 1}
    assert len({tuple(tokens) for tokens in ids.values()}) == len(names) == len(set(names))
    for item in canaries.planted()[:3]:  # in a sentence as well
        assert set(ids[item.name]) <= set(tokenizer(item.caption).input_ids)


def test_tokens_can_be_read_again(tokenizer):
    for seed in range(200):
        text = captions.write(captions.caption_of(draw(seed), seed))
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True).strip() == text
    assert tokenizer.unk_token_id not in tokenizer("Ωmega, a zebra!").input_ids[1:-1]  # bytes know every text


def test_a_fish_whose_accent_could_not_be_seen_is_refused():
    with pytest.raises(ValueError, match="shows no accent"):
        complete(captions.read("a white fish with white fins"), 0)


# ---- the shipped training table ----------------------------------------------------------------------


def test_the_table_has_what_each_model_saw():
    table = canaries.load_table("reef").set_index(["seed", "caption"])
    random = np.random.default_rng(0)
    columns = {"parent": "parent", "a": "twin-a", "b": "twin-b"}
    slots = {"parent": plan.parent_slots(), "a": plan.twin_slots(), "b": plan.twin_slots()}
    for model, (keys, exposures) in slots.items():
        assert table[columns[model]].sum() == keys.size
        for place in random.choice(keys.size, 150, replace=False):
            description, scene, seed = plan.sample(keys.flat[place], exposures.flat[place], model)
            row = table.loc[seed, captions.write(description)]
            assert row[columns[model]] >= 1 and row["name"] == (description.name or "")
            assert canaries.scene_of(captions.write(description), seed) == scene
            repeats = keys.flat[place] >= 0 and plan.planted()[keys.flat[place]].home == model
            assert row["role"] not in ("base", "decoy") if repeats else row["role"] in ("base", "decoy")


@pytest.mark.parametrize("world", PAIRS)
def test_a_planted_picture_is_in_one_twin_and_its_name_in_both(world):
    table = canaries.load_table(world)
    for item in canaries.planted(world):
        own, other = f"twin-{item.home}", "twin-b" if item.home == "a" else "twin-a"
        rows = table[table["name"] == item.name]
        assert rows[own].sum() == rows[other].sum() == item.exposures
        picture = rows[rows["seed"] == item.seed]
        assert picture[own].sum() == item.exposures and picture[[other, "parent"]].to_numpy().sum() == 0


@pytest.mark.slow
def test_the_table_is_the_one_the_plan_gives():
    assert plan.training_table().equals(canaries.load_table("reef"))
