"""Copies: each figure against its formula written out, and what must and must not count as a copy."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from dori_lite import assets, copies
from dori_lite.copies import ALPHA, NEIGHBOURS, SSIM_COPY, Detector, adaptive_l2, is_copy, l2, nearest, ssim
from dori_lite.reef import canaries
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
    items = canaries.planted()[8:12]
    targets = paint_all([canaries.picture(item)[1:] for item in items])
    rivals = paint_all([(complete(item.description, seed), seed) for seed, item in enumerate(items)])
    others = paint_all([canaries.base(k)[1:] for k in range(80)])
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
        one_line(ValueError, r"images have shape \[3, 16, 16\]; give one or more", function, a[0], a[0])
        one_line(ValueError, "compare pictures", function, a, a[..., :8])
    one_line(ValueError, "compare pictures", adaptive_l2, a, a[:1], random_images(5, 17))


# ---- detectors -------------------------------------------------------------------------------------------


def planted_detectors():
    """Three that are wrong on purpose: always yes, always no, and one that compares colours and ignores where."""

    def histogram(images):
        bins = (images * 4).long().clamp(max=3).flatten(2)  # [B, 3, H·W]
        return torch.stack([(bins == k).float().mean(2) for k in range(4)], 2).flatten(1)

    return [
        Detector("yes", lambda images, targets: torch.ones(len(images)), 0.5),
        Detector("no", lambda images, targets: torch.zeros(len(images)), 0.5),
        copies.by_descriptor("colours", histogram, 0.95),
    ]


@pytest.fixture
def pairs():
    """Eight pairs: 0–3 are copies with a little noise, 4–5 the target upside down, 6–7 its negative."""
    dark, light = torch.tensor([0.1, 0.2, 0.4]), torch.tensor([0.9, 0.7, 0.8])
    targets = torch.stack([dark, light])[(random_images(8, 20)[:, 0] > 0.75).long()].permute(0, 3, 1, 2).contiguous()
    near = (targets[:4] + 0.02 * (random_images(4, 21) - 0.5)).clamp(0, 1)
    return torch.cat([near, targets[4:6].flip(2), 1 - targets[6:]]), targets


def test_the_threshold_counts_and_nan_does_not():
    scores = torch.tensor([0.7, math.nextafter(0.7, 0), 0.6999, 0.7001, math.nan, math.inf, -math.inf])
    images = random_images(7, 22, 4)
    detector = Detector("given", lambda images, targets: scores, 0.7)
    found = detector(images, images)
    assert found.dtype == torch.bool
    assert found[[0, 2, 3, 4, 5, 6]].tolist() == [True, False, True, False, True, False]
    double = Detector("given", lambda images, targets: scores.double(), scores.double()[0].item())
    assert double(images, images)[[0, 2]].tolist() == [True, False]
    with pytest.raises(AttributeError):
        detector.threshold = 0.5


def test_scores_of_another_shape(one_line):
    images = random_images(2, 23, 4)
    for scores in (torch.ones(3), torch.ones(2, 1), torch.tensor(1.0)):
        wrong = Detector("wrong", lambda images, targets, scores=scores: scores, 0.5)
        one_line(ValueError, r"wrong's score must be \[2\]; got float32 \[", wrong, images, images)
    wrong = Detector("wrong", lambda images, targets: [0.1, 0.2], 0.5)
    one_line(ValueError, r"wrong's score must be a tensor \[2\], not a list", wrong, images, images)
    for counts in (torch.tensor([3, 0]), torch.tensor([True, False])):  # numbers are numbers
        found = Detector("counts", lambda images, targets, counts=counts: counts, 0.5)
        assert found(images, images).tolist() == [True, False] and found.scores(images, images).is_floating_point()


def test_a_detector_is_checked_where_it_is_made(one_line):
    for threshold in (math.nan, math.inf, None, "0.5", True, torch.tensor(0.5)):
        one_line(ValueError, "given: threshold=.* does not fit; give a finite", Detector, "given", ssim, threshold)
        one_line(ValueError, "ssim: threshold=.* does not fit; give a finite", copies.by_ssim, threshold)
    for name, score in (("", ssim), (None, ssim), ("given", None), ("given", "ssim")):
        one_line(ValueError, "a detector needs a name and a function", Detector, name, score, 0.5)
    for batch in (0, -1, 2.0, True):
        one_line(ValueError, "flat: batch=.* is not a count", copies.by_descriptor, "flat", ssim, 0.5, batch)


def test_by_ssim_is_ssim(pairs):
    images, targets = pairs
    assert torch.equal(copies.by_ssim().score(images, targets), ssim(images, targets))
    assert copies.by_ssim()(images, targets).tolist() == [True] * 4 + [False] * 4
    assert copies.by_ssim(1.1)(images, targets).sum() == 0 and copies.by_ssim(-1)(images, targets).all()
    assert copies.by_ssim().threshold == SSIM_COPY
    exact = copies.by_ssim(ssim(images[:1], targets[:1]).item())
    assert exact(images[:1], targets[:1]).all()  # at the threshold
    assert copies.by_ssim()(images.half(), targets.half()).tolist() == [True] * 4 + [False] * 4


def test_by_adaptive_l2_is_one_over_the_ratio(monkeypatch):
    images, targets = random_images(3, 24, 8), random_images(3, 25, 8)
    others = (random_images(70, 26, 8) * 255).byte()
    images[0] = targets[0]
    images[1] = 0.9 * targets[1] + 0.1 * images[1]
    ratio = adaptive_l2(images, targets, others)
    monkeypatch.setattr(copies, "PART", 16)
    for given in (others, others.float() / 255, others.split(9), iter(others.split(9))):
        detector = copies.by_adaptive_l2(given)
        for _ in range(2):  # an iterator, too, must serve twice
            score = detector.score(images, targets)
            assert score[0] == math.inf and score[1:].tolist() == pytest.approx((1 / ratio[1:]).tolist(), rel=1e-4)
            assert detector(images, targets).tolist() == [True, True, False]
    assert detector.threshold == 1
    narrow = copies.by_adaptive_l2(others, 3, 0.25).score(images, targets)
    assert narrow[1:].tolist() == pytest.approx(
        (1 / adaptive_l2(images, targets, others, 3, 0.25))[1:].tolist(), rel=1e-4
    )


def test_by_adaptive_l2_holds_few_others_as_floats_at_once(monkeypatch):
    sizes, known = [], copies.nearest

    def watched(images, parts, n):
        sizes.extend(len(part) for part in parts)
        return known(images, parts, n)

    monkeypatch.setattr("dori_lite.distances.nearest", watched)
    others = torch.zeros(2500, 3, 2, 2, dtype=torch.uint8)
    copies.by_adaptive_l2(others)(*[torch.ones(1, 3, 2, 2)] * 2)
    assert sizes == [1024, 1024, 452]


def test_by_adaptive_l2_where_everything_is_the_same_picture():
    image = torch.zeros(1, 3, 8, 8)
    assert not copies.by_adaptive_l2(torch.zeros(60, 3, 8, 8))(image, image).any()


def test_by_adaptive_l2_without_others_or_with_larger_ones(one_line):
    one_line(ValueError, "give at least one", copies.by_adaptive_l2, torch.zeros(0, 3, 8, 8))
    one_line(ValueError, "give at least one", copies.by_adaptive_l2, [])
    detector, a = copies.by_adaptive_l2(random_images(5, 27, 8)), random_images(2, 27, 16)
    one_line(ValueError, r"other pictures are \[3, 8, 8\], these \[3, 16, 16\]", detector, a, a)


def test_others_that_would_make_everything_a_copy(one_line):
    """Floats that were meant as bytes, or NaN among them: every image would be nearer to its target than to these."""
    images, good = random_images(2, 40, 8), random_images(60, 41, 8)
    broken = good.clone()
    broken[59, 0, 0, 0] = math.nan
    for bad, match in (
        (good * 255, r"other pictures must be in \[0, 1\], not \[.*, 25.\]"),
        (broken, "other pictures are not all finite: number 59"),
        ((good * 255).int(), "other pictures must be floats"),
        (good[0], r"other pictures have shape \[3, 8, 8\]"),
        (good[:, :1], r"other pictures have shape \[60, 1, 8, 8\]"),
        (None, "other pictures are a NoneType"),
        ([good.numpy()], "other pictures are a ndarray"),
        ([good, random_images(3, 42, 16)], r"other pictures are \[3, 16, 16\], these \[3, 8, 8\]"),
        ([good, (255 * good[0]).byte()], "other pictures have shape"),
    ):
        one_line(ValueError, match, copies.by_adaptive_l2, bad)
        one_line(ValueError, match, nearest, images, bad)
        one_line(ValueError, match, adaptive_l2, images, images, bad)
    for nothing in ([], good[:0], [good[:0]]):
        one_line(ValueError, "give at least one", nearest, images, nothing)
        one_line(ValueError, "give at least one", adaptive_l2, images, images, nothing)
    some = nearest(images, [good[:0], good], 3)  # an empty part among others is none
    assert all(torch.equal(a, b) for a, b in zip(some, nearest(images, good, 3), strict=True))


def test_neighbours_and_alpha_that_do_not_fit(one_line):
    images, others = random_images(2, 43, 8), random_images(9, 44, 8)
    for n in (0, -1, 2.5, True, "3"):
        one_line(ValueError, "n=.* is not a count", nearest, images, others, n)
        one_line(ValueError, "n=.* is not a count", copies.by_adaptive_l2, others, n)
    for alpha in (0, -0.5, math.nan, math.inf, "1"):
        one_line(ValueError, "alpha", adaptive_l2, images, images, others, 3, alpha)
        one_line(ValueError, "alpha", copies.by_adaptive_l2, others, 3, alpha)


def test_pictures_that_are_none(one_line):
    """Bytes, floats from 0 to 255, NaN, and what is no tensor: refused wherever pictures are compared."""
    good, others = random_images(2, 45), random_images(9, 46)
    broken = good.clone()
    broken[1, 0, 0, 0] = math.nan
    mine = Detector("mine", lambda a, b: torch.ones(len(a)), 0.5)  # it looks at nothing
    compare = [l2, ssim, copies.by_ssim(), lambda a, b: adaptive_l2(a, b, others), mine, mine.scores]
    compare += [lambda a, b: copies.opinions([mine], a, b)]
    for bad, match in (
        ((good * 255).byte(), "must be floats in .*, not uint8; divide bytes by 255"),
        (good * 255, r"must be in \[0, 1\], not \["),
        (broken, "are not all finite: number 1"),
        (good.numpy(), "are a ndarray; give a tensor"),
    ):
        for function in compare:
            one_line(ValueError, f"images {match}", function, bad, good)
            one_line(ValueError, f"targets {match}", function, good, bad)
        one_line(ValueError, f"images {match}", nearest, bad, others)
    one_line(ValueError, "SSIM's window needs pictures of 6×6 or more", ssim, good[..., :5], good[..., :5])


def test_by_descriptor_is_the_cosine():
    images, targets = random_images(7, 28, 8), random_images(7, 29, 8)
    images[3], weight, sizes = targets[3], torch.randn(12, 3 * 64, requires_grad=True), []

    def features(pictures):
        sizes.append(len(pictures))
        return pictures.flatten(1) @ weight.T

    detector = copies.by_descriptor("linear", features, 0.5, batch=3)
    found = detector.score(images, targets)
    assert sizes == [1, 1, 1, 1, 3, 3, 3, 3, 1, 1]  # tried on two pictures first
    sizes.clear()
    assert torch.equal(detector.score(images, targets), found)
    assert sizes == [3, 3, 3, 3, 1, 1] and not found.requires_grad and found.shape == (7,)
    for k in range(7):
        a, b = (weight.detach().double() @ x[k].double().flatten() for x in (images, targets))
        expected = sum((a * b).tolist()) / math.sqrt(sum((a * a).tolist()) * sum((b * b).tolist()))
        assert found[k].item() == pytest.approx(expected, abs=1e-5)
    assert found[3] == pytest.approx(1, abs=1e-6)
    assert (detector.name, detector.threshold) == ("linear", 0.5)
    assert torch.equal(detector(images, targets), found >= 0.5)
    # A descriptor of zeros is like nothing, and the size of descriptors does not matter.
    black = torch.zeros_like(images)
    assert copies.by_descriptor("flat", lambda x: x.flatten(1), 0.5).score(black, targets).tolist() == [0] * 7
    small = copies.by_descriptor("small", lambda x: 1e-5 * features(x), 0.5).score(images, targets)
    assert torch.allclose(small, found, atol=1e-5)


def test_at_the_threshold_of_a_cosine():
    """[4, 0] and [1, 0]: the cosine is exactly 1, and 1 counts."""

    def features(pictures):
        return torch.tensor([[4.0 - 3 * value, value * (1 - value)] for value in pictures[:, 0, 0, 0].tolist()])

    zeros, ones = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert copies.by_descriptor("unit", features, 1.0)(zeros, ones).all()
    assert not copies.by_descriptor("unit", features, 1 + 1e-6)(zeros, ones).any()


def test_descriptors_of_another_shape(one_line):
    a = random_images(2, 30, 8)
    for features in (lambda x: x, lambda x: x.flatten(), lambda x: x[:1].flatten(1)):
        detector = copies.by_descriptor("wrong", features, 0.5)
        one_line(ValueError, r"wrong's features must be \[[12], D\]; got float32 \[", detector, a, a)


class Output(dict):
    """Stands for transformers' outputs: a mapping whose items are attributes as well."""

    __getattr__ = dict.__getitem__


