"""What is reported of Stable Diffusion v1.4, with where it was read: nobody here has read the paper's full text.

    table = beside({"trigger, Wanda": 0.47})

Sources: "blog" is the authors' (sprintml.com, 2026-06-24), "notes" are public reading notes, "reviews" those of an
earlier version, "figure" was read by eye off the blog's figures.
"""

# setting in our words → (memorization rate, SSCD to the training picture, source)
ATTACKS = {
    "caption, unpruned": (0.98, 0.90, "blog"),
    "caption, NeMo": (0.20, 0.33, "blog"),
    "caption, Wanda": (0.00, 0.20, "blog"),  # of 1 % of each row
    "trigger, NeMo": (0.99, 0.91, "blog"),
    "trigger, Wanda": (0.72, 0.76, "blog"),
    "trigger, Wanda at ten times the dose": (0.01, 0.40, "blog"),  # 10 %
    "trigger, not memorized": (0.00, 0.48, "blog"),  # other pictures, unpruned model; 0.02 in its figure
    "trigger, not memorized, 150 steps": (None, 0.65, "reviews"),
}
# after 50 attack steps, read off the blog's figure: memorization rate
FIGURE = {"trigger, Wanda": 0.73, "trigger, not memorized": 0.02}


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
