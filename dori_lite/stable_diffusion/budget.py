"""What each stage takes on Stable Diffusion: measured on its architecture with random weights, the rest computed.

    print(table())

`tools/full_size.py` measures, and writes `full_size.json` beside this module.
"""

from pathlib import Path

from .. import files

MEASURED = Path(__file__).with_name("full_size.json")
GB, ATTACK, T4 = 1e9, 8, 15.0  # bytes; the attack's batch; what a T4 has for use, in GB


def table(path=MEASURED):
    """A row a stage, a `pandas.DataFrame`: minutes and peak memory as measured, and the memory of a GPU, computed.

    Columns: `what` it does, `seconds` (beside other work) and `peak GB` on a CPU in the `precision` given, `GPU GB,
    computed` (see `on_a_gpu`), and whether a `T4` has room for that. Raises FileNotFoundError without measurements.
    """
    import pandas as pd

    measured = files.read_json(path)
    if not measured:
        raise FileNotFoundError(f"{path} is not there; python tools/full_size.py measures")
    stages = {row["stage"]: row for row in measured.values() if row["device"] == "cpu"}
    rows = []
    for name, row in stages.items():
        needed = on_a_gpu(name, stages)
        line = {"stage": name, "what": row["what"], "seconds": round(row["seconds"]), "peak GB": row["peak"] / GB}
        rows.append({**line, "precision": row["dtype"], "GPU GB, computed": needed, "T4": needed <= T4})
    return pd.DataFrame(rows).set_index("stage").round(1)


def on_a_gpu(stage: str, stages: dict) -> float:
    """What a stage needs on a GPU, in GB: computed from a CPU's figures, and not measured.

    Weights in half precision, and half of what the stage added to them; for the attack, what a sample adds, from the
    two batch sizes measured, times `ATTACK`. Training stays in single precision: what was measured counts whole.
    """
    row = stages[stage]
    weights, added = sum(row["weights"].values()), row["peak"] - row["before"]
    if stage.startswith("training"):
        return (row["peak"] - row["before"] + weights) / GB
    if stage.startswith("attack"):
        one, two = (stages[f"attack, batch {k}"] for k in (1, 2))
        each = max((two["peak"] - two["before"]) - (one["peak"] - one["before"]), 0)
        added = (one["peak"] - one["before"]) + (ATTACK - 1) * each
    return (weights + added) / 2 / GB