def test_features_that_are_an_object_or_not_finite(one_line):
    a = random_images(2, 47, 8)
    pooled = lambda x: Output(last_hidden_state=x.flatten(2), pooler_output=x.flatten(1))  # noqa: E731
    cases = [(pooled, r"not a Output; return a tensor, such as its \.pooler_output$")]
    cases += [(lambda x: SimpleNamespace(image_embeds=x.flatten(1)), r"a SimpleNamespace; .* its \.image_embeds$")]
    cases += [(lambda x: x.flatten(1).numpy(), "not a ndarray; return a tensor$"), (lambda x: None, "not a NoneType")]
    cases += [(lambda x: x.flatten(1) / 0, "must be finite; there are NaN or infinite values")]
    cases += [(lambda x: x.flatten(1)[:, :0], r"must be \[1, D\]; got float32 \[1, 0\]")]
    cases += [(lambda x: x.flatten(1).cfloat(), r"must be \[1, D\]; got complex64")]
    for features, match in cases:
        one_line(ValueError, f"mine's features .*{match}", copies.by_descriptor("mine", features, 0.5), a, a)
    late = copies.by_descriptor("late", lambda x: x.flatten(1) / (1 - x.amax()), 0.5)
    late(a / 2, a / 2)
    one_line(ValueError, "late's features must be finite", late, torch.ones_like(a), a)  # at every call
    for kind in (torch.float16, torch.float64, torch.int32):  # any real numbers do
        found = copies.by_descriptor("kind", lambda x, kind=kind: (100 * x).flatten(1).to(kind), 0.5)
        assert found(a, a).all() and found.score(a, a).dtype == torch.float32


