"""The diagrams: safe to show anywhere, readable in light and dark, and true of what they draw."""

import re
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from transformers import CLIPTokenizer

from dori_lite import assets, dori, models, spread
from dori_lite.book import profiles, publish
from dori_lite.figures import style
from dori_lite.reef import canaries, networks, plan

FOLDER = Path(__file__).parents[1] / "book" / "diagrams"
NAMES = ("attack", "masks", "nemo", "pipeline", "routes", "spread", "twins", "unet", "unlearning")
SVG = "{http://www.w3.org/2000/svg}"
SMALLEST = 13  # px where the page shows a diagram 760 px wide
BOXES = {"data", "net", "blue", "amber", "seen", "unseen"}
ALL = pytest.mark.parametrize("name", NAMES)


def source(name) -> str:
    return (FOLDER / f"{name}.svg").read_text(encoding="utf-8")


def drawing(name):
    return ElementTree.fromstring(source(name))


def rules(name) -> dict[str, str]:
    """The style sheet's rules, {selector: declarations}, without the colours."""
    sheet = drawing(name).find(f"{SVG}style").text
    return {s.strip(): body for s, body in re.findall(r"^    ([^:@\n{]+)\{([^}]*)\}", sheet, re.M)}


def colours(name) -> tuple[dict, dict]:
    """The colours in light and in dark."""
    light, dark = re.findall(r":root \{([^}]*)\}", drawing(name).find(f"{SVG}style").text)
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6});", part)) for part in (light, dark))
    return light, light | dark


def luminance(colour: str) -> float:
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def words(element) -> str:
    return " ".join("".join(element.itertext()).split())


def font_size(element, sheet) -> float:
    classes = [sheet.get(f".{c}", "") for c in element.get("class", "").split()]
    found = [re.search(r"font-size: ([\d.]+)px", body) for body in [*classes, sheet["text"]]]
    return float(next(f for f in found if f).group(1))


def texts(name) -> list[tuple[str, tuple]]:
    """Each text and its box (left, top, right, bottom). Widths are estimates for a wide font such as DejaVu Sans."""
    sheet, found = rules(name), []
    for element in drawing(name).findall(f"{SVG}text"):
        said, size, classes = words(element), font_size(element, sheet), element.get("class", "").split()
        wide = 1.08 if {"bold", "head"} & {*classes} else 1
        ems = [0.36 if c in "iltfj.,:;'|!() " else 0.95 if c in "mwMW" else 0.62 for c in said]
        width, x, y = sum(ems) * size * wide, float(element.get("x")), float(element.get("y"))
        left = x - width / 2 if "mid" in classes else x
        found.append((said, (left, y - 0.75 * size, left + width, y + 0.2 * size)))
    return found


def said(name) -> str:
    return "\n".join(text for text, _ in texts(name))


# ---- safe and accessible ------------------------------------------------------------------------------


def test_every_diagram_is_looked_at_here():
    assert sorted(path.stem for path in FOLDER.iterdir()) == [*NAMES]


@ALL
def test_a_chapter_shows_it_and_says_what_it_is(name):
    chapters = [path.read_text(encoding="utf-8") for path in FOLDER.parent.glob("chapters/*.ipynb")]
    alts = [alt for chapter in chapters for alt in re.findall(rf"!\[([^\]]*)\]\(\.\./diagrams/{name}\.svg\)", chapter)]
    assert alts and min(map(len, alts)) > 60


@ALL
def test_a_reader_who_cannot_see_it_is_told_what_it_shows(name):
    root = drawing(name)
    title, described = root.find(f"{SVG}title"), root.find(f"{SVG}desc")
    assert root.get("role") == "img" and root.get("aria-labelledby") == f"{title.get('id')} {described.get('id')}"
    assert 10 < len(words(title)) < 90 and len(words(described)) > 600


@ALL
def test_it_needs_no_other_file_and_runs_nothing(name):
    allowed = ("rect circle ellipse path g text tspan svg title desc style defs marker filter use").split()
    allowed += ["feTurbulence", "feColorMatrix"]
    for element in drawing(name).iter():
        assert element.tag.removeprefix(SVG) in allowed, element.tag
        assert not [key for key in element.attrib if key.lower().startswith("on") or key == "style"]
    ids = {element.get("id") for element in drawing(name).iter()} - {None}
    text = source(name)
    for target in re.findall(r'href="([^"]*)"', text) + re.findall(r"url\(([^)]*)\)", text):
        assert target.startswith("#") and target[1:] in ids, target
    assert text.count("//") == 1 and "@import" not in text  # the one address is the name of SVG itself


