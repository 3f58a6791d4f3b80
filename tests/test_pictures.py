"""Drawings of pictures show what they are given, need no model, and agree with the bytes of stored pictures."""

import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image

from dori_lite.figures import explorer, pictures, style


def noise_picture():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8))


def test_pictures_pass_from_one_form_to_the_other_unchanged(tmp_path):
    image = noise_picture()
    image.save(tmp_path / "stored.png")
    tensor = pictures.as_tensor(image)
    assert tensor.dtype == torch.float32 and tensor.shape == (3, 6, 8) and tensor.is_contiguous()
    assert torch.equal(tensor, torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255)
    for same in (tmp_path / "stored.png", str(tmp_path / "stored.png"), tensor):
        assert torch.equal(pictures.as_tensor(same), tensor)
    assert (np.asarray(pictures.as_pil(tensor)) == np.asarray(image)).all()
    assert (pictures.as_array(tensor) == np.float32(np.asarray(image)) / np.float32(255)).all()


def test_values_outside_the_range_are_clipped_and_grey_pictures_get_three_channels():
    assert pictures.as_array(torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1)).ravel().tolist() == [0, 0.5, 1]
    assert pictures.as_tensor(Image.new("L", (4, 5), 255)).shape == (3, 5, 4)


@pytest.mark.parametrize(("image", "match"), [
    (torch.full((3, 4, 4), 200, dtype=torch.uint8), "must be floats in .*, not uint8; divide bytes by 255"),
    (torch.full((3, 4, 4), torch.nan), "are not all finite"),
    (torch.zeros(1, 4, 4), r"have shape \[1, 1, 4, 4\]"),
    (torch.zeros(2, 3, 4, 4), "have shape"),
    (np.zeros((4, 4)), r"not a ndarray \[4, 4\]"),
    (np.zeros((3, 4, 4)), r"not a ndarray \[3, 4, 4\]"),
    ("picture.png", r"not a str \[\]; convert it"),
    (None, r"not a NoneType \[\]"),
])  # fmt: skip
def test_what_is_no_picture_is_not_drawn(image, match, one_line):
    """Bytes would be drawn white, and NaN as nothing."""
    good = torch.zeros(3, 4, 4)
    draws = [pictures.as_array, lambda some: pictures.grid({"a": [good, some]}), explorer.png]
    draws += [lambda some: pictures.poster({"a": [(good, 0.1)]}, (0,), some, 0.5)]
    draws += [lambda some: pictures.poster({"a": [(some, 0.1)]}, (0,), good, 0.5)]
    draws += [lambda some: explorer.explore({("a",): some}, ("model",))]
    for draw in draws:
        one_line(ValueError, match, draw, image)
    assert not plt.get_fignums()


def test_a_stored_picture_leaves_no_file_open(tmp_path):
    noise_picture().save(tmp_path / "stored.png")
    image = pictures.open_image(tmp_path / "stored.png")
    assert image.mode == "RGB" and getattr(image, "fp", None) is None


def test_grid_draws_every_picture_and_label():
    rows = {"one": torch.rand(3, 3, 8, 8), "two": [Image.new("RGB", (8, 8))]}
    figure = pictures.grid(rows, columns=["a", "b", "c"], title="all")
    drawn = [image for axis in figure.axes for image in axis.images]
    assert len(drawn) == 4
    texts = {text.get_text() for axis in figure.axes for text in axis.texts} | {a.get_title() for a in figure.axes}
    assert {"one", "two", "a", "b", "c"} <= texts and figure.get_suptitle() == "all"
    assert (drawn[0].get_array() == pictures.as_array(rows["one"][0])).all()


def test_grid_without_pictures_says_so():
    with pytest.raises(ValueError, match="at least one picture"):
        pictures.grid({"none": []})


def test_maps_share_one_scale_around_zero():
    values = {"small": torch.tensor([[0.0, 0.5], [-0.25, 0.1]]), "large": torch.full((2, 2), -2.0)}
    figure = pictures.maps(values)
    drawn = {axis.get_title(): axis.images[0] for axis in figure.axes if axis.images}
    assert set(drawn) == {"small", "large"}
    assert all(image.get_clim() == (-2.0, 2.0) for image in drawn.values())
    assert (drawn["small"].get_array() == values["small"].numpy()).all()


