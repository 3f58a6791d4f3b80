"""NeMo's statistics and published results, to and from files, and the range that its published τ belongs to."""

import copy
import os
import signal
import subprocess
import sys

import pytest
import torch
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

from dori_lite import masks, models, nemo
from dori_lite.detection import between_seed_similarity, scaled, similarity
from dori_lite.nemo_published import published_neurons, published_statistics
from dori_lite.nemo_statistics import Statistics, load, save
from dori_lite.reef import canaries, captions

CAPTION = "a striped red fish called marlow over rock"
OTHERS = [captions.write(canaries.base(k)[0]) for k in range(20)]


@pytest.fixture(scope="module")
def known(pipe):
    return nemo.statistics(pipe, OTHERS)


def same(one, other) -> bool:
    parts = ((one.mean, other.mean), (one.std, other.std))
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in parts)


# ---- statistics -----------------------------------------------------------------------------------------------


def test_statistics_come_back_with_their_model(known, pipe, tmp_path, one_line):
    save(known, tmp_path / "a" / "known.safetensors")
    found = load(tmp_path / "a" / "known.safetensors")
    assert same(found, known) and found.model == known.model == models.fingerprint(pipe)
    assert list(found.mean) == sorted(known.mean)  # in whatever order
    assert nemo.z_scores(pipe, CAPTION, found).keys() == known.mean.keys()
    other = copy.deepcopy(pipe)
    with torch.no_grad():
        other.unet.conv_in.weight += 1
    one_line(ValueError, "these statistics were found in another model", nemo.z_scores, other, CAPTION, found)
    save(Statistics(known.mean, known.std), tmp_path / "free.safetensors")
    assert load(tmp_path / "free.safetensors").model is None


def test_what_are_no_statistics_is_said_in_one_line(known, tmp_path, one_line):
    one_line(FileNotFoundError, "there are no statistics in .*none; write them", load, tmp_path / "none")
    (tmp_path / "x").write_bytes(b"\0" * 100)
    masks.WeightMask({"a": torch.ones(2, 2, dtype=torch.bool)}).save(tmp_path / "mask")
    for name in ("x", "mask"):
        one_line(ValueError, f"{name} is not a file of statistics", load, tmp_path / name)
    one_line(ValueError, "a dict is no statistics", save, {}, tmp_path / "y")


def test_killed_while_it_writes_statistics_leave_the_old_ones(known, tmp_path):
    path = tmp_path / "known.safetensors"
    save(known, path)
    before = path.read_bytes()
    script = f"""
import os, signal
from dori_lite import nemo_statistics as n
known = n.load({str(path)!r})
n.save_file = lambda tensors, place, about: (open(place, "wb").write(b"half"), os.kill(os.getpid(), signal.SIGKILL))
n.save(known, {str(path)!r})
"""
    done = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": "."})
    assert done.returncode == -signal.SIGKILL and path.read_bytes() == before


# ---- published files ------------------------------------------------------------------------------------------


@pytest.fixture
def published(known, tmp_path):
    """A file in the published form: two lists of seven tensors, as torch saves them."""
    parts = [[values[name] for name in known.mean] for values in (known.mean, known.std)]
    torch.save(tuple(parts), tmp_path / "statistics.pt")
    return tmp_path / "statistics.pt"


def test_published_statistics_are_those_of_the_layers_in_the_papers_order(pipe, known, published):
    found = published_statistics(pipe, published)
    assert same(found, known) and list(found.mean) == list(models.value_layers(pipe.unet))
    assert found.model == models.fingerprint(pipe)


def test_published_statistics_of_another_form_are_refused(pipe, published, tmp_path, one_line):
    means, stds = torch.load(published)
    wrong = {
        "not two lists of seven": [
            (means[:6], stds[:6]),
            (means, stds, stds),
            (means[::-1], stds[::-1]) if len({len(m) for m in means}) > 1 else (means[:1], stds),
            (means, [s[:-1] for s in stds]),
            means[0],
            {"mean": means},
            ([0.0] * 7, stds),
        ]
    }
    for match, several in wrong.items():
        for content in several:
            torch.save(content, tmp_path / "wrong.pt")
            one_line(ValueError, match, published_statistics, pipe, tmp_path / "wrong.pt")
    torch.save((means, [s * float("nan") for s in stds]), tmp_path / "wrong.pt")
    one_line(ValueError, "not as many finite means", published_statistics, pipe, tmp_path / "wrong.pt")
    torch.save(Statistics({}, {}), tmp_path / "code.pt")  # a pickle that would run code
    (tmp_path / "text.pt").write_text("caption;url")
    (tmp_path / "none.pt").write_bytes(b"")
    for name in ("code", "text", "none"):
        one_line(ValueError, f"{name}.pt holds no plain tensors", published_statistics, pipe, tmp_path / f"{name}.pt")
    one_line(FileNotFoundError, "is not there", published_statistics, pipe, tmp_path / "missing.pt")