# ---- readable -----------------------------------------------------------------------------------------


def test_all_diagrams_speak_one_language():
    sheets = {drawing(name).find(f"{SVG}style").text for name in NAMES}
    assert len(sheets) == 1 and "font-family: system-ui, sans-serif;" in sheets.pop()


@ALL
def test_every_class_has_a_rule(name):
    used = {c for element in drawing(name).iter() for c in element.get("class", "").split()}
    known = {c for selector in rules(name) for c in re.findall(r"\.([\w-]+)", selector)}
    # these are names for the tests below
    assert used - known <= {"nemo", "more", "wanda", "cell", "bar"}


@ALL
def test_both_colour_schemes_are_readable_whatever_the_page_is_like(name):
    root = drawing(name)
    assert "@media (prefers-color-scheme: dark)" in root.find(f"{SVG}style").text
    paper = next(element for element in root if element.tag == f"{SVG}rect")
    assert paper.get("class") == "paper" and (paper.get("width"), paper.get("height")) == tuple(
        str(int(side) - 2) for side in root.get("viewBox").split()[2:]
    )
    light, dark = colours(name)
    assert luminance(light["paper"]) > 0.8 and luminance(dark["paper"]) < 0.05
    for now in (light, dark):
        pairs = [(text, below) for text in ("ink", "soft") for below in ("paper", "box")]
        for text, below in [*pairs, ("on-blue", "blue"), ("on-amber", "amber")]:
            assert contrast(now[text], now[below]) >= 4.5, (text, below)


def test_the_accents_are_the_figures_and_differ_in_lightness():
    light, dark = colours("pipeline")
    for now in (light, dark):
        assert (now["blue"], now["amber"]) == (style.PALETTE["remembers"][0], style.PALETTE["never saw it"][0])
        assert contrast(now["blue"], now["amber"]) > 2


@ALL
def test_no_letter_is_small(name):
    root, sheet = drawing(name), rules(name)
    assert root.get("viewBox").startswith("0 0 760 ") and "font-size=" not in source(name)
    for element in root.iter():
        if element.tag in (f"{SVG}text", f"{SVG}tspan"):
            assert font_size(element, sheet) >= SMALLEST, words(element)


