"""Draw `book/cover.png` from the shipped weights: one caption, six noises, both twins."""

from pathlib import Path

from dori_lite import models, sampling
from dori_lite.lab import figures
from dori_lite.reef import paint, plant


def main():
    item = next(item for item in plant.planted() if item.split == "reporting" and item.home == "a")
    rows = {"planted": [paint.render(*plant.picture(item)[1:])]}
    for name, label in (("twin-a", "saw it repeatedly"), ("twin-b", "never saw it")):
        rows[label] = sampling.generate(models.load(f"reef/{name}"), item.caption, seeds=list(range(6)))
    figure = figures.grid(rows, title=f"“{item.caption}”", size=1.4)
    figure.savefig(Path(__file__).parent.parent / "book" / "cover.png", dpi=100, bbox_inches="tight", pad_inches=0.1)


if __name__ == "__main__":
    main()
