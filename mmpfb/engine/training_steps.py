"""Single training steps of a model that prunes, to be timed and measured."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.optim import build_optim_wrapper
from torch import Tensor

from mmpfb.pruner import Phase


class TrainingSteps:
    """Repeats the training step of a model on one batch, as the runner would do it.

    The learning rate is zero: steps on random labels must not let the weights run away between two
    measurements. The selector has seen enough images to choose when this has been built.

    Args:
        model: Model that prunes, in training mode and on its device.
        optim_wrapper: Configuration of its optimiser wrapper.
        batch: What a data loader gives.

    Raises:
        RuntimeError: If the selector does not get ready.
        ValueError: If the batch cannot be scored.
    """

    def __init__(
        self, model: Any, optim_wrapper: Mapping[str, Any], batch: Mapping[str, Any]
    ) -> None:
        self.model = model
        self.batch = batch
        self.batch_size = len(batch['inputs'])
        # With gradients accumulated over several steps only some of them would run the optimiser,
        # and in a fixed rhythm those of some variants alone.
        self._optimizer = build_optim_wrapper(model, {**optim_wrapper, 'accumulative_counts': 1})
        for group in self._optimizer.param_groups:
            group['lr'] = 0.0
        self._observe()

    def unpruned(self) -> None:
        """Train on the whole batch without looking at it."""
        self._step(Phase.IDLE)

    def retaining(self, count: int) -> None:
        """Choose ``count`` images of the batch and train on them.

        Raises:
            RuntimeError: If another number of images was retained.
        """
        # Nothing remains to be carried over, so the next step retains as many.
        self._step(Phase.PRUNE, (self.batch_size - count) / self.batch_size)
        kept = self.model.pruner.last_kept
        num_kept = self.batch_size if kept is None else len(kept)
        if num_kept != count:
            raise RuntimeError(
                f'Expected a step that retains {count} of {self.batch_size} images, but it '
                f'retained {num_kept}.'
            )

    def tensors(self) -> Iterator[Tensor]:
        """Iterate over the tensors that exist between steps: parameters, buffers and momentum."""
        yield from self.model.parameters()
        yield from self.model.buffers()
        for state in self._optimizer.optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))

    def _observe(self) -> None:
        selector = self.model.pruner.selector
        # Once in any case: a batch that cannot be scored is found before anything is timed.
        missing = None
        while missing is None or not selector.ready:
            if missing == selector.num_images_missing:
                raise RuntimeError(
                    f'{type(selector).__name__} still waits for {missing} images after a step on '
                    f'{self.batch_size}: the features of the model are not finite.'
                )
            missing = selector.num_images_missing
            # Not by observing, which means nothing to a model that scores in a pass of its own.
            self._step(Phase.PRUNE)

    def _step(self, phase: Phase, ratio: float = 0.0) -> None:
        self.model.pruner.phase, self.model.pruner.current_ratio = phase, ratio
        self.model.train_step(self.batch, self._optimizer)
