"""Explorers over precomputed frames: ipywidgets where a kernel runs, plain HTML on the built site."""

import base64
import html
import io
import json
import os

from .figures import as_array

BUILDING = "DORI_BUILD"  # set while the site is built: no kernel will answer its readers


def png(image) -> bytes:
    """A picture (PIL, or tensor [3, H, W] in [0, 1]) as PNG bytes."""
    from PIL import Image

    array = as_array(image)
    if array.dtype != "uint8":
        array = (array * 255).round().astype("uint8")
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def explore(frames: dict, names: tuple[str, ...], zoom: int = 4):
    """Look through `frames`, {(choice, choice, …): picture}, with one control for each of `names`.

    Every combination of the choices must be there; whole numbers get a slider, words a menu. Returns an
    ipywidgets box, or its twin in HTML while the site is built.

    Raises ValueError when keys and names do not fit or a combination is missing.
    """
    if not frames or any(len(key) != len(names) for key in frames):
        raise ValueError(f"every frame needs a key of {len(names)} parts: {', '.join(names)}")
    choices = [list(dict.fromkeys(key[k] for key in frames)) for k in range(len(names))]
    expected = 1
    for options in choices:
        expected *= len(options)
    if expected != len(frames):
        raise ValueError(f"{expected - len(frames)} combinations of {', '.join(names)} have no frame")
    encoded = {key: png(image) for key, image in frames.items()}
    build = as_html if os.environ.get(BUILDING) else as_widgets
    return build(encoded, names, choices, as_array(next(iter(frames.values()))).shape[1] * zoom)


def as_widgets(encoded, names, choices, width):
    """The explorer for a live kernel, of parts that ipywidgets 7.7 and 8 share."""
    import ipywidgets as widgets

    def control(name, options):
        kind = widgets.SelectionSlider if all(isinstance(o, int) for o in options) else widgets.Dropdown
        return kind(options=options, description=name)

    controls = [control(name, options) for name, options in zip(names, choices, strict=True)]
    picture = widgets.Image(format="png", width=width, value=encoded[tuple(c.value for c in controls)])

    def show(_):
        picture.value = encoded[tuple(c.value for c in controls)]

    for c in controls:
        c.observe(show, names="value")
    return widgets.HBox([picture, widgets.VBox(controls)])


def as_html(encoded, names, choices, width):
    """The same without a kernel: menus, one picture, and a script of its own (nothing is downloaded)."""
    from IPython.display import HTML

    sources = {json.dumps(key): "data:image/png;base64," + base64.b64encode(data).decode() for key, data in encoded.items()}
    key = "explorer-" + format(abs(hash(tuple(sources))) % 16**8, "08x")
    menus = "".join(
        f"<label>{html.escape(name)} <select>"
        + "".join(f"<option value='{html.escape(json.dumps(o))}'>{html.escape(str(o))}</option>" for o in options)
        + "</select></label> "
        for name, options in zip(names, choices, strict=True)
    )
    script = (
        "(() => { const box = document.getElementById(%s), frames = %s, image = box.querySelector('img'),"
        " menus = [...box.querySelectorAll('select')];"
        " const show = () => { const key = menus.map(m => JSON.parse(m.value));"
        " image.src = frames[JSON.stringify(key)]; image.alt = menus.map(m => m.selectedOptions[0].text).join(', '); };"
        " menus.forEach(m => m.addEventListener('change', show)); show(); })();"
    ) % (json.dumps(key), json.dumps({json.dumps(json.loads(k), separators=(",", ":")): v for k, v in sources.items()}))
    first = next(iter(sources.values()))
    return HTML(
        f"<div id='{key}' class='dori-explorer'><div>{menus}</div>"
        f"<img src='{first}' width='{width}' alt='' style='margin-top:.5em;background:white'></div><script>{script}</script>"
    )