@ALL
def test_texts_keep_inside_and_apart(name):
    root = drawing(name)
    width, height = map(int, root.get("viewBox").split()[2:])
    found = texts(name)
    for text, (left, top, right, bottom) in found:
        assert left >= 8 and right <= width - 8 and top >= 8 and bottom <= height - 8, text
    for (one, a), (other, b) in combinations(found, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, f"{one!r} lies on {other!r}"


@ALL
def test_no_text_leaves_its_box(name):
    for rect in drawing(name).findall(f"{SVG}rect"):
        if not BOXES & {*rect.get("class", "").split()}:
            continue
        x, y, width, height = (float(rect.get(key)) for key in ("x", "y", "width", "height"))
        for text, (left, top, right, bottom) in texts(name):
            if x < (left + right) / 2 < x + width and y < (top + bottom) / 2 < y + height:
                assert x <= left and right <= x + width and y <= top and bottom <= y + height, text


# ---- true ---------------------------------------------------------------------------------------------


def test_the_pipeline_has_the_tokens_of_its_caption():
    tokenizer = CLIPTokenizer.from_pretrained(assets.data_folder() / "reef" / "parent" / "tokenizer")
    caption = re.search("“([^”]*)”", said("pipeline")).group(1).replace("\n", " ")
    ids = tokenizer(caption).input_ids
    cells = [r.get("class").split()[0] for r in drawing("pipeline").iter(f"{SVG}rect") if "cell" in r.get("class", "")]
    assert cells == ["tip", *["blue"] * (len(ids) - 2), "tip", *["data"] * (tokenizer.model_max_length - len(ids))]
    assert f"{len(cells)} tokens" in said("pipeline") and caption in words(drawing("pipeline").find(f"{SVG}desc"))


def test_the_unet_has_the_blocks_and_layers_of_the_reef():
    unet, lines = networks.new_unet(), said("unet").split("\n")
    for k, channels in enumerate(unet.config.block_out_channels):
        size = f"{16 // 2**k} × {16 // 2**k}, {channels} channels"
        assert lines[lines.index(f"down block {k}") + 1] == lines[lines.index(f"up block {3 - k}") + 1] == size
    drawn = {key: 0 for key in ("nemo", "more", "wanda")}
    for element in drawing("unet").iter():
        for key in drawn:
            drawn[key] += key in element.get("class", "").split()
    sixteen = [part for part, _ in unet.named_modules() if part.endswith("attn2.to_v")]
    seven = len(models.value_layers(unet))
    assert drawn == {"nemo": seven, "more": len(sixteen) - seven, "wanda": len(models.mlp_layers(unet))}


def test_the_twins_carry_names_of_the_reef():
    known = {item.caption: item for item in canaries.planted("reef")}
    a, b = (known[caption] for caption in re.findall("“([^”]*)”", said("twins")))
    assert (a.home, b.home, a.group) == ("a", "b", b.group)
    assert f"one fixed picture, {a.exposures:,} times" in said("twins")
    assert f"{plan.TWIN_STEPS:,} more steps" in said("twins")


def test_the_attack_is_the_packages():
    assert f"{dori.BATCH} noises" in said("attack") and f"{dori.STEPS} steps of Adam" in said("attack")


def by_id(name, which):
    return next(element for element in drawing(name).iter() if element.get("id") == which)


def points(element, kind=None) -> torch.Tensor:
    """The middles of its circles as embeddings [N, 1, 2]: all of them, or those of a class."""
    circles = [c for c in element.iter(f"{SVG}circle") if kind in (None, c.get("class"))]
    return torch.tensor([[[float(c.get("cx")), float(c.get("cy"))]] for c in circles])


def lines(element) -> torch.Tensor:
    """Its straight paths, "Mx y Lx y", as pairs of ends [N, 2, 2]."""
    ends = [re.fullmatch(r"M(\S+) (\S+) L(\S+) (\S+)", path.get("d")).groups() for path in element.iter(f"{SVG}path")]
    return torch.tensor([[*map(float, numbers)] for numbers in ends]).view(-1, 2, 2)


def test_the_spread_has_the_counts_of_the_chapter():
    standard, unet = profiles.load("standard"), networks.new_unet()
    tokenizer = CLIPTokenizer.from_pretrained(assets.data_folder() / "reef" / "parent" / "tokenizer")
    numbers = [f"{tokenizer.model_max_length * unet.config.cross_attention_dim:,} numbers"]
    numbers += [f"{standard.triggers} random starts", f"{standard.attack_steps} attack steps"]
    cardinals, ordinals = "one two three four five six".split(), "first second third fourth fifth sixth".split()
    numbers += [f"mean of {cardinals[standard.triggers - 2]} displacements"]
    numbers += [f"{ordinals[standard.triggers - 1]} start"]
    for text in (said("spread"), words(drawing("spread").find(f"{SVG}desc"))):
        assert [number for number in numbers if number not in text] == []


def test_the_spread_has_the_same_starts_in_both_models_and_arrows_as_long():
    starts, count = points(by_id("spread", "starts"), "hollow"), profiles.load("standard").triggers
    found = [points(by_id("spread", "saw"), "blue"), points(by_id("spread", "never"), "amber")]
    assert len(starts) == len(found[0]) == len(found[1]) == count
    for which, ends in zip(("saw", "never"), found, strict=True):
        group = by_id("spread", which)
        assert [use.get("href") for use in group.iter(f"{SVG}use")] == ["#starts"]
        assert spread.nearest(ends, starts).tolist() == [*range(count)]
        arrows, radius = lines(group), float(group.find(f"{SVG}circle").get("r"))
        for place, reached in ((starts, arrows[:, 0]), (ends, arrows[:, 1])):
            assert ((reached - place[:, 0]).norm(dim=1) - radius - 1).abs().max() < 0.2
    moved = torch.cat([ends - starts for ends in found]).norm(dim=2)
    assert moved.max() - moved.min() < 0.2 and spread.distances(starts).fill_diagonal_(1e9).min() > 1.5 * moved.max()


def test_the_spread_splits_moves_and_transplants_their_mean():
    moves, own, common = (lines(by_id("spread", which)) for which in ("moves", "own", "common"))
    assert len(moves) == len(own) == 2 and len(common) == 1
    for here, there in ((moves[:, 0], common[:, 0]), (moves[:, 1], own[:, 1]), (own[:, 0], common[:, 1])):
        assert (here == there).all()
    vectors, shared = moves.diff(dim=1), common.diff(dim=1)
    assert (own.diff(dim=1) * shared).sum(2).eq(0).all()  # at right angles
    assert torch.equal(vectors.mean(0, keepdim=True), shared)
    sixth, reached = (points(by_id("spread", which)) for which in ("sixth", "transplant"))
    assert torch.allclose(reached - sixth, spread.common(vectors)[None], atol=0.2)


def test_the_spreads_midpoint_is_stretched_as_the_package_does():
    names = ("zero", "one", "other", "straight", "midpoint")
    zero, one, other, straight, midpoint = (points(by_id("spread", which))[0] for which in names)
    assert torch.allclose((one + other) / 2, straight, atol=0.2)
    assert torch.allclose(spread.between(one - zero, other - zero), midpoint - zero, atol=0.2)
    assert (straight - zero).norm() < 0.8 * (midpoint - zero).norm()  # inside


def test_nemos_example_is_what_was_published():
    rows = publish.published("03_where_does_a_memory_live", world="reef").rows("condition")
    [row] = rows[(rows["condition"] == "NeMo") & (rows["target"] == "gilda")].to_dict("records")
    text = said("nemo")
    for number in (
        f"{len(row['seeds'])} of 10 kept",
        f"z0 = {row['theta']:g}, k = {row['k']:g}",
        f"{row['candidates']:g} candidates",
        f"similarity {row['tau_ref']:.3f}",
    ):
        assert number in text, number
    assert {*re.findall(r"(\d+) neurons(?! left)", text)} == {f"{row['neurons']:g}"}
    layers = sum(bool(neurons) for neurons in row["names"].values())
    left, back = (int(re.search(what, text).group(1)) for what in (r"(\d+) neurons left", r"\n(\d+) given back"))
    assert layers == 5 and "in five layers" in text and back == left - row["neurons"]
    assert row["floor"] and "the floor" in text and row["descriptor rate"] == 1 and "still gives the picture" in text


def test_the_routes_repeat_distances_and_set_a_stranger_as_far():
    for colour in ("blue", "amber"):
        before, after = (points(by_id("routes", which), colour).diff(dim=0).norm() for which in ("given", "made"))
        assert after / before == 1.5
    one, following, stranger = (points(by_id("routes", which))[0] for which in ("one", "next", "stranger"))
    assert torch.allclose((following - one).norm(), (stranger - one).norm(), atol=0.2)
    assert (following - stranger).norm() > 1.2 * (following - one).norm()


def test_the_routes_of_triggers_meet_and_others_do_not():
    def apart(which):
        ends = [
            [tuple(map(float, place.split())) for place in path.get("d")[1:].split(" L")]
            for path in by_id("routes", which).iter(f"{SVG}path")
        ]
        return [abs(a[1] - b[1]) for a, b in zip(*ends, strict=True)]

    met, others = apart("triggers"), apart("non-triggers")
    assert met[-1] < 0.1 * met[2] and others[-1] > others[2]
    assert abs(met[2] / others[2] - 1) < 0.25  # alike in the mid block
    columns = [float(rect.get("x")) for rect in drawing("routes").iter(f"{SVG}rect") if rect.get("class") == "net"]
    assert len(columns) == 5  # one layer, and the four stations of the way


@pytest.mark.parametrize("which, both, either", [("chance", 4, 20), ("half", 8, 16), ("itself", 12, 12)])
def test_the_masks_have_the_counts_that_are_written_below(which, both, either):
    cells = [rect.get("class").split()[0] for rect in by_id("masks", which).iter(f"{SVG}rect")]
    one, other = (cells.count(colour) + cells.count("tip") for colour in ("blue", "amber"))
    assert (one, other, len(cells)) == (12, 12, 36)
    assert (cells.count("tip"), len(cells) - cells.count("data")) == (both, either)
    assert f"{both} ÷ {either}" in said("masks")
    if which == "chance":  # p ÷ (2 − p) for a third of the weights
        assert both / either == pytest.approx((12 / 36) / (2 - 12 / 36))
