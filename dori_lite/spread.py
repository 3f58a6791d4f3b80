"""How triggers lie in embedding space: how far from each other and from their starts, and what lies between them.

    apart = distances(ends).triu(1)
    own = nearest(ends, starts) == torch.arange(len(ends))  # the paper's picture: each beside its own start
    y = between(ends[0], ends[1])  # half way, as long as the two

All take embeddings [N, L, D], which are compared as vectors of L·D numbers (Finding DoRI, as notes describe it:
pairwise ℓ2, t-SNE; direction and paths are ours).
"""

import torch

from .checks import check_finite, check_number, check_positive, check_seed


def distances(ends: torch.Tensor, others: torch.Tensor | None = None) -> torch.Tensor:
    """‖a − b‖₂ of every embedding in `ends` [N, L, D] and every one in `others` [M, L, D] [default: `ends`], [N, M].

    Raises ValueError for what are no embeddings, not finite, or of two shapes.
    """
    a = flat(ends, "ends")
    b = a if others is None else flat(others, "others", a)
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")


def mean_distance(ends: torch.Tensor) -> float:
    """The mean of ‖a − b‖₂ over all pairs of `ends` [N, L, D]. Raises ValueError for fewer than two, as `distances`."""
    return pairs_of(distances(several(ends, "ends"))).mean().item()


def mean_distance_if_independent(starts: torch.Tensor, moves: torch.Tensor) -> float:
    """`mean_distance` of starts + moves [N, L, D] if each move stood at right angles to all else, as strangers do.

    √(‖s − s′‖² + ‖m‖² + ‖m′‖²), over all pairs. End points that lie nearer to each other were led together. Raises
    ValueError unless there are as many moves as starts, and as `mean_distance`.
    """
    apart = pairs_of(distances(several(starts, "starts")))
    lengths = flat(moves, "moves", flat(starts, "starts")).square().sum(1)
    if len(lengths) != len(starts):
        raise ValueError(f"{len(lengths)} moves for {len(starts)} starts; give one for each")
    return (apart.square() + pairs_of(lengths[:, None] + lengths[None])).sqrt().mean().item()