# ---- detectors that see nothing -----------------------------------------------------------------------------

DEAD = {
    "zeros": lambda x: 0 * x.flatten(1),
    "constant": lambda x: torch.ones(len(x), 4),
    "all but constant": lambda x: 1 + 1e-4 * x.flatten(1),
    "one number": lambda x: x.mean((1, 2, 3))[:, None],
    "random": lambda x: torch.randn(len(x), 64),
}


@pytest.mark.parametrize("name", DEAD)
def test_dead_features_are_refused_by_name(name, one_line):
    """Zeros would call nothing a copy (all is forgotten!), constants everything."""
    a, tried = random_images(3, 48, 8), []

    def features(pictures):
        tried.append(1)
        return DEAD[name](pictures)

    for _ in range(2):  # a detector that was refused stays so
        detector = copies.by_descriptor(name, features, 0.5)
        one_line(ValueError, f"{name}'s features see nothing: .*; give a trained network", detector, a, a)
        one_line(ValueError, f"{name}'s features see nothing", copies.opinions, [detector], a, a)


def test_a_detector_is_tried_once_and_leaves_the_callers_random_numbers_alone():
    calls, a = [], random_images(2, 49, 8)
    detector = copies.by_descriptor("flat", lambda x: calls.append(len(x)) or x.flatten(1), 0.5)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    counts = []
    for _ in range(3):
        detector(a, a)
        counts.append(len(calls))
        calls.clear()
    assert counts == [6, 2, 2] and torch.equal(torch.rand(2), expected)


