"""Equations 2 to 9 of the paper as loops over Python floats, which are float64.

Nothing here is vectorised, shared with the package or clever. Kernels, which leave the range of
float64 a little way off their centroid in 128 dimensions, are computed with `decimal`.
"""

import math
from collections.abc import Sequence
from decimal import Decimal

Vector = Sequence[float]
Matrix = Sequence[Vector]

# Not in the paper: the spread of a channel is at least this share of the root mean square spread of
# all channels, and a spread of nothing at all is one rounding step of the largest centroid entry.
SMALLEST_RELATIVE_SPREAD = 0.01
FLOAT64_EPSILON = 2.0**-52


def spread(centroids: Matrix) -> list[float]:
    """sigma_d of Eq. 6: the sample standard deviation of the centroids in each dimension."""
    deviations = []
    for d in range(len(centroids[0])):
        column = [centroid[d] for centroid in centroids]
        mean = math.fsum(column) / len(column)
        squares = math.fsum((value - mean) ** 2 for value in column)
        deviations.append(math.sqrt(squares / (len(column) - 1)))
    return deviations


def floored_spread(centroids: Matrix) -> list[float]:
    """sigma_d with the floor for channels that do not vary."""
    deviations = spread(centroids)
    mean_square = math.fsum(value**2 for value in deviations) / len(deviations)
    floor = max(SMALLEST_RELATIVE_SPREAD * math.sqrt(mean_square), FLOAT64_EPSILON)
    return [max(value, floor) for value in deviations]


def bandwidth_variance(centroids: Matrix, rule: str) -> list[float]:
    """h_d of Eq. 6, and of the two other rules of Tab. 6."""
    num_centroids, dim = len(centroids), len(centroids[0])
    if rule == 'identity':
        return [1.0] * dim
    if rule == 'silverman':
        factor = (4 / ((dim + 2) * num_centroids)) ** (1 / (dim + 4))
    else:
        factor = num_centroids ** (-1 / (dim + 4))
    return [(factor * value) ** 2 for value in floored_spread(centroids)]


def log_kernel(difference: Vector, variance: Vector) -> Decimal:
    """log K_H(x) of Eq. 5 with H = diag(variance)."""
    exponent = Decimal(0)
    determinant = Decimal(1)
    for value, h in zip(difference, variance, strict=True):
        exponent += Decimal(value) * Decimal(value) / Decimal(h)
        determinant *= Decimal(h)
    norm = Decimal(2 * math.pi) ** (Decimal(len(difference)) / 2) * determinant.sqrt()
    return -exponent / 2 - norm.ln()


def log_density(x: Vector, centroids: Matrix, weight: Vector, variance: Vector) -> float:
    """The logarithm of Eq. 4.

    The largest kernel is taken out of the sum, because channels of no spread at all make kernels
    too small even for `decimal`.
    """
    kernels = [
        log_kernel([a - b for a, b in zip(x, centroid, strict=True)], variance)
        for centroid in centroids
    ]
    largest = max(kernels)
    total = Decimal(0)
    for value, w in zip(kernels, weight, strict=True):
        total += Decimal(w) / len(centroids) * (value - largest).exp()
    return float(largest + total.ln())


def importance(densities: Sequence[float], alphas: Sequence[float]) -> list[float]:
    """Eqs. 2 and 3, with one random coefficient per image."""
    largest = max(densities)
    return [1 / (f + alpha * largest) for f, alpha in zip(densities, alphas, strict=True)]


def nearest(x: Vector, centroids: Matrix) -> int:
    """The cluster of one image, Eq. 7; the first one if several are equally near."""
    best, shortest = 0, math.inf
    for j, centroid in enumerate(centroids):
        distance = math.fsum((a - b) ** 2 for a, b in zip(x, centroid, strict=True))
        if distance < shortest:
            best, shortest = j, distance
    return best


def partition(batch: Matrix, centroids: Matrix) -> list[list[Vector]]:
    """The partition A_1, ..., A_{N_C} of Eq. 7."""
    clusters: list[list[Vector]] = [[] for _ in centroids]
    for x in batch:
        clusters[nearest(x, centroids)].append(x)
    return clusters


def printed_update(
    centroids: Matrix, counts: Sequence[int], batch: Matrix, beta: float
) -> tuple[list[list[float]], list[int]]:
    """Eq. 8 exactly as printed; its two factors do not sum to one."""
    new_centroids, new_counts = [], []
    for c, n, members in zip(centroids, counts, partition(batch, centroids), strict=True):
        total = len(members) + n
        new_counts.append(total)
        new_centroids.append([
            (beta * n * c[d] + (1 - beta) * math.fsum(x[d] for x in members)) / total
            for d in range(len(c))
        ])
    return new_centroids, new_counts


def convex_rate(previous: int, members: int, momentum: float) -> float:
    """The rate of the convex reading of Eq. 8."""
    return (members + momentum * previous) / (previous + members)


def convex_update(
    centroids: Matrix, counts: Sequence[int], batch: Matrix, momentum: float
) -> tuple[list[list[float]], list[int]]:
    """The convex reading of Eq. 8; a centroid without images stays where it is."""
    new_centroids, new_counts = [], []
    for c, n, members in zip(centroids, counts, partition(batch, centroids), strict=True):
        new_counts.append(n + len(members))
        if not members:
            new_centroids.append(list(c))
            continue
        rate = convex_rate(n, len(members), momentum)
        moved = []
        for d in range(len(c)):
            mean = math.fsum(x[d] for x in members) / len(members)
            moved.append((1 - rate) * c[d] + rate * mean)
        new_centroids.append(moved)
    return new_centroids, new_counts


def weights(counts: Sequence[int]) -> list[float]:
    """Eq. 9; t (1 - p) N_B is the number of all images assigned so far."""
    return [n / sum(counts) for n in counts]