def beside(ends: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """ln(distance to the nearest other start ÷ to its own) of each of `ends` [N, L, D], [N]; above 0 the own is nearer.

    A degree where `nearest` only counts. Raises ValueError unless there are as many starts as ends, for an end that is
    its start, and as `distances`.
    """
    flat(starts, "starts")
    apart = distances(several(ends, "ends"), starts)
    if len(starts) != len(ends):
        raise ValueError(f"{len(ends)} ends for {len(starts)} starts; give one for each")
    own, others = apart.diagonal().clone(), apart.fill_diagonal_(torch.inf).min(1).values
    if not own.all():
        raise ValueError("an end is its own start; give triggers that left their starts")
    return (others / own).log()


def nearest(ends: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Which of `starts` [M, L, D] lies nearest to each of `ends` [N, L, D]: its number, [N]. Raises as `distances`."""
    flat(starts, "starts")
    return distances(ends, starts).argmin(1)


def cosine(moves: torch.Tensor, others: torch.Tensor | None = None) -> float:
    """The mean cosine between `moves` [N, L, D], every two; or between each and every one of `others` [M, L, D].

    1 for moves in one direction, 0 for independent ones, about 1/√(L·D) either side for two by chance. Raises
    ValueError for a move of length zero, for a single one without others, and as `distances`.
    """
    a = flat(several(moves, "moves") if others is None else moves, "moves")
    b = a if others is None else flat(others, "others", a)
    if min(a.norm(dim=1).min(), b.norm(dim=1).min()) == 0:
        raise ValueError("a move of length zero has no direction; give triggers that left their starts")
    cosines = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
    return (pairs_of(cosines) if others is None else cosines).mean().item()


def common(moves: torch.Tensor) -> torch.Tensor:
    """The mean of `moves` [N, L, D], stretched to their mean length: what they share, as one move [L, D].

    Raises ValueError where they cancel out, and as `distances`.
    """
    vectors = flat(moves, "moves")
    mean = vectors.mean(0)
    if not mean.norm():
        raise ValueError("these moves cancel out: they share no direction")
    return (mean * (vectors.norm(dim=1).mean() / mean.norm())).view(moves.shape[1:]).to(moves.dtype)


def between(a: torch.Tensor, b: torch.Tensor, share: float = 0.5) -> torch.Tensor:
    """The embedding [L, D] that is `share` of the way from `a` to `b` [L, D], with the length that lies between theirs.

    Half way between two vectors of many numbers that have nothing in common is shorter than either by √2; embeddings
    come with one length, and a short one gives a weak caption, whatever its direction. Raises ValueError for a share
    outside [0, 1], and as `distances`.
    """
    one, two = (flat(y[None] if isinstance(y, torch.Tensor) else y, "a and b")[0] for y in (a, b))
    if one.shape != two.shape:
        raise ValueError(f"a is {[*a.shape]} and b {[*b.shape]}; give embeddings of one model")
    share = check_number("share", share, 0, 1)
    straight = (1 - share) * one + share * two
    if not straight.norm():
        raise ValueError("the way leads through zero, which has no direction; give another share")
    length = (1 - share) * one.norm() + share * two.norm()
    return (straight * (length / straight.norm())).view(a.shape).to(a.dtype)


def strangers(ends: torch.Tensor, others: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """For each of `ends` and its one of `others` [N, L, D], somebody as long as the other and as far from the end.

    Random otherwise, and only at positions where the two differ: [N, L, D]. Raises ValueError unless there are as many
    of both, for a pair that does not differ, and as `distances`.
    """
    a = flat(ends, "ends")
    if len(a) != len(b := flat(others, "others", a)):
        raise ValueError(f"{len(b)} others for {len(a)} ends; give one for each")
    differs = (a != b).view(ends.shape).any(2, keepdim=True).expand(ends.shape).flatten(1)
    if not differs.any(1).all():
        raise ValueError("an end and its other are the same: a stranger needs a distance")
    drawn = torch.randn(a.shape, generator=torch.Generator().manual_seed(check_seed(seed)), dtype=a.dtype)
    here, there, drawn = a * differs, b * differs, drawn * differs
    axis = torch.nn.functional.normalize(here, dim=1)
    along = (there * axis).sum(1, keepdim=True) * axis
    across = drawn - (drawn * axis).sum(1, keepdim=True) * axis  # at right angles to the end
    across = torch.nn.functional.normalize(across, dim=1) * (there - along).norm(dim=1, keepdim=True)
    return torch.where(differs, along + across, a).view(ends.shape).to(ends)


def tsne(points: torch.Tensor, seed: int = 0, perplexity: float = 10.0) -> torch.Tensor:
    """A map of embeddings [N, L, D] in two dimensions, [N, 2], by scikit-learn's t-SNE: neighbours stay neighbours.

    Distances beyond them, and the size of a cloud, mean nothing. Raises ValueError for a perplexity of N or more, and
    as `distances`.
    """
    from sklearn.manifold import TSNE

    vectors, perplexity = flat(points, "points"), check_positive("perplexity", perplexity)
    if perplexity >= len(vectors):
        raise ValueError(f"{len(vectors)} points have no {perplexity:g} neighbours; give a lower perplexity")
    made = TSNE(2, perplexity=perplexity, init="random", random_state=check_seed(seed) % 2**32)
    return torch.from_numpy(made.fit_transform(vectors.numpy()))


def flat(y, what: str, like: torch.Tensor | None = None) -> torch.Tensor:
    """Embeddings [N, L, D] as vectors [N, L·D] in float64, on the CPU."""
    if not isinstance(y, torch.Tensor) or y.ndim != 3 or not len(y):
        raise ValueError(f"{what} must be embeddings [N, L, D]; got {[*getattr(y, 'shape', ())] or type(y).__name__}")
    check_finite(y, f"{what}: row")
    vectors = y.detach().flatten(1).double().cpu()
    if like is not None and vectors.shape[1] != like.shape[1]:
        raise ValueError(f"{what} have {vectors.shape[1]} numbers each, the first {like.shape[1]}; give one model's")
    return vectors


def several(y, what: str):
    if len(flat(y, what)) < 2:
        raise ValueError(f"a single one of {what} has no pairs; give two or more")
    return y


def pairs_of(matrix: torch.Tensor) -> torch.Tensor:
    """The entries above the diagonal: every two once."""
    return matrix[torch.triu_indices(*matrix.shape, 1).unbind()]