def test_maps_without_maps_say_so():
    with pytest.raises(ValueError, match="at least one map"):
        pictures.maps({})
    for value, match in (
        (torch.tensor([[1.0, torch.nan]]), r"a: a map is .* not \[1, 2\]"),
        (torch.zeros(3, 2, 2), "a map"),
    ):
        with pytest.raises(ValueError, match=match):
            pictures.maps({"a": value})


def test_the_poster_frames_copies_and_only_copies():
    picture = torch.rand(3, 8, 8)
    rows = {"remembers": [(picture, 0.9), (picture, 0.69)], "pruned": [(picture, 0.1), (picture, 0.7)]}
    figure = pictures.poster(rows, (0, 1), picture, 0.7, "Title", "caption")
    axes = [figure.axes[k : k + 3] for k in (0, 3)]
    framed = [[axis.spines["left"].get_visible() for axis in line[1:]] for line in axes]
    assert framed == [[True, False], [False, True]]
    texts = [[axis.get_xlabel() for axis in line[1:]] for line in axes]
    assert texts == [["✓ copy 0.90", "0.69"], ["0.10", "✓ copy 0.70"]]
    assert [axis.get_title() for axis in axes[0]] == ["the picture", "0 steps", "1 step"]
    assert [line[0].texts[0].get_text() for line in axes] == ["remembers", "pruned"]
    assert not axes[1][0].images and axes[0][0].images
    assert figure.get_suptitle() == "Title" and [text.get_text() for text in figure.texts[-1:]] == ["caption"]
    with pytest.raises(ValueError, match="pruned: give one picture for each of the 2"):
        pictures.poster({"pruned": [(picture, 0.1)]}, (0, 1), picture, 0.7)


def test_a_frame_is_closed_and_leaves_no_style_behind():
    with plt.rc_context({"legend.frameon": True}):
        with style.frame(2, 3, (4, 2)) as (figure, axes):
            assert axes.shape == (2, 3) and figure.get_size_inches().tolist() == [4, 2]
            assert plt.rcParams["legend.frameon"] is False
        with pytest.raises(ZeroDivisionError), style.frame(1, 1, (1, 1)):
            raise ZeroDivisionError
        assert not plt.get_fignums() and plt.rcParams["legend.frameon"] is True


def test_figures_load_without_torch():
    code = "import sys; from dori_lite.figures import charts, explorer, pictures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_poster_of_a_run_shows_its_pictures_and_scores(tmp_path):
    from dori_lite.evaluation import Found, Target
    from dori_lite.runs import open_run

    run, target = open_run("c", "quick", 0, base=tmp_path), Target("x", "a fish", torch.zeros(3, 4, 4))
    shades = {"saw it": (0.9, 0.8), "never saw it": (0.2, 0.3)}
    axes = {"target": [target], "condition": list(shades), "start": ["prompt", "random"]}
    for _, name, start in run.todo("attack", **axes):
        at = (0, 5) if name == "saw it" else (0, 5, 9)  # a longer control: its last picture was not kept
        rows = [{"steps": n, "descriptor": [0.1 * n]} for n in at]
        shown = {n: torch.full((3, 4, 4), shade) for n, shade in zip((0, 5), shades[name], strict=True)}
        run.keep(Found(rows, {}, shown if start == "prompt" else {}))
    figure = pictures.poster_of(run, target, list(shades), 0.5)
    drawn = [round(float(image.get_array().max()) / 255, 1) for axis in figure.axes for image in axis.images[:1]]
    assert drawn[1:] == [0.9, 0.8, 0.2, 0.3]
    assert [axis.get_xlabel() for axis in figure.axes if axis.get_xlabel()] == ["0.00", "✓ copy 0.50"] * 2
    plt.close(figure)
    with pytest.raises(ValueError, match=r"the run has no rows of 'x' under \['parent'\]; name conditions"):
        pictures.poster_of(run, target, ["saw it", "parent"], 0.5)
