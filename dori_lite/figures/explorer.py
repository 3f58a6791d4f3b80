"""Look through pictures made before: ipywidgets where a kernel runs, plain HTML on the built site.

    frames = {("own twin", 0): picture, ("own twin", 1): picture, ("parent", 0): picture, ("parent", 1): picture}
    explorer.explore(frames, ("model", "noise"))

The pictures travel with the widget or the page, so there is no model to call and nothing to download.
"""

import base64
import hashlib
import html
import io
import json
import os

from ..files import as_pil
from ..ranges import check_mapping
from .pictures import as_array

STEP = 700  # milliseconds between two pictures that are played
BUILDING = "DORI_BUILD"  # set while the site is built: no kernel will answer its readers


def png(image) -> bytes:
    """A picture (PIL, or tensor [3, H, W] in [0, 1]) as PNG bytes. Raises ValueError as `as_array` does."""
    as_array(image)
    buffer = io.BytesIO()
    as_pil(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def explore(frames: dict, names: tuple[str, ...], zoom: int = 4, play: str | None = None):
    """Look through `frames`, {(choice, choice, …): picture}, with one control for each of `names`.

    Every combination of the choices must be there; whole numbers get a slider, words a menu. `play` names the control
    that a play button steps through. Returns an ipywidgets box, or its twin in HTML while the site is built.

    Raises ValueError when keys and names do not fit or a combination is missing.
    """
    if not isinstance(names, list | tuple):
        raise ValueError(f"names are a {type(names).__name__}; give one for each part of the frames' keys")
    if any(not isinstance(key, tuple) or len(key) != len(names) for key in check_mapping("frames", frames)):
        raise ValueError(f"every frame needs a key of {len(names)} parts: {', '.join(names)}")
    if play is not None and play not in names:
        raise ValueError(f"there is no control {play!r} to play; there are: {', '.join(names)}")
    choices = [list(dict.fromkeys(key[k] for key in frames)) for k in range(len(names))]
    expected = 1
    for options in choices:
        expected *= len(options)
    if expected != len(frames):
        raise ValueError(f"{expected - len(frames)} combinations of {', '.join(names)} have no frame")
    encoded = {key: png(image) for key, image in frames.items()}
    build = as_html if os.environ.get(BUILDING) else as_widgets
    stepped = None if play is None else [*names].index(play)
    return build(encoded, names, choices, as_array(next(iter(frames.values()))).shape[1] * zoom, stepped)


def as_widgets(encoded, names, choices, width, stepped=None):
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
    shown = [*controls]
    if stepped is not None:
        shown.append(widgets.Play(max=len(choices[stepped]) - 1, interval=STEP))
        shown[-1].observe(lambda change: setattr(controls[stepped], "index", change["new"]), names="value")
    return widgets.HBox([picture, widgets.VBox(shown)])


SCRIPT = """
(() => {
  const box = document.getElementById("KEY"), frames = FRAMES;
  const image = box.querySelector("img"), menus = [...box.querySelectorAll("select")];
  const show = () => {
    image.src = "data:image/png;base64," + frames[menus.map(menu => menu.value).join(" ")];
    image.alt = "Picture for " + menus.map(menu => menu.selectedOptions[0].text).join(", ");
  };
  menus.forEach(menu => menu.addEventListener("change", show));
  show();
  const button = box.querySelector("button"), played = menus[STEPPED];
  let timer;
  button?.addEventListener("click", () => {
    clearInterval(timer);
    played.selectedIndex = 0;
    show();
    timer = setInterval(() => {
      if (played.selectedIndex + 1 >= played.length) return clearInterval(timer);
      played.selectedIndex += 1;
      show();
    }, PACE);
  });
})();
"""


def as_html(encoded, names, choices, width, stepped=None):
    """The same without a kernel: menus, one picture and a script of its own; nothing is downloaded."""
    from IPython.display import HTML

    # A frame's key is the positions of its choices: "0 2 1".
    frames = {
        " ".join(str(options.index(part)) for options, part in zip(choices, key, strict=True)): base64.b64encode(data)
        for key, data in encoded.items()
    }
    key = "explorer-" + hashlib.sha256(b"".join(frames.values())).hexdigest()[:12]
    frames = json.dumps({position: data.decode() for position, data in frames.items()})
    menus = ""
    for name, options in zip(names, choices, strict=True):
        entries = "".join(
            f"<option value='{k}'>{html.escape(str(option))}</option>" for k, option in enumerate(options)
        )
        menu = f"<select style='max-width:100%'>{entries}</select>"
        menus += f"<label style='margin-right:1em'>{html.escape(name)} {menu}</label>"
    if stepped is not None:
        menus += "<button type='button'>▶ play</button>"
    script = SCRIPT.replace("STEPPED", str(stepped or 0)).replace("PACE", str(STEP)).replace("KEY", key)
    return HTML(
        f"<div id='{key}'><div>{menus}</div><img width='{width}' alt='' style='margin-top:.5em'></div>"
        f"<script>{script.replace('FRAMES', frames)}</script>"
    )
