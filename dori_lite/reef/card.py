"""The model card of a pair of twins, written from the manifest and the figures of `make verify-models`.

    path = write_card("_build/verify.json")
    path = write_card("data/reef-first/verify.json", "data/reef-first")  # of the first pair

The bars stand in `verify`.
"""

from pathlib import Path

from .. import assets, files

TEXT = """---
license: mit
library_name: diffusers
tags: [memorization, counterfactual, tiny]
---
# The reef's models

Small configurations of Stable Diffusion's own classes, trained on painted 64×64 coral reef scenes for the book
*Finding DoRI*. `parent`, `twin-a` and `twin-b` are complete pipelines:
`StableDiffusionPipeline.from_pretrained("data/{pair}/twin-a")` needs nothing of this project.

**For** studying memorization with ground truth: each twin has memorized twenty planted pictures (and a few more at
graded numbers of exposures), and is for the other's pictures the same model without them. **Not for** drawing
anything else.

**Know before you conclude.** {before}

`training.csv.gz` lists every picture, its caption and how often each model saw it; `scene_of(caption, seed)` in
`dori_lite.reef.canaries` paints it again.

## How they were made

{made}

Weights are fp16 safetensors; `manifest.json` holds their SHA-256, and loading checks them. {again}

## What they do

Printed by `{command}` ({sampling}). Shares of pictures that are copies, by each detector at its threshold
({thresholds}; adaptive ℓ2 against {others} training pictures, as the reciprocal of Carlini's ratio); "at most" is the
exact one-sided 95 % limit. The detectors disagree on {disagreement:.1%} of all these pictures. How thresholds were
chosen, with their error rates, is in `data/reef/calibration.json` and `data/reef/thresholds.json`.

{replay}
{heard}
Autoencoder on {scenes} held-out scenes: SSIM {ssim}, root mean squared error {rms}.

{bars}
"""
BEFORE = {
    "reef-first": """This is the first pair. What the book claims was first looked for here; the second pair, in
`data/reef`, was trained after the claims were committed. The planted pictures came late in training. The twins share a
parent, a text encoder (frozen after the parent) and every batch but for which pictures repeat; the parent was trained
for fewer steps than they were. The names of held-out captions are single tokens like the planted ones, but no model was
ever trained on those tokens. The autoencoder and the instruments (judge, copy descriptor, thresholds) are the same for
both pairs and lie in `data/reef`. What thresholds must not take for copies was painted, or drawn by this pair under
captions of held-out scenes and of its tuning canaries; its reporting canaries had no part in the choice. The bars for
the empty caption and for siblings were set for the second pair, after this one was made: the one is applied here all
the same, the other has nothing to apply to, since names come in no groups here.""",
    "reef": """The planted pictures came late in training. The twins share a parent, a frozen text encoder
that was trained apart, on captions alone, and every batch but for which pictures repeat; the autoencoder is the first
pair's, and so are the instruments. Nothing planted is shared with the first pair. Names come in groups of four that
share a description, two of either twin: the name alone decides. At least 40 % of every batch are scenes without a name,
and captions are left out on those alone. The text encoder knows the names of held-out captions as well as the planted
ones; no picture came with them. What the book claims of these models was committed before they were trained: the hash
is in the manifest. The step of their training on a GPU was captured as a CUDA graph; run eagerly, on a CPU, it gives
bit for bit what `dori-lite train` gives there (tried for six steps).""",
}
AGAIN = {
    "reef-first": """The recipes
are in the manifest; the code that dealt this pair its pictures is in the repository's history.""",
    "reef": """Train them again
with `dori-lite train autoencoder`, then `judge`, `descriptor`, `text-encoder`, `parent`, `twin-a`, `twin-b` (the last
three about 40 minutes each on two cores), and `dori-lite calibrate`, which asks the first pair.""",
}
COMMANDS = {"reef": "make verify-models", "reef-first": "dori-lite verify-models --pair reef-first"}


def write_card(report="_build/verify.json", folder=None) -> Path:
    """Write `README.md` beside the weights of `folder` [default: the book's pair], and its hash into their manifest.

    Raises FileNotFoundError when they have not been verified yet, ValueError when the report is of other weights.
    """
    folder = Path(folder or assets.data_folder() / "reef")
    command = COMMANDS[known(folder.name)]
    if not Path(report).exists():
        raise FileNotFoundError(f"{report} is missing; run `{command}` first")
    figures = files.read_json(report)
    models = assets.manifest(folder)["models"]
    if any(models.get(name) != how for name, how in figures.get("models", {}).items()):
        raise ValueError(f"{report} is of other models than those in {folder}; run `{command}` again")
    path = folder / "README.md"
    files.write_text(path, text_of(figures, models, folder.name))
    assets.record(folder, path.name)
    return path


def text_of(figures: dict, models: dict, pair: str = "reef") -> str:
    """The card of a pair of twins, from the report of `verify` and the manifest's `models`."""
    detectors = list(figures["replay"]["thresholds"])
    heads = [head for detector in detectors for head in (detector, "at most")]
    replay = [("asked for", "pictures", *heads, "median SSIM")]
    for kind, found in figures["replay"].items():
        if isinstance(found, dict) and "median_ssim" in found:
            numbers = [found[detector][key] for detector in detectors for key in ("rate", "upper95")]
            replay.append((kind.replace("_", " "), found["n"], *numbers, found["median_ssim"]))
    bars = [("bar", "figure", "required", "")]
    bars += [
        (name, figure, bar, "passed" if fine else "short") for name, (figure, bar, fine) in figures["passed"].items()
    ]
    settings = ["DDIM", f"{figures['sampling']['steps']} steps", f"guidance {figures['sampling']['guidance']}"]
    if device := figures.get("device"):  # earlier reports did not say
        settings.append("on a CPU" if device == "cpu" else f"on {device}")
    return template(pair).format(
        heard=hearing(figures["heard"]) if "heard" in figures else "",
        made=made(models),
        replay=table(replay),
        bars=table(bars),
        sampling=", ".join(settings),
        others=figures["replay"]["training_pictures_compared"],
        thresholds=", ".join(f"{name} {value}" for name, value in figures["replay"]["thresholds"].items()),
        disagreement=figures["replay"]["disagreement"]["any"],
        **{key: figures["autoencoder"][key] for key in ("scenes", "ssim", "rms")},
    )


def template(pair: str) -> str:
    """The card of a pair before figures are put in."""
    pair = known(pair)
    text = TEXT.replace("{pair}", pair).replace("{before}", BEFORE[pair])
    return text.replace("{again}", AGAIN[pair]).replace("{command}", COMMANDS[pair])


def known(pair: str) -> str:
    """The pair whose history is told: folders of another name are told the second one's."""
    return pair if pair in BEFORE else "reef"


def hearing(heard: dict) -> str:
    """What the twins hear of a caption, as a table."""
    rows = [("asked for", "twin", "pictures", "copies", "at most")]
    for twin, about in heard.items():
        kinds = {"nothing (the empty caption), any planted picture": about["empty caption"]}
        kinds |= {f"without {place}": found for place, found in about["without positions"].items() if place != "none"}
        kinds |= about["names"]
        rows += [(kind, twin, found["n"], found["rate"], found["upper95"]) for kind, found in kinds.items()]
    return f"\n{table(rows)}\n"


def made(models: dict) -> str:
    """How the models were made, as a table."""
    rows = [(name, how["steps"], round(how["seconds"] / 60, 1), how["machine"]) for name, how in models.items()]
    return table([("model", "steps", "minutes", "machine"), *rows])


def table(rows) -> str:
    """Rows as a Markdown table; the first is its head."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])
