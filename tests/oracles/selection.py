"""The rules of HighLoss and DivBS as loops over vectors, with the noise of the package's draws."""

import math

import numpy as np


def gumbel(uniform):
    return -math.log(-math.log(max(uniform, 1.1754943508222875e-38)))


def high_loss(losses, uniforms, count):
    """Draw without replacement with the weights percentile ** (1 / share - 1)."""
    size = len(losses)
    share = count / size
    keys = {}
    for image, loss in enumerate(losses):
        # Of equal losses the later image has the higher rank.
        rank = sum(other < loss or (other == loss and index < image)
                   for index, other in enumerate(losses))
        weight = ((rank + 0.5) / size) ** (1 / share - 1)
        keys[image] = math.log(weight) + gumbel(uniforms[image])
    kept = []
    for _ in range(count):
        best = max((image for image in keys if image not in kept), key=lambda i: (keys[i], -i))
        kept.append(best)
    return sorted(kept)


def divbs(gradients, count, uniforms=None):
    """Gram-Schmidt over the gradients themselves, one row of `gradients` per image."""
    gradients = np.asarray(gradients, dtype=np.float64)
    residual = gradients.mean(0)
    basis, kept = [], []
    for step in range(count):
        best, best_key = None, None
        for image, gradient in enumerate(gradients):
            if image in kept:
                continue
            chance = abs(gradient @ residual)
            key = math.log(max(chance, np.finfo(np.float64).tiny))
            if uniforms is not None:
                key += gumbel(uniforms[step][image])
            if best_key is None or key > best_key:
                best, best_key = image, key
        kept.append(best)
        direction = gradients[best].copy()
        for _ in range(2):
            for unit in basis:
                direction -= (direction @ unit) * unit
        length = np.linalg.norm(direction)
        if length > 1e-6 * max(np.linalg.norm(gradients, axis=1)):
            unit = direction / length
            residual = residual - (residual @ unit) * unit
            basis.append(unit)
    return sorted(kept)
