"""The copy descriptor: its loss against a naive one, its edits, its hard negatives, and that it learns."""

import math

import pytest
import torch
from diffusers.models.autoencoders.vae import DecoderOutput

from dori_lite import assets
from dori_lite.models import PAIRS
from dori_lite.reef import canaries, descriptor
from dori_lite.reef.descriptor import Contrast, Descriptor, blur, edit, shift, siblings
from dori_lite.reef.paint import paint_all
from dori_lite.reef.scenes import facts


def random(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pictures():
    """Four scenes, each followed by its sibling: uint8 [8, 3, 64, 64]."""
    pairs = descriptor.split("descriptor", 4)
    return paint_all([pair for scene, seed in pairs for pair in ((scene, seed), siblings(scene, seed, 1)[0])])


# ---- the network and its loss --------------------------------------------------------------------------


def test_descriptors_are_unit_vectors(pictures):
    torch.manual_seed(0)
    for size in (8, 128):
        z = Descriptor(width=4, size=size)(pictures.float() / 255)
        assert z.shape == (8, size) and torch.allclose(z.norm(dim=1), torch.ones(8), atol=1e-5)
        assert (z - z.roll(1, 0)).abs().max() > 1e-3


def test_pictures_of_another_kind_are_refused(pictures, one_line):
    model, images = Descriptor(width=4, size=8), pictures.float() / 255
    one_line(ValueError, "images must be floats in .*, not uint8; divide bytes by 255", model, pictures)
    one_line(ValueError, r"images must be in \[0, 1\]", model, images * 255)
    one_line(ValueError, "images are not all finite: number 0", model, images / 0)
    one_line(ValueError, "pictures of the reef are 64×64, not 32×64; resize them", model, images[..., :32, :])
    one_line(ValueError, "images must be floats", blur, pictures)
    one_line(ValueError, "edits are made of bytes, not of torch.float32", edit, images, images, random())


class Told(torch.nn.Module):
    """A descriptor that is told what to say."""

    def __init__(self, z):
        super().__init__()
        self.z = torch.nn.functional.normalize(z, dim=1)

    def forward(self, images):
        assert len(images) == len(self.z)
        return self.z


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_against_a_naive_one(seed):
    n, size = 5, 6
    first = torch.randn(n, size, generator=random(seed), dtype=torch.float64)
    second = first + (0.4 if seed else 3.0) * torch.randn(n, size, generator=random(seed + 9), dtype=torch.float64)
    task = Contrast(Told(torch.cat([first, second])))
    found, z = task(torch.zeros(n, 1), torch.zeros(n, 1)), task.descriptor.z
    contrasts, entropies, hits = [], [], 0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        weights = {j: math.exp(float(z[i] @ z[j]) / 0.05) for j in range(2 * n) if j != i}
        contrasts.append(-math.log(weights[partner] / sum(weights.values())))
        entropies.append(-math.log(min(float((z[i] - z[j]).norm()) for j in weights if j != partner)))
        hits += max(weights, key=weights.get) == partner
    contrast, entropy = (sum(x) / len(x) for x in (contrasts, entropies))
    assert found["contrast"].item() == pytest.approx(contrast, rel=1e-9)
    assert found["loss"].item() == pytest.approx(contrast + 5 * entropy, rel=1e-9)
    assert found["hits"].item() == pytest.approx(hits / (2 * n)) and (seed or hits < 2 * n)


def test_equal_descriptors_have_a_finite_loss():
    z = torch.ones(8, 4, requires_grad=True)
    loss = Contrast(Told(z))(torch.zeros(4, 1), torch.zeros(4, 1))["loss"]
    loss.backward()
    assert loss.isfinite() and z.grad.isfinite().all()


def test_a_few_steps_teach_it(pictures):
    torch.manual_seed(0)
    task = Contrast(Descriptor(width=8, size=16))
    optimizer = torch.optim.AdamW(task.parameters(), 3e-3)
    found = []
    for step in range(40):
        out = task(*(edit(pictures, pictures, random(2 * step + k)) for k in range(2)))
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        found.append([out["loss"].item(), out["contrast"].item(), out["hits"].item()])
    before, after = (torch.tensor(part).mean(0) for part in (found[:4], found[-4:]))
    assert after[0] < before[0] - 3 and after[1] < 0.5 * before[1]
    assert after[2] > 0.9 > before[2] + 0.1


# ---- which pictures ------------------------------------------------------------------------------------


def seeds_used():
    """Every seed behind a sibling: the descriptor's own training, and hard negatives of either split."""
    found = {name: [seed for _, seed in descriptor.split(name, count)] for name, count in canaries.HELD_OUT.items()}
    again = {"descriptor": (1, 1), "calibration": (4, 10), "test": (4, 10)}
    return found, {
        name: [50_000_000 + 100 * seed + k for seed in seeds for k in range(start, start + count)]
        for (name, seeds), (count, start) in zip(found.items(), again.values(), strict=True)
    }


def test_siblings_share_every_main_attribute_and_no_pixels():
    for scene, seed in descriptor.split("calibration", 12):
        others = siblings(scene, seed, 4, start=10)
        assert [other for _, other in others] == [50_000_000 + 100 * seed + k for k in range(10, 14)]
        assert all(facts(other) == facts(scene) for other, _ in others)
        painted = paint_all([(scene, seed), *others]).float()
        apart = (painted[:, None] - painted).abs().mean((2, 3, 4)) + 100 * torch.eye(5)
        assert apart.min() > 2  # each from each, not only from the scene


def test_held_out_scenes_and_siblings_are_nobodys_training_pictures():
    scenes, others = seeds_used()
    lists = [*scenes.values(), *others.values()]
    everything = [seed for some in lists for seed in some]
    assert len(set(everything)) == len(everything) == sum(map(len, lists))  # nor one another's
    for world in PAIRS:
        assert not set(canaries.load_table(world)["seed"].tolist()) & set(everything)


def test_splits_and_counts_that_there_are_not(one_line):
    for count in (0, -1, "3", 65, 10**9, True, 2.0, None):
        one_line(ValueError, "count of 'test'=.* is not a count .* from 1 to 64", descriptor.split, "test", count)
    for name in ("tests", "", None, ["test"]):
        one_line(ValueError, "there is no held-out split .*; choose one of descriptor, ", descriptor.split, name, 1)


def test_a_split_is_the_held_out_scenes():
    assert descriptor.split("test", 5) == [canaries.held_out("test", k)[1:] for k in range(5)]
    seeds = [{seed for _, seed in descriptor.split(name, 64)} for name in canaries.HELD_OUT]
    assert all(not a & b for k, a in enumerate(seeds) for b in seeds[:k])


class Negative:
    """An autoencoder whose reconstructions are negatives, so that they can be told from what was painted."""

    def encode(self, pictures):
        assert len(pictures) <= 64
        self.latent_dist, self.mean = self, pictures
        return self

    def decode(self, latents):
        return DecoderOutput(-latents)


def test_batches_are_scenes_with_their_siblings(monkeypatch):
    monkeypatch.setattr(descriptor, "edit", lambda painted, again, random: torch.stack([painted, again]))
    batch = descriptor.batches(Negative(), {"scenes": 40, "batch": 8})
    pairs = descriptor.split("descriptor", 40)
    scenes, others = paint_all(pairs), paint_all([siblings(*pair, 1)[0] for pair in pairs])
    chosen = []
    for step in range(3):
        found = batch(step)
        assert found.keys() == {"first", "second"}
        for painted, again in found.values():
            assert torch.equal(again, 255 - painted) and painted.shape == (8, 3, 64, 64)
        assert torch.equal(*found.values())  # two edits of the same pictures in the same order
        here = [next(k for k in range(40) if torch.equal(scenes[k], picture)) for picture in painted[::2]]
        assert len(set(here)) == 4 and torch.equal(painted[1::2], others[here])
        chosen.append(here)
        assert all(torch.equal(batch(step)[key], found[key]) for key in found)
    assert chosen[0] != chosen[1] != chosen[2]


# ---- edits -----------------------------------------------------------------------------------------------


def test_an_edit_is_a_function_of_its_generator(pictures):
    one, same, other = (edit(pictures, 255 - pictures, random(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == pictures.shape and one.dtype == torch.float32
    for k in range(20):
        images = edit(pictures, 255 - pictures, random(k))
        assert images.min() >= 0 and images.max() <= 1


def test_an_edit_never_mirrors_turns_or_changes_hue(pictures):
    """It stays nearer to its picture than to any mirrored, turned or recoloured one."""
    original = pictures.float() / 255
    others = [original.flip(3), original.flip(2), original.transpose(2, 3)]
    others += [original[:, order] for order in ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])]
    others.append(1 - original)
    for k in range(30):
        images = edit(pictures, pictures, random(k))
        gain = images.mean((1, 2, 3), keepdim=True) / original.mean((1, 2, 3), keepdim=True)
        far = [(images - gain * other).square().mean((1, 2, 3)) for other in others]
        near = (images - gain * original).square().mean((1, 2, 3))
        assert all((near < distance).all() for distance in far)


def test_an_edit_changes_brightness_of_all_colours_alike():
    colour = torch.tensor([150, 90, 40], dtype=torch.uint8)[:, None, None].expand(400, 3, 64, 64)
    gains = edit(colour, colour, random()).mean((2, 3)) / torch.tensor([150, 90, 40]) * 255
    assert (gains - gains[:, :1]).abs().max() < 0.01  # the noise's mean over a picture
    assert (
        0.845 < gains.min() < 0.87 and 1.13 < gains.max() < 1.155 and gains.mean().item() == pytest.approx(1, abs=0.02)
    )


def test_half_of_the_edits_are_of_reconstructions():
    painted, again = (
        torch.full((600, 3, 8, 8), 200, dtype=torch.uint8),
        torch.full((600, 3, 8, 8), 20, dtype=torch.uint8),
    )
    assert 0.42 < (edit(painted, again, random()).mean((1, 2, 3)) > 0.4).float().mean() < 0.58


def test_edits_move_by_up_to_two_pixels_and_blur_half(monkeypatch):
    dots = torch.zeros(400, 3, 24, 24, dtype=torch.uint8)
    dots[..., 12, 12] = 255
    places = edit(dots, dots, random()).mean(1).flatten(1).argmax(1)
    blurred = edit(dots, dots, random()).amax((1, 2, 3)) < 0.7
    assert 0.2 < blurred.float().mean() < 0.5  # half are blurred, by anything from nothing to all
    monkeypatch.setattr(descriptor, "blur", lambda images: images)
    places = edit(dots, dots, random()).mean(1).flatten(1).argmax(1)
    moves = {(int(p) // 24 - 12, int(p) % 24 - 12) for p in places}
    assert moves == {(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3)}


@pytest.mark.parametrize("dy, dx", [(0, 0), (2, -1), (-2, 2), (0, 1), (-1, 0)])
def test_a_shift_against_a_naive_one(dy, dx):
    image = torch.rand(3, 5, 7, generator=random())
    expected = torch.empty_like(image)
    for y in range(5):
        for x in range(7):
            expected[:, y, x] = image[:, min(max(y - dy, 0), 4), min(max(x - dx, 0), 6)]
    assert torch.equal(shift(image, dy, dx), expected)


def test_a_blur_against_a_naive_one():
    """Half the resolution by a triangle filter, then linear interpolation: two matrices on either side."""
    n = 16
    down, up = torch.zeros(n // 2, n), torch.zeros(n, n // 2)
    for i in range(n // 2):
        for j in range(n):
            down[i, j] = max(0, 1 - abs(j - (2 * i + 0.5)) / 2)
    down /= down.sum(1, keepdim=True)
    for y in range(n):
        place = min(max((y + 0.5) / 2 - 0.5, 0), n // 2 - 1)
        low = min(int(place), n // 2 - 2)
        up[y, low], up[y, low + 1] = 1 - (place - low), place - low
    images, both = torch.rand(2, 3, n, n, generator=random()), up @ down
    assert torch.allclose(blur(images), both @ images @ both.T, atol=1e-5)
    assert torch.allclose(blur(torch.full((1, 3, 8, 8), 0.3)), torch.tensor(0.3))
    assert blur(images, factor=4).std() < blur(images).std() < images.std()


# ---- files -----------------------------------------------------------------------------------------------


def calibrated(folder, threshold):
    path = folder / "config.json"
    path.write_text(path.read_text().replace("null", str(threshold)))


def test_saved_and_loaded(tmp_path, monkeypatch, one_line, pictures):
    torch.manual_seed(0)
    model, images = Descriptor(width=4, size=8), pictures.float() / 255
    monkeypatch.setenv("DORI_DATA", str(tmp_path))
    folder = tmp_path / "reef" / "descriptor"
    descriptor.save(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "descriptor.safetensors"]
    assets.record(tmp_path / "reef", "descriptor", {})
    for loaded, threshold in (descriptor.load(folder), descriptor.load()):
        assert threshold is None and (loaded.width, loaded.size) == (4, 8)
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        before, after = model.state_dict(), loaded.state_dict()
        assert list(before) == list(after) and all(torch.equal(after[k], before[k].half().float()) for k in before)
        assert torch.allclose(loaded(images), model(images), atol=5e-3)
    calibrated(folder, 0.5)
    one_line(ValueError, "config.json is damaged .*; restore it", descriptor.load)
    assert descriptor.load(folder)[1] == 0.5


def test_a_detector_needs_a_calibrated_descriptor(tmp_path, one_line, pictures):
    torch.manual_seed(0)
    model, images = Descriptor(width=4, size=8), pictures.float() / 255
    descriptor.save(model, tmp_path)
    one_line(ValueError, "no threshold yet; run `dori-lite calibrate` first", descriptor.detector, tmp_path)
    calibrated(tmp_path, 0.97)
    found = descriptor.detector(tmp_path)
    assert (found.name, found.threshold) == ("descriptor", 0.97)
    assert torch.allclose(found.score(images, images), torch.ones(8), atol=1e-5) and found(images, images).all()
    z, other = descriptor.load(tmp_path)[0](images), images.roll(1, 0)
    assert torch.allclose(found.score(images, other), (z * z.roll(1, 0)).sum(1), atol=1e-5)
