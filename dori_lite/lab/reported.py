"""What is reported of Stable Diffusion v1.4, with where it was read: nobody here has read the paper's full text.

Sources: "blog" is the authors' (sprintml.com, 2026-06-24), "notes" are public reading notes, "reviews" those of an
earlier version, "figure" was read by eye off the blog's figures.
"""

# setting in our words → (memorization rate, SSCD to the training picture, source)
ATTACKS = {
    "caption, unpruned": (0.98, 0.90, "blog"),
    "caption, NeMo": (0.20, 0.33, "blog"),
    "caption, Wanda": (0.00, 0.20, "blog"),
    "trigger, NeMo": (0.99, 0.91, "blog"),
    "trigger, Wanda": (0.72, 0.76, "blog"),
    "trigger, never repeated": (0.00, 0.48, "blog"),  # 0.02 in its figure
    "trigger, never repeated, 150 steps": (None, 0.65, "reviews"),
}
# attack steps → memorization rate, read off the blog's figure
OVER_STEPS = {
    "pruned by NeMo": {0: 0.20, 1: 0.73, 10: 0.79, 25: 0.94, 50: 0.99},
    "pruned by Wanda": {0: 0.00, 1: 0.02, 10: 0.18, 25: 0.49, 50: 0.73},
    "never saw it repeat": {0: 0.00, 1: 0.00, 10: 0.00, 25: 0.00, 50: 0.02},
}


def beside(ours: dict):
    """The reported table with `ours`, {setting: rate}, beside it: a pandas table, one row a setting.

    Settings of ours that nothing was reported for come last.
    """
    import pandas as pd

    rows = []
    for setting in dict.fromkeys([*ATTACKS, *ours]):
        rate, sscd, source = ATTACKS.get(setting, (None, None, "none that we could read"))
        row = {"setting": setting, "reported rate": rate, "reported SSCD": sscd, "source": source}
        rows.append(row | {"rate here": ours.get(setting)})
    return pd.DataFrame(rows).set_index("setting").astype({"rate here": float})
