"""Random numbers that repeat: derived from a seed and the iteration, never from a global state.

MMEngine re-seeds on resume but does not restore its random number generators. A draw that depends
on nothing but its own coordinates is the same in a resumed run and in one that was never
interrupted, and it leaves the draws of dropout and augmentation as they are without pruning.
"""

import hashlib

import torch


def generator_for(*coordinates: int) -> torch.Generator:
    """Return a CPU generator seeded by integers such as seed, rank and iteration.

    Example:
        >>> a, b, c = generator_for(0, 7), generator_for(0, 7), generator_for(0, 8)
        >>> torch.equal(torch.rand(4, generator=a), torch.rand(4, generator=b))
        True
        >>> torch.equal(torch.rand(4, generator=b), torch.rand(4, generator=c))
        False
    """
    text = ','.join(str(int(value)) for value in coordinates)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, 'little', signed=True))
