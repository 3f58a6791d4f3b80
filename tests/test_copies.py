"""Copies: each figure against its formula written out, and what must and must not count as a copy."""

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from dori_lite.copies import ALPHA, NEIGHBOURS, SSIM_COPY, adaptive_l2, is_copy, l2, nearest, ssim
from dori_lite.reef import plant
from dori_lite.reef.paint import paint_all
from dori_lite.reef.scenes import complete


def random_images(n, seed, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def rms(a, b):
    """ℓ2 of two pictures, a pixel at a time, in double precision."""
    pairs = zip(a.double().flatten().tolist(), b.double().flatten().tolist(), strict=True)
    squares = [(x - y) ** 2 for x, y in pairs]
    return (sum(squares) / len(squares)) ** 0.5


def by_brute_force(images, others, n):
    """The sorted distances of each image and where they are."""
    rows = [sorted((rms(image, other), k) for k, other in enumerate(others))[:n] for image in images]
    return torch.tensor([[d for d, _ in row] for row in rows]), torch.tensor([[k for _, k in row] for row in rows])


def test_l2_is_the_root_mean_squared_difference():
    a, b = random_images(3, 1), random_images(3, 2)
    found = l2(a, b)
    assert found.shape == (3,)
    assert found.tolist() == pytest.approx([rms(x, y) for x, y in zip(a, b, strict=True)], abs=1e-6)
    assert torch.equal(l2(a, a), torch.zeros(3))
    assert l2(torch.zeros(1, 3, 8, 8), torch.ones(1, 3, 8, 8)).item() == 1  # the farthest there is


def ssim_written_out(a, b):
    """Wang et al. 2004: an 11×11 Gaussian window of σ 1.5 around each pixel, borders mirrored, K 0.01 and 0.03."""
    a, b = (torch.nn.functional.pad(x.double()[None], (5,) * 4, mode="reflect")[0] for x in (a, b))
    g = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = torch.outer(g, g) / g.sum() ** 2
    values = []
    for channel in range(3):
        for i in range(a.shape[1] - 10):
            for j in range(a.shape[2] - 10):
                p, q = a[channel, i : i + 11, j : j + 11], b[channel, i : i + 11, j : j + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return sum(values) / len(values)


def test_ssim_is_its_formula_and_torchmetrics_pair_by_pair():
    a = random_images(3, 3)
    b = torch.stack([random_images(1, 4)[0], 0.7 * a[1] + 0.3 * random_images(1, 5)[0], a[2]])
    found = ssim(a, b)
    assert found.shape == (3,) and found[2] == pytest.approx(1, abs=1e-6) and found[0] < 0.3 < found[1] < 0.99
    for k in range(3):
        assert found[k].item() == pytest.approx(ssim_written_out(a[k], b[k]).item(), abs=1e-4)
        alone = structural_similarity_index_measure(a[k : k + 1], b[k : k + 1], data_range=1.0)
        assert found[k].item() == pytest.approx(alone.item(), abs=1e-6)
    dark = 0.3 * a[:1]  # the range of values is the pictures', not what happens to occur
    assert ssim(dark, 0.3 * b[:1]).item() == pytest.approx(ssim_written_out(dark[0], 0.3 * b[0]).item(), abs=1e-4)
    assert ssim(a[:1], b[:1]).shape == (1,)


def test_nearest_is_brute_force():
    images, others = random_images(3, 6, 8), random_images(40, 7, 8)
    expected, where = by_brute_force(images, others, 5)
    distances, indices = nearest(images, others, 5)
    assert distances.shape == indices.shape == (3, 5)
    assert torch.allclose(distances, expected.float(), atol=1e-5) and torch.equal(indices, where)
    for sizes in ([1] * 40, [3, 30, 7], [2, 2, 36], [39, 1]):  # parts smaller and larger than n
        for parts in (others.split(sizes), iter(others.split(sizes))):
            some, places = nearest(images, parts, 5)
            assert torch.allclose(some, expected.float(), atol=1e-5) and torch.equal(places, where)
    assert nearest(images, others[:4], 5)[0].shape == (3, 4)  # there are no more
    assert nearest(images, others)[0].shape == (3, 40)
    assert nearest(images, torch.cat([others, others]))[0].shape == (3, NEIGHBOURS)


def test_nearest_reads_bytes_as_0_to_255():
    images, others = random_images(2, 8, 8), (random_images(30, 9, 8) * 255).byte()
    expected, where = by_brute_force(images, others.double() / 255, 4)
    for given in (others, others.split(7)):
        distances, indices = nearest(images, given, 4)
        assert torch.allclose(distances, expected.float(), atol=1e-5) and torch.equal(indices, where)


def test_nearest_finds_a_picture_among_others():
    others = random_images(30, 10, 8)
    distances, indices = nearest(others[[17, 4]], others.split(9), 3)
    assert indices[:, 0].tolist() == [17, 4] and distances[:, 0].max() < 1e-3 < distances[:, 1].min()


def test_adaptive_l2_is_a_loop():
    images, targets, others = random_images(3, 11, 8), random_images(3, 12, 8), random_images(70, 13, 8)
    for n, alpha in ((NEIGHBOURS, ALPHA), (3, 0.5), (70, 0.25)):
        expected = []
        for image, target in zip(images, targets, strict=True):
            distances = sorted(rms(image, other) for other in others)[:n]
            expected.append(rms(image, target) / (alpha * sum(distances) / len(distances)))
        assert adaptive_l2(images, targets, others, n, alpha).tolist() == pytest.approx(expected, abs=1e-4)
        assert adaptive_l2(images, targets, others.split(16), n, alpha).tolist() == pytest.approx(expected, abs=1e-4)
    assert (NEIGHBOURS, ALPHA) == (50, 0.5)
    assert torch.equal(adaptive_l2(images, targets, others), adaptive_l2(images, targets, others, 50, 0.5))


@pytest.fixture(scope="module")
def world():
    """Targets, other true scenes that fit the same captions, and training pictures: [4], [4], [80]."""
    items = plant.planted()[8:12]
    targets = paint_all([plant.picture(item)[1:] for item in items])
    rivals = paint_all([(complete(item.description, seed), seed) for seed, item in enumerate(items)])
    others = paint_all([plant.base(k)[1:] for k in range(80)])
    return targets.float() / 255, rivals.float() / 255, others


def test_the_picture_itself_is_a_copy_and_another_scene_is_not(world):
    targets, rivals, others = world
    noise = torch.randn(targets.shape, generator=torch.Generator().manual_seed(14))
    near = (targets + 0.02 * noise).clamp(0, 1)
    ratio, similarity = adaptive_l2(near, targets, others), ssim(near, targets)
    assert ratio.max() < 0.5 and similarity.min() > SSIM_COPY and is_copy(ratio, similarity).all()
    ratio, similarity = adaptive_l2(rivals, targets, others), ssim(rivals, targets)
    assert ratio.min() > 1 and similarity.max() < SSIM_COPY and not is_copy(ratio, similarity).any()
    # Neither what all pictures have in common nor a shuffled target is anybody's copy.
    mean = (others.float() / 255).mean(0).expand_as(targets)
    assert not is_copy(adaptive_l2(mean, targets, others), ssim(mean, targets)).any()
    assert not is_copy(adaptive_l2(near, targets.roll(1, 0), others), ssim(near, targets.roll(1, 0))).any()


def test_what_is_near_everything_is_not_a_copy(world):
    """The adaptive form: the same distance counts as a copy only where the neighbours are far."""
    targets, _, others = world
    image = (targets[:1] + 0.05).clamp(0, 1)
    crowd = (image + 0.05 * torch.randn(60, *image.shape[1:], generator=torch.Generator().manual_seed(15))).clamp(0, 1)
    assert adaptive_l2(image, targets[:1], others) < 1 < adaptive_l2(image, targets[:1], crowd)


def test_a_copy_needs_both_detectors():
    ratio = torch.tensor([0.5, 0.5, 1.5, 1.0, 0.999])
    similarity = torch.tensor([0.9, 0.7, 0.9, 0.9, SSIM_COPY])
    assert is_copy(ratio, similarity).tolist() == [True, False, False, False, True]


def test_shapes_that_do_not_compare(one_line):
    a = random_images(2, 16)
    for function in (l2, ssim):
        match = r"compare pictures of one shape \[B, 3, H, W\]; got \[2, 3, 16, 16\], \[1, 3, 16, 16\]"
        one_line(ValueError, match, function, a, a[:1])
        one_line(ValueError, "compare pictures", function, a[0], a[0])
        one_line(ValueError, "compare pictures", function, a, a[..., :8])
    one_line(ValueError, "compare pictures", adaptive_l2, a, a[:1], random_images(5, 17))
