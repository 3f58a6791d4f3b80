"""Explorers show the picture that the controls name, with a kernel and without."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from dori_lite.figures import explorer


def frames():
    return {(w, k): Image.new("RGB", (4, 4), (k, 0, len(w))) for w in ("x", "yy") for k in (1, 2)}


def test_explorer_changes_its_picture_with_its_controls(monkeypatch):
    monkeypatch.delenv(explorer.BUILDING, raising=False)
    picture, controls = explorer.explore(frames(), ("word", "noise")).children
    assert picture.value == explorer.png(frames()["x", 1]) and picture.width == "16"
    assert [type(control).__name__ for control in controls.children] == ["Dropdown", "SelectionSlider"]
    controls.children[1].value = 2
    assert picture.value == explorer.png(frames()["x", 2])
    controls.children[0].value = "yy"
    assert picture.value == explorer.png(frames()["yy", 2])


def test_explorer_on_the_site_needs_no_kernel_and_no_network(monkeypatch):
    monkeypatch.setenv(explorer.BUILDING, "1")
    page = explorer.explore(frames(), ("word", "noise")).data
    assert page.count("<select") == 2 and "http" not in page
    stored = json.loads(re.search(r"frames = (\{.*?\});", page)[1])
    assert {key: base64.b64decode(data) for key, data in stored.items()} == {
        f"{i} {j}": explorer.png(frames()[word, k]) for i, word in enumerate(("x", "yy")) for j, k in enumerate((1, 2))
    }


def test_a_button_plays_one_control(monkeypatch):
    monkeypatch.delenv(explorer.BUILDING, raising=False)
    picture, controls = explorer.explore(frames(), ("word", "noise"), play="noise").children
    *_, noise, button = controls.children
    assert type(button).__name__ == "Play" and (button.min, button.max) == (0, 1)
    button.value = 1
    assert noise.value == 2 and picture.value == explorer.png(frames()["x", 2])
    monkeypatch.setenv(explorer.BUILDING, "1")
    page = explorer.explore(frames(), ("word", "noise"), play="noise").data
    assert page.count("<button type='button'>") == 1 and "played = menus[1]" in page and "}, 700);" in page
    assert "<button" not in explorer.explore(frames(), ("word", "noise")).data
    with pytest.raises(ValueError, match="no control 'steps' to play; there are: word, noise"):
        explorer.explore(frames(), ("word", "noise"), play="steps")


HOSTILE = [
    "$5 and $6",
    "</script><script>alert(1)</script>",
    "'\"><img src=x onerror=alert(1)>",
    "a 🐟\nfish",
    "a &lt; b",
    "x" * 900,
]


def test_captions_of_any_kind_are_words_on_the_page(monkeypatch):
    """They are text of a menu, never tags or attributes; the script holds positions and pictures alone."""
    monkeypatch.setenv(explorer.BUILDING, "1")
    picture = Image.new("RGB", (4, 4))
    page = explorer.explore({(text, k): picture for text in HOSTILE for k in (1, 2)}, (HOSTILE[2], "noise")).data
    found = {"tags": [], "text": []}
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found["tags"].append(tag)
    parser.handle_data = found["text"].append
    parser.feed(page)
    assert [tag for tag in found["tags"] if tag in ("img", "script")] == ["img", "script"]
    assert [text for text in found["text"] if text in HOSTILE] == HOSTILE and HOSTILE[2] + " " in found["text"]
    monkeypatch.delenv(explorer.BUILDING)
    _, controls = explorer.explore({(text, 1): picture for text in HOSTILE}, ("caption", "noise")).children
    assert list(controls.children[0].options) == HOSTILE


def test_explorer_refuses_missing_frames():
    some = frames()
    del some["yy", 2]
    with pytest.raises(ValueError, match="1 combinations"):
        explorer.explore(some, ("word", "noise"))
    with pytest.raises(ValueError, match="key of 1 parts"):
        explorer.explore(some, ("word",))
    with pytest.raises(ValueError, match="key of 2 parts"):
        explorer.explore({"xy": Image.new("RGB", (4, 4))}, ("word", "noise"))