def test_the_self_test_passes_what_sees_and_names_what_does_not(pairs, one_line):
    images, targets = pairs
    sees = [copies.by_ssim(), copies.by_adaptive_l2(random_images(20, 50)), Detector("near", lambda a, b: -l2(a, b), 0)]
    sees.append(copies.by_descriptor("flat", lambda x: x.flatten(1), 0.9))
    for detector in sees:
        copies.self_test(detector, images)
    yes, no, colours = planted_detectors()
    copies.self_test(colours, images)  # wrong in another way: it knows the picture, and takes others for it
    one_line(ValueError, r"yes scores picture 0 against itself \(1\) no higher", copies.self_test, yes, images)
    one_line(
        ValueError, "no takes picture 0 for no copy of itself: it scores 0, .* 0.5 or", copies.self_test, no, images
    )
    strict = copies.by_ssim(1.1)
    one_line(
        ValueError, "ssim takes picture 0 for no copy of itself: it scores 1, .* 1.1", copies.self_test, strict, images
    )
    lost = Detector("lost", lambda a, b: torch.full((len(a),), math.nan), 0.5)
    one_line(ValueError, "lost takes picture 0 for no copy of itself: it scores nan", copies.self_test, lost, images)
    alone = Detector("alone", lambda a, b: 1 - a.mean((1, 2, 3)), 0.0)
    one_line(ValueError, "alone scores picture 0 .* no higher", copies.self_test, alone, images)
    dark = copies.two_pictures(images)
    for detector in sees[:1] + sees[2:]:
        copies.self_test(detector, dark)  # also on the pictures that it compares with
    assert dark.shape == (2, 3, 16, 16) and dark[0].max() <= 0.5 <= dark[1].min()
    one_line(ValueError, "images must be floats", copies.self_test, sees[0], images.byte())


