"""One random subset for the whole run: training on a smaller data set.

Cost: none, no losses and no hook. Saving: ``ratio`` of every pass, and the worst accuracy of all.
"""

from typing import ClassVar

import torch

from mmpfb.samplers.base import EpochSampler, Plan


class StaticRandom(EpochSampler):
    """Chooses images at random once; depends on nothing but the seed."""

    needs_losses: ClassVar[bool] = False

    def plan(self, pass_index: int) -> Plan:
        """Return the same choice for every pass."""
        order = torch.randperm(self.num_images, generator=self.generator())
        return Plan(order[: self.num_retained].sort().values)
