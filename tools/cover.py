"""Draw `book/cover.png` from the shipped weights: one caption, six noises, both twins."""

from pathlib import Path

from dori_lite import diffusion, models
from dori_lite.figures import pictures
from dori_lite.reef import canaries, paint


def main():
    item = next(item for item in canaries.planted() if item.split == "reporting" and item.home == "a")
    rows = {"planted": [paint.render(*canaries.picture(item)[1:])]}
    for name, label in (("twin-a", "saw it repeatedly"), ("twin-b", "never saw it")):
        pipe = models.load(f"reef/{name}")
        rows[label] = diffusion.generate(pipe, item.caption, seeds=list(range(6)), guidance=5, steps=25)
    figure = pictures.grid(rows, title=f"“{item.caption}”", size=1.4)
    figure.savefig(Path(__file__).parent.parent / "book" / "cover.png", dpi=100, bbox_inches="tight", pad_inches=0.1)


if __name__ == "__main__":
    main()