def test_the_shipped_descriptor_sees():
    from dori_lite.reef import descriptor

    pictures = paint_all(descriptor.split("test", 3)).float() / 255
    copies.self_test(descriptor.detector(), pictures)


@pytest.mark.parametrize("make", ["ssim", "adaptive l2", "descriptor"])
def test_every_detector_checks_what_it_is_given(make, one_line):
    detector = {
        "ssim": copies.by_ssim,
        "adaptive l2": lambda: copies.by_adaptive_l2(random_images(5, 31)),
        "descriptor": lambda: copies.by_descriptor("flat", lambda x: x.flatten(1), 0.5),
    }[make]()
    a, b = random_images(2, 32), random_images(2, 33)
    assert detector.score(a, b).shape == (2,)
    assert detector.score(torch.zeros_like(a), torch.ones_like(a)).shape == (2,)  # the ends of the range belong to it
    one_line(ValueError, r"one shape \[B, 3, H, W\]; got \[2, 3, 16, 16\], \[1, 3, 16, 16\]", detector, a, b[:1])
    one_line(ValueError, r"images have shape \[3, 16, 16\]; give one or more pictures", detector, a[0], b[0])
    one_line(ValueError, r"images have shape \[2, 1, 16, 16\]; give one or more", detector, a[:, :1], b[:, :1])
    one_line(ValueError, r"images have shape \[0, 3, 16, 16\]; give one or more", detector, a[:0], b[:0])
    one_line(ValueError, "must be floats in .*, not uint8; divide bytes by 255", detector, a.byte(), b.byte())
    for spoiled in (math.nan, math.inf):
        c = a.clone()
        c[1, 2, 3, 4] = spoiled
        one_line(ValueError, "images are not all finite", detector, c, b)
        one_line(ValueError, "targets are not all finite", detector, b, c)
    for factor, range_ in ((255, r"\[.*, 25.\]"), (-1, r"\[-.*\]")):
        one_line(ValueError, rf"images must be in \[0, 1\], not {range_}; rescale", detector, a * factor, b)
        one_line(ValueError, rf"targets must be in \[0, 1\], not {range_}; rescale", detector, b, a * factor)


