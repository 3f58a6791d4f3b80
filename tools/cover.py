"""Draw `book/cover.png` from the shipped weights and `book/poster.png` from the published runs of chapters 4 and 9.

    python tools/cover.py

Cover: one caption, six noises, both twins. Poster: the picture in the middle, as chapter 4 draws it, of half of the
others more comes back, and of half of them less; and below it, as chapter 9 draws it, what unlearning left.
"""

from pathlib import Path

from dori_lite import diffusion, models
from dori_lite.book import effects
from dori_lite.book.publish import published
from dori_lite.figures import pictures
from dori_lite.reef import canaries, paint, world

BOOK = Path(__file__).parent.parent / "book"
ROWS = ("remembers", "pruned by Wanda", "never saw it")


def cover():
    item = next(item for item in canaries.planted() if item.split == "reporting" and item.home == "a")
    rows = {"planted": [paint.render(*canaries.picture(item)[1:])]}
    for name, label in (("twin-a", "saw it repeatedly"), ("twin-b", "never saw it")):
        pipe = models.load(f"reef/{name}")
        rows[label] = diffusion.generate(pipe, item.caption, seeds=list(range(6)), guidance=5, steps=25)
    return pictures.grid(rows, title=f"“{item.caption}”", size=1.4)


def poster():
    run, reef = published("04_the_picture_comes_back"), world.load("twin-a")
    ranked = effects.effect("wanda-returns", run).sort_values("score").index
    [target] = [t for t in reef.targets("canary") if t.name == ranked[len(ranked) // 2]]
    rows, steps = pictures.poster_rows(run, target, ROWS)
    more, later = pictures.poster_rows(published("09_unlearning_that_survives"), target, ["adversarial"])
    if steps != later:
        raise ValueError(f"chapter 4 has pictures of {steps} steps, chapter 9 of {later}; run either again")
    rows["unlearned against\nthe attack"] = more["adversarial"]
    rows["never\nsaw it"] = rows.pop("never\nsaw it")  # the floor comes last
    threshold = reef.detectors([target])[0].threshold
    return pictures.poster(rows, steps, target.image, threshold, pictures.TITLE, f"“{target.caption}”")


if __name__ == "__main__":
    for name, figure in (("cover", cover()), ("poster", poster())):
        figure.savefig(BOOK / f"{name}.png", dpi=100, bbox_inches="tight", pad_inches=0.1)
