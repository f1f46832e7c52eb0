"""Takes the losses of single images from the model to the sampler, and its weights back."""

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from mmengine.dist import all_gather, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader

from mmpfb.core.checks import check_bool
from mmpfb.core.image_losses import ImageLosses, recording_image_losses
from mmpfb.engine.image_names import image_name, image_names
from mmpfb.engine.strategies import check_strategy
from mmpfb.engine.unwrapped import unwrapped_model
from mmpfb.errors import ImageLossError
from mmpfb.models.loss_modules import loss_modules
from mmpfb.models.mixin import BatchPruningMixin
from mmpfb.registry import HOOKS
from mmpfb.samplers import EpochSampler

CHECKPOINT_KEY = 'mmpfb_sampler'
# Unknown to torch 2.0.
_ALWAYS: dict[str, Any] = (
    {'always_call': True}
    if 'always_call' in inspect.signature(nn.Module.register_forward_hook).parameters
    else {}
)
# Losses are compared with sums of their parts, which half precision adds up differently.
TOLERANCE = 0.01


@HOOKS.register_module()
class ImageLossesHook(Hook):
    """Hands the loss of every image to an epoch-level sampler, and saves the sampler's state.

    Losses are read off the loss modules of the model while they run, so any model of a host works.
    Images are named by their path, or by their number in the data set if they have none. Where a
    sampler weighs its images, the objective becomes the weighted mean over the images.

    A sampler that needs no losses works without the hook as well; with it nothing is recorded.

    Put it into ``default_hooks``: a dict is merged with the user's, while a ``custom_hooks`` list
    would replace the user's list.

    Args:
        check_objective: Whether to refuse, in the first iteration, a model whose objective is not
            the sum of what its loss modules return: part of it is never seen then, neither as a
            score nor by a weight. Turn it off for a head that multiplies that sum by a constant.

    Raises:
        ValueError: If the argument is not a bool.
    """

    priority = 'NORMAL'

    def __init__(self, check_objective: bool = True) -> None:
        self.check_objective = check_bool('check_objective', check_objective)
        self._sampler: EpochSampler | None = None
        self._image_of_name: dict[str, int] = {}
        self._modules: list[nn.Module] = []
        self._batch_size = 0
        self._recording = ExitStack()
        self._losses: ImageLosses | None = None
        self._images = torch.empty(0, dtype=torch.int64)
        self._checked = False

    def before_run(self, runner: Runner) -> None:
        """Refuse what cannot go well, before anything is loaded.

        Raises:
            ValueError: If the strategy of the runner loses the state of this hook.
        """
        check_strategy(runner)

    def before_train(self, runner: Runner) -> None:
        """Check that sampler, loop, data set and model fit each other.

        Raises:
            TypeError: If the sampler is none of this package, or the images cannot be named.
            ValueError: If the settings do not fit each other.
            ImageLossError: If the model holds no loss modules.
        """
        self._stop()
        sampler = self._attached(runner)
        loop = runner.train_loop
        if isinstance(loop, IterBasedTrainLoop):
            sampler.set_run_length(runner.max_iters * self._batch_size, by='index')
            if sampler.ratio > 0:
                runner.logger.info(
                    f'{type(sampler).__name__} makes passes over the data shorter, not the run: it '
                    f'has {runner.max_iters} iterations with or without it. To save time lower '
                    'them with mmpfb.engine.run_length.with_iterations.'
                )
            if not sampler.infinite:
                runner.logger.warning(
                    f'{type(sampler).__name__} ends after every pass, which makes an '
                    'iteration-based loop restart the workers and wait; set `infinite=True` in '
                    '`train_dataloader.sampler`.'
                )
            elif runner.iter > 0 and getattr(loop, 'fast_forward_on_resume', False):
                # The loop would begin with the images of the first pass again.
                sampler.skip(runner.iter * self._batch_size)
        else:
            if sampler.infinite and isinstance(loop, EpochBasedTrainLoop):
                raise ValueError(
                    'Expected argument `infinite` of the sampler to be False in an '
                    'EpochBasedTrainLoop, whose epoch would never end, but got True.'
                )
            sampler.set_run_length(runner.max_epochs, by='pass')
            if sampler.ratio > 0 and _has_schedule_by_iteration(runner):
                runner.logger.warning(
                    'The learning rate follows a schedule in iterations, made for epochs that '
                    f'leave nothing out. {type(sampler).__name__} makes epochs shorter, so the run '
                    'ends before the schedule does: use schedulers with `by_epoch=True` and '
                    'without `convert_to_iter_based`, or mmpfb.engine.run_length.with_iterations.'
                )
        if not sampler.wants_losses:
            return
        model = unwrapped_model(runner)
        if isinstance(model, BatchPruningMixin) and model.pruner.ratio > 0:
            raise ValueError(
                f'Expected a model that trains on whole batches, as {type(sampler).__name__} needs '
                f'the losses of all their images, but {type(model).__name__} prunes '
                f'{model.pruner.ratio:.0%} of each; set the `ratio` of one of them to 0.'
            )
        self._modules = loss_modules(model)
        runner.logger.info(
            f'{type(sampler).__name__} prunes with ratio {sampler.ratio:g} by the losses of '
            f'{sampler.num_images:,} images, from {len(self._modules)} loss module(s).'
        )

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict[str, Sequence[Any]] | None = None
    ) -> None:
        """Find the images of the batch and begin to record their losses.

        Raises:
            ValueError: If an image is none of the data set.
        """
        self._stop()
        sampler = self._attached(runner)
        if not sampler.wants_losses or data_batch is None:
            return
        names = [image_name(sample) for sample in data_batch['data_samples']]
        self._images = torch.tensor([self._image(name) for name in names])
        weights = sampler.weights_at(runner.iter * self._batch_size, self._images)
        model = unwrapped_model(runner)
        if weights is not None:
            device = next(model.parameters()).device
            weights = weights.to(device, non_blocking=True)
        self._losses = self._recording.enter_context(
            recording_image_losses(self._modules, len(names), weights)
        )
        # A step that raises must leave no hooks behind in the model.
        handle = model.register_forward_hook(self._stop_after_forward, **_ALWAYS)
        self._recording.callback(handle.remove)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict[str, Tensor] | None = None,
    ) -> None:
        """Hand the losses of all ranks to the sampler.

        Raises:
            ImageLossError: If the losses of images cannot be told from what the model computed.
        """
        recorded, self._losses = self._losses, None
        self._stop()
        if recorded is None:
            return
        if not self._checked:
            self._check(runner, recorded, outputs or {})
            self._checked = True
        images, losses = self._images, recorded.per_image
        if get_world_size() > 1:
            # Two tensors: as numbers of the type of the losses, indices would be rounded.
            images = torch.cat(all_gather(images.to(losses.device, non_blocking=True)))
            losses = torch.cat(all_gather(losses))
        self._attached(runner).observe(images, losses)

    def after_train(self, runner: Runner) -> None:
        """Say how many images the passes held."""
        self._stop()
        sampler = self._attached(runner)
        lengths = sampler.lengths
        if lengths:
            runner.logger.info(
                f'{type(sampler).__name__} began {len(lengths)} passes of {min(lengths):,} to '
                f'{max(lengths):,} of {sampler.num_indices:,} images.'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the state of the sampler to the checkpoint."""
        checkpoint[CHECKPOINT_KEY] = self._attached(runner).state_dict()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restore the state of the sampler when a run is resumed.

        Weights loaded with ``load_from`` begin a new run: nothing is restored then.
        """
        if not getattr(runner, '_resume', False):
            return
        sampler = self._attached(runner)
        if CHECKPOINT_KEY in checkpoint:
            sampler.load_state_dict(checkpoint[CHECKPOINT_KEY])
        elif sampler.wants_losses:
            runner.logger.warning(
                f'The checkpoint holds no state of {type(sampler).__name__}: its passes are full '
                'until it has seen losses.'
            )

    def _attached(self, runner: Runner) -> EpochSampler:
        """Return the sampler, made known to this hook when it is first asked for."""
        if self._sampler is not None:
            return self._sampler
        dataloader = runner.train_loop.dataloader
        sampler = _epoch_sampler(dataloader)
        # A batch sampler of the user's has a size of its own.
        batch_size = dataloader.batch_size or getattr(dataloader.batch_sampler, 'batch_size', None)
        if batch_size is None:
            raise TypeError(
                'Expected a data loader with a fixed batch size, but its batch sampler '
                f'{type(dataloader.batch_sampler).__name__} has no `batch_size`.'
            )
        self._batch_size = sampler.batch_size = int(batch_size)
        sampler.drop_last = bool(getattr(dataloader.batch_sampler, 'drop_last', False))
        if sampler.infinite and sampler.wants_losses and (
            type(dataloader.batch_sampler) is not BatchSampler
        ):
            raise TypeError(
                'Expected a plain batch sampler, as an infinite sampler tells by the place of an '
                'image in the stream to which pass it belongs, but got '
                f'{type(dataloader.batch_sampler).__name__}; set `infinite=False`.'
            )
        sampler.losses_follow = True
        if sampler.wants_losses:
            names = image_names(dataloader.dataset)
            self._image_of_name = {}
            for name in names:
                self._image_of_name.setdefault(name, len(self._image_of_name))
            if len(self._image_of_name) < len(names):
                sampler.group_images(torch.tensor([self._image_of_name[name] for name in names]))
        self._sampler = sampler
        return sampler

    def _image(self, name: str) -> int:
        if name not in self._image_of_name:
            known = next(iter(self._image_of_name), None)
            raise ValueError(
                f'Expected the images of a batch to be named as in the data set, such as {known!r},'
                f" but got {name!r}; let the packing transform keep the 'img_path' (or the "
                "'sample_idx' of data without paths) in its `meta_keys`."
            )
        return self._image_of_name[name]

    def _check(self, runner: Runner, recorded: ImageLosses, outputs: dict[str, Tensor]) -> None:
        """Compare the parts with the whole, once: it makes the host wait for the device."""
        own, mean = float(recorded.of_batch), float(recorded.per_image.mean())
        size = recorded.batch_size
        if size > 1 and _close(own, size * mean) and not _close(own, mean):
            raise ImageLossError(
                'Expected the loss modules to return means over the images of a batch, but got '
                f"their sum, {own:g} for {size} images; set their `reduction='mean'`."
            )
        if abs(own - mean) > abs(own) / 2:
            runner.logger.warning(
                f'The loss of the first batch is {own:g}, while that of its images has the mean '
                f'{mean:g}: a loss depends on the images together. In passes with weights the '
                'objective is the weighted mean over images.'
            )
        if self.check_objective and 'loss' in outputs:
            objective, seen = _objective(outputs), float(recorded.objective)
            if not _close(objective, seen):
                raise ImageLossError(
                    'Expected the objective to be the sum of what the loss modules of the model '
                    f'return, but it is {objective:g} and they return {seen:g}: a loss is computed '
                    'elsewhere and would not be weighted. If a head only multiplies by a constant, '
                    'set `check_objective=False` of ImageLossesHook.'
                )

    def _stop_after_forward(self, *_: Any) -> None:
        self._recording.close()

    def _stop(self) -> None:
        self._recording.close()
        self._losses = None


def _has_schedule_by_iteration(runner: Runner) -> bool:
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        schedulers = [one for several in schedulers.values() for one in several]
    return any(not scheduler.by_epoch for scheduler in schedulers)


def _epoch_sampler(dataloader: DataLoader) -> EpochSampler:
    sampler: Any = dataloader.sampler
    if not isinstance(sampler, EpochSampler):
        # With a batch sampler of the user's the loader's own sampler is a dummy.
        sampler = getattr(dataloader.batch_sampler, 'sampler', sampler)
    if not isinstance(sampler, EpochSampler):
        raise TypeError(
            'Expected the training data to be drawn by an epoch-level sampler, but got '
            f"{type(sampler).__name__}; set `train_dataloader.sampler=dict(type='mmpfb.InfoBatch')`"
            ' or another sampler of this package, or remove ImageLossesHook.'
        )
    return sampler


def _objective(outputs: dict[str, Tensor]) -> float:
    """Return the number that was minimised.

    MMEngine names it 'loss', but a head that gives its own loss that name (all of MMPretrain's do)
    takes its place.
    """
    named = float(outputs['loss'].detach())
    parts = [
        float(value.detach()) for key, value in outputs.items() if 'loss' in key and key != 'loss'
    ]
    return named if not parts or _close(named, sum(parts)) else named + sum(parts)


def _close(left: float, right: float) -> bool:
    # Not a number where the training has diverged: that is for others to report.
    return not abs(left - right) > TOLERANCE * max(abs(left), abs(right)) + 1e-6