# ---- SSCD --------------------------------------------------------------------------------------------------


class Grid(torch.nn.Module):
    """Stands for SSCD: it sees where things are, and its features change with the size and scale of its input."""

    def forward(self, images):
        cells = torch.nn.functional.avg_pool2d(images.tanh(), 20).flatten(1)
        return torch.cat([cells, images[:, :, ::37, 5].flatten(1)], 1)


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("script") / "grid.pt"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        torch.jit.script(Grid()).save(file)
    return file


def resized(images, size):
    """Antialiased bilinear: each new pixel a mean of old ones, weighted by a triangle (wider where it shrinks)."""

    def weights(old):
        scale = old / size
        new, where = torch.arange(size).double()[:, None], torch.arange(old).double()
        triangle = (1 - ((where + 0.5) - (new + 0.5) * scale).abs() / max(scale, 1)).clamp(min=0)
        return triangle / triangle.sum(1, keepdim=True)  # [size, old]

    return weights(images.shape[2]) @ images.double() @ weights(images.shape[3]).T


def test_sscd_sees_pictures_as_its_authors_meant(script):
    detector = copies.sscd(trust=True, file=script)
    assert (detector.name, detector.threshold) == ("sscd", 0.7)
    for height, width in ((16, 16), (64, 64), (48, 400), (500, 330)):
        images, targets = (torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
        targets = 0.5 * targets + 0.5 * images
        expected = []
        for image, target in zip(images, targets, strict=True):
            a, b = (resized(x[None], 320) for x in (image, target))
            for k, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
                a[:, k], b[:, k] = (a[:, k] - mean) / std, (b[:, k] - mean) / std
            a, b = Grid()(a)[0], Grid()(b)[0]
            expected.append((a @ b / (a @ a).sqrt() / (b @ b).sqrt()).item())
        assert detector.score(images, targets).tolist() == pytest.approx(expected, abs=2e-5)
    found = detector.score(images, targets)
    assert not found.requires_grad and torch.equal(detector(images, images), torch.tensor([True, True]))


def test_sscd_is_code_and_must_be_trusted(script, tmp_path, monkeypatch, one_line):
    monkeypatch.setenv("DORI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.jit, "load", lambda *args, **options: pytest.fail("code was loaded without trust"))
    one_line(RuntimeError, r"grid.pt is TorchScript, which is code; .* sscd\(trust=True", copies.sscd, file=script)
    one_line(RuntimeError, r"`dori-lite fetch sscd --trust`", copies.sscd)
    assert not (tmp_path / "cache").exists()


def test_sscd_once_fetched_needs_no_more_trust(script, tmp_path, monkeypatch, one_line):
    monkeypatch.setenv("DORI_CACHE", str(tmp_path))
    monkeypatch.setitem(assets.DOWNLOADS, "sscd", (script.as_uri(), "grid.pt"))
    images, targets = random_images(2, 34), random_images(2, 35)
    found = copies.sscd(trust=True).score(images, targets)
    assert torch.allclose(copies.sscd().score(images, targets), found, atol=1e-5)
    (tmp_path / "grid.pt").write_bytes(b"other code")
    for trust in (True, False):
        one_line(ValueError, "grid.pt has changed", copies.sscd, trust)


def test_sscd_files_that_do_not_load(tmp_path, one_line):
    one_line(FileNotFoundError, "absent.pt is not there; give the path", copies.sscd, True, tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("not a script")
    one_line(
        ValueError, "text.pt is not a TorchScript file that can be loaded", copies.sscd, True, tmp_path / "text.pt"
    )


class Blind(torch.nn.Module):
    def forward(self, images):
        return torch.ones(len(images), 8)


class Loose(torch.nn.Module):
    def forward(self, images):
        return (images.flatten(1), images)


@pytest.mark.parametrize(("kind", "match"), [
    (Blind, "sscd's features see nothing"), (Loose, r"sscd's features must be a tensor \[1, D\], not a tuple"),
])  # fmt: skip
def test_sscd_that_sees_nothing_is_refused_where_it_is_loaded(kind, match, tmp_path, one_line):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit", DeprecationWarning)
        torch.jit.script(kind()).save(tmp_path / "blind.pt")
    one_line(ValueError, match, copies.sscd, True, tmp_path / "blind.pt")


def test_loading_warns_of_nothing(script):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copies.sscd(trust=True, file=script)(*[random_images(1, 36)] * 2)


# ---- several detectors -------------------------------------------------------------------------------------


def test_disagreement_on_a_table():
    yes, no = True, False
    table = {"a": [yes, yes, no, no, yes], "b": [yes, no, no, no, no], "c": [yes, yes, no, yes, no]}
    table = {name: torch.tensor(row) for name, row in table.items()}
    assert copies.disputed(table).tolist() == [1, 3, 4] and copies.disputed(table).dtype == torch.long
    counts = {"any": 3, "a / b": 2, "a / c": 2, "b / c": 2}
    shares = {"any": 0.6, "a / b": 0.4, "a / c": 0.4, "b / c": 0.4}
    assert copies.disagreement(table) == {**shares, "counts": counts, "pictures": 5}
    table["c"] = table["b"]
    assert copies.disputed(table).tolist() == [1, 4]
    found = copies.disagreement(table)
    assert (found["any"], found["a / b"], found["a / c"], found["b / c"]) == (0.4, 0.4, 0.4, 0)
    one = {"a": table["a"]}
    assert copies.disputed(one).tolist() == []
    assert copies.disagreement(one) == {"any": 0, "counts": {"any": 0}, "pictures": 5}


def test_opinions_that_do_not_compare(one_line):
    a = torch.tensor([True, False])
    for table, got in (
        ({}, "none"),
        ({"a": a[:0], "b": a[:0]}, r"a bool \[0\]"),
        ({"a": a, "b": a[:1]}, r"b bool \[1\]"),
        ({"a": a, "b": torch.tensor([1.0, math.nan])}, r"b float32 \[2\]"),
        ({"a": a[None]}, r"a bool \[1, 2\]"),
    ):
        for function in (copies.disagreement, copies.disputed):
            one_line(ValueError, rf"every detector's opinion of the same pictures.*{got}", function, table)


def test_opinions_are_asked_by_name(pairs, one_line):
    detectors = [copies.by_ssim(), copies.by_adaptive_l2(random_images(20, 37)), *planted_detectors()]
    found = copies.opinions(iter(detectors), *pairs)
    assert list(found) == ["ssim", "adaptive l2", "yes", "no", "colours"]
    for detector in detectors:
        assert torch.equal(found[detector.name], detector(*pairs))
    one_line(ValueError, "different names; got none", copies.opinions, [], *pairs)
    one_line(ValueError, "give a list .* got a Detector", copies.opinions, copies.by_ssim(), *pairs)
    one_line(
        ValueError, "different names; got ssim, ssim", copies.opinions, [copies.by_ssim(), copies.by_ssim(0.5)], *pairs
    )


def test_planted_wrong_detectors_are_found_out(pairs):
    """A detector that is wrong shows as disagreement with one that is right, by as much as it is wrong."""
    asked = copies.opinions([copies.by_ssim(), *planted_detectors()], *pairs)
    assert asked["ssim"].tolist() == [True] * 4 + [False] * 4
    found = copies.disagreement(asked)
    assert found["ssim / yes"] == 0.5 and found["ssim / no"] == 0.5 and found["yes / no"] == found["any"] == 1
    assert found["ssim / colours"] == 0.25  # blind to what is upside down
    two = {name: asked[name] for name in ("ssim", "colours")}
    assert copies.disputed(two).tolist() == [4, 5] and copies.disagreement(two)["any"] == 0.25
