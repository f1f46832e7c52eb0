"""Which parts of a network MMEngine may checkpoint while a batch is cut inside of it."""

from mmengine.runner import Runner

from mmpfb.errors import LocationError
from mmpfb.models.mixin import BatchPruningMixin


def check_checkpointed_parts(runner: Runner, model: BatchPruningMixin) -> None:
    """Refuse ``activation_checkpointing`` of a part that contains the cut.

    A part that takes the images themselves is warned of: MMEngine's way of checkpointing gives
    weights a gradient only where an input has one, so that such a part is not trained at all.

    Raises:
        LocationError: If the cut lies inside of such a part, and is made while it runs.
    """
    parts = runner.cfg.get('activation_checkpointing') or []
    parts = [parts] if isinstance(parts, str) else parts
    for part in parts:
        contains_cut = model.pruning_location.startswith(f'{part}.')
        if model.pruning_mode == 'reuse' and contains_cut:
            raise LocationError(
                f'Expected `activation_checkpointing` to name no part that contains the cut at '
                f'{model.pruning_location}, but got {part!r}. Checkpoint its stages one by one '
                f"(['{part}.layer1', '{part}.layer2', ...]), or use mode='rescore'."
            )
        if part == model.pruning_encoder:
            runner.logger.warning(
                f'`activation_checkpointing` of {part!r} leaves its weights without gradients, as '
                'the images need none: it is not trained. Checkpoint its stages one by one.'
            )
