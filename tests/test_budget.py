"""What Stable Diffusion takes: computed from figures that a run of its architecture left."""

import json

import pytest

from dori_lite.stable_diffusion import budget

GB = 10**9


def measured(**peaks):
    weights = {"unet": 3 * GB, "vae": GB}
    row = {"what": "it", "seconds": 10.4, "dtype": "float32", "weights": weights, "before": 5 * GB, "device": "cpu"}
    return {f"{name}, cpu": {**row, "stage": name, "peak": peak * GB} for name, peak in peaks.items()}


@pytest.fixture
def path(tmp_path):
    rows = measured(**{"sample": 6, "attack, batch 1": 7, "attack, batch 2": 8, "training, AdamW": 17})
    other = {"sample, a GPU": {**rows["sample, cpu"], "device": "a GPU", "peak": 99 * GB}}
    (tmp_path / "x.json").write_text(json.dumps(rows | other))
    return tmp_path / "x.json"


def test_a_gpu_s_memory_is_computed_and_called_so(path):
    table = budget.table(path)
    computed = table["GPU GB, computed"]
    assert computed["sample"] == (4 + 1) / 2  # half of weights and of what was added
    assert computed["attack, batch 1"] == computed["attack, batch 2"] == round((4 + 2 + 7 * 1) / 2, 1)  # a batch of 8
    assert computed["training, AdamW"] == 12 + 4  # in single precision, as measured
    assert table["T4"].to_dict() == {name: name != "training, AdamW" for name in table.index}
    assert table["peak GB"]["sample"] == 6 and table["seconds"]["sample"] == 10  # the CPU's, not the GPU's


def test_nothing_measured_is_said(tmp_path, one_line):
    one_line(
        FileNotFoundError,
        "none.json is not there; python tools/full_size.py",
        budget.table,
        tmp_path / "none.json",
    )


def test_what_is_shipped_is_of_the_full_architecture():
    """860 million weights in the U-Net; every stage ran, in single precision on a CPU."""
    rows = json.loads(budget.MEASURED.read_text(encoding="utf-8"))
    rows = {key: row for key, row in rows.items() if row["device"] == "cpu"}
    stages = {row["stage"] for row in rows.values()}
    trained = {"training, AdamW", "training, Adafactor"}
    assert stages == {"picture", "sample", "nemo", "wanda", "attack, batch 1", "attack, batch 2"} | trained
    for row in rows.values():
        assert row["weights"]["unet"] == 4 * 859_520_964 and row["dtype"] == "float32" and row["peak"] > row["before"]
    assert rows["sample, cpu"]["found"]["latents"] == [1, 4, 64, 64]
    assert rows["picture, cpu"]["found"]["picture"] == [1, 3, 512, 512]
    assert rows["attack, batch 2, cpu"]["found"]["embeddings"] == [1, 77, 768]
    assert rows["training, AdamW, cpu"]["found"]["trained"] == 859_520_964
    computed = budget.table()["GPU GB, computed"]
    assert computed["training, AdamW"] > budget.T4 > computed.drop("training, AdamW").max()