def results(*rows) -> str:
    lines = ["Caption;URL;Initial Neurons;Initial SSIM;Refined Neurons;Refined SSIM"]
    return "\n".join([*lines, *(f"{caption};nan;{said};0.5;{said};0.4" for caption, said in rows)]) + "\n"


def test_published_neurons_are_masks(pipe, tmp_path):
    path = tmp_path / "memorization_statistics_v1_4.csv"
    some = "[[3, 1, 3], [], [], [], [], [], [0]]"
    path.write_text(results(('"a ""fish"""', some), ("none found", "[[], [], [], [], [], [], []]"), ("NA", some)))
    found = published_neurons(pipe, path)
    assert list(found) == ['a "fish"', "none found", "NA"] and found["none found"].count == 0
    names = list(models.value_layers(pipe.unet))
    mask = found['a "fish"']
    assert mask == masks.of_neurons(pipe.unet, {names[0]: [1, 3], names[6]: [0]}) and mask.about == {"neurons": 3}
    assert mask.model == models.fingerprint(pipe)
    with masks.pruned(pipe, mask):
        assert not pipe.unet.get_submodule(names[0]).weight[[1, 3]].any()


@pytest.mark.parametrize(
    "said, match",
    [
        ("[[1], [], [], [], [], []]", r"row 3: Refined Neurons cannot be read \(there are not 7 lists\)"),
        ("[[9999], [], [], [], [], [], []]", "row 3: .*9999"),
        ("[[-1], [], [], [], [], [], []]", "row 3: .*-1"),
        ("[[1.5], [], [], [], [], [], []]", "row 3: .*1.5"),
        ("[1, [], [], [], [], [], []]", "row 3"),
        ("nan", "row 3"),
        ("", "row 3"),
    ],
)
def test_published_neurons_that_cannot_be_read_are_named(pipe, tmp_path, one_line, said, match):
    fine = ("a", "[[], [], [], [], [], [], []]")
    (tmp_path / "x.csv").write_text(results(fine, ("b", said)))
    one_line(ValueError, match, published_neurons, pipe, tmp_path / "x.csv")


def test_a_published_result_of_another_form_is_refused(pipe, tmp_path, one_line):
    path = tmp_path / "x.csv"
    path.write_text("Caption;URL\na;b\n")
    one_line(ValueError, "has no column 'Refined Neurons'", published_neurons, pipe, path)
    some = ["[[1], [], [], [], [], [], []]", "[[2], [], [], [], [], [], []]"]
    path.write_text(results(("a", some[0]), ("a", some[0])))
    assert len(published_neurons(pipe, path)) == 1
    path.write_text(results(("a", some[0]), ("a", some[1])))
    one_line(ValueError, "row 3: 'a' comes twice, with other neurons", published_neurons, pipe, path)
    one_line(FileNotFoundError, "x2.csv is not there", published_neurons, pipe, tmp_path / "x2.csv")


# ---- the range of the published τ ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def differences():
    """Latents of 48 rows, four seeds, alike enough for similarities between 0 and 1."""
    random = torch.Generator().manual_seed(0)
    common = torch.randn(1, 1, 4, 48, 48, generator=random)
    return common + torch.rand(2, 4, 1, 1, 1, generator=random) * torch.randn(2, 4, 4, 48, 48, generator=random)


def test_the_published_range_is_that_of_all_pairs_in_one_call(differences):
    one, other = torch.combinations(torch.arange(4)).T
    for seeds in differences:
        a, b = seeds[one], seeds[other]
        theirs = ms_ssim(scaled(a), scaled(b), reduction="none", betas=(0.33, 0.33, 0.33))
        ours, apart = similarity(a, b, "batch"), similarity(a, b)
        assert torch.equal(ours, theirs) and not torch.allclose(ours, apart, atol=1e-4)
        assert torch.allclose(apart, torch.cat([similarity(x[None], y[None]) for x, y in zip(a, b, strict=True)]))


def test_scores_of_several_captions_in_the_published_range(differences):
    """A caption's pairs are one call, so that a score does not hang on the captions beside it."""
    both = between_seed_similarity(differences, multiscale="batch")
    each = [between_seed_similarity(one[None], multiscale="batch") for one in differences]
    assert torch.equal(both, torch.cat(each))


def test_the_published_variant_asks_all_seeds_at_once(pipe, known, monkeypatch):
    """Each score depends on the seeds beside it there: no seed is spared, whatever `lazy` says."""
    asked = []
    compare = similarity
    monkeypatch.setattr(
        nemo.search, "similarity", lambda a, b, kind: asked.append((len(a), kind)) or compare(a, b, kind)
    )
    found = nemo.localise(pipe, CAPTION, known, -1.0, variant="published", seeds=range(4), steps=25, tau_blocked=0.9)
    assert found.memorized and {kind for _, kind in asked} == {"batch"}
    assert asked[0] == (6, "batch") and {count for count, _ in asked[1:]} == {4}
    assert nemo.PUBLISHED == {"tau": 0.428, "variant": "published"}
