"""Checkpoints from which a run goes on as if it had never been killed."""

import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, get_rank, is_main_process, master_only
from mmengine.hooks import CheckpointHook
from mmengine.runner import IterBasedTrainLoop, Runner

from mmpfb.core.checks import check_positive_int
from mmpfb.engine.random_states import (
    random_states,
    restore_random_states,
    restore_torch_states,
)
from mmpfb.engine.whole_files import BACKEND, WholeFileBackend, remove_partial_files
from mmpfb.registry import HOOKS

CHECKPOINT_KEY = 'mmpfb_random_states'
LAST_CHECKPOINT = 'last_checkpoint'


@HOOKS.register_module()
class ResumableCheckpointHook(CheckpointHook):
    """The host's ``CheckpointHook`` for runs that may be killed at any moment.

    A checkpoint appears under its name when it is complete, ``last_checkpoint`` then names it, and
    only then an older one is removed; the host removes it first and writes in place. The states of
    the random number generators of all ranks are saved and restored, so that dropout and mixup
    repeat. Augmentation repeats with ``num_workers=0``; workers are seeded anew when a run resumes.

    A validation does not change the random numbers of the training that follows, because the run
    that resumes from the checkpoint before it does not validate again.

    Args:
        *args: Passed on to ``CheckpointHook``.
        backend_args: Where checkpoints are written; None is a local folder, in the safe way. Others
            write as they do.
        **kwargs: Passed on to ``CheckpointHook``.

    Raises:
        TypeError: If ``CheckpointHook`` has no such argument.
        ValueError: If ``interval`` or ``max_keep_ckpts`` is not a positive number or -1.
    """

    def __init__(
        self, *args: Any, backend_args: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        local = '://' not in str(kwargs.get('out_dir'))
        if backend_args is None and kwargs.get('file_client_args') is None and local:
            backend_args = {'backend': BACKEND}
        super().__init__(*args, backend_args=backend_args, **kwargs)
        # The host keeps what it does not know until the first checkpoint is saved, and fails then.
        for name in self.args:
            known = [key for key in inspect.signature(CheckpointHook).parameters if key != 'kwargs']
            close = get_close_matches(name, known, n=1)
            advice = f'; did you mean `{close[0]}`?' if close else f'; it takes {known}.'
            raise TypeError(f'Unexpected argument `{name}` of ResumableCheckpointHook{advice}')
        for name in ('interval', 'max_keep_ckpts'):
            value = getattr(self, name)
            if isinstance(value, bool) or value != -1:
                check_positive_int(name, value)
        self._states_of_ranks: list[dict[str, Any]] = []
        self._restored: dict[str, Any] | None = None
        self._before_validation: dict[str, Any] | None = None

    def before_run(self, runner: Runner) -> None:
        """Say so if a resumed run could not repeat."""
        if getattr(runner, '_randomness_cfg', {}).get('seed') is None:
            runner.logger.warning(
                'The run has no seed, so that a run that resumes from its checkpoints is given its '
                'images in another order; set `randomness=dict(seed=0)`.'
            )

    def before_train(self, runner: Runner) -> None:
        """Find the folder, and remove what a killed run had begun to write."""
        super().before_train(runner)
        if is_main_process() and isinstance(self.file_backend, WholeFileBackend):
            remove_partial_files(self.out_dir, '*.pth')

    def before_train_epoch(self, runner: Runner) -> None:
        """Go on with the random numbers of the saved run."""
        if self._restored is None:
            return
        restore_random_states(self._restored)
        if not isinstance(runner.train_loop, IterBasedTrainLoop):
            self._restored = None

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Take back the random numbers that a loop in iterations drew to begin its data anew."""
        if self._restored is not None:
            restore_torch_states(self._restored)
            self._restored = None

    def before_val(self, runner: Runner) -> None:
        """Remember the random numbers of the training."""
        self._before_validation = random_states()

    def after_val(self, runner: Runner) -> None:
        """Go on with the random numbers of the training."""
        super().after_val(runner)
        if self._before_validation is not None:
            restore_random_states(self._before_validation)
            self._before_validation = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add the random states of all ranks to the checkpoint."""
        if self._states_of_ranks:
            checkpoint[CHECKPOINT_KEY] = self._states_of_ranks

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the random states of this rank from the checkpoint of a run that is resumed."""
        if not getattr(runner, '_resume', False):
            return
        states = checkpoint.get(CHECKPOINT_KEY, [])
        if get_rank() < len(states):
            self._restored = states[get_rank()]
            if runner.train_loop.dataloader.num_workers > 0:
                runner.logger.info(
                    'Augmentation in worker processes draws other numbers than the run would have '
                    'drawn that was interrupted; with num_workers=0 it would repeat.'
                )
        else:
            runner.logger.warning(
                'The checkpoint holds no random states for this process: dropout and augmentation '
                'draw other numbers than the saved run would have drawn.'
            )

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        outdated = None
        if self.max_keep_ckpts > 0:
            steps = list(self.keep_ckpt_ids)
            if step not in steps:
                outdated = steps[0] if len(steps) == self.max_keep_ckpts else None
                self.keep_ckpt_ids.append(step)
                # With the outdated one, which a run that is killed in between has to remove.
                runner.message_hub.update_info('keep_ckpt_ids', [*steps, step])
        # The host saves again in a validation that found the best model so far.
        self._states_of_ranks = all_gather_object(self._before_validation or random_states())
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
        finally:
            # The best model is saved as well, at other times.
            self._states_of_ranks = []
        self._point_to(runner, self.last_ckpt)
        if outdated is not None:
            self._remove(self.filename_tmpl.format(outdated))

    @master_only
    def _point_to(self, runner: Runner, checkpoint: str) -> None:
        WholeFileBackend().put_text(checkpoint, Path(runner.work_dir, LAST_CHECKPOINT))

    @master_only
    def _remove(self, name: str) -> None:
        path = self.file_backend.join_path(self.out_dir, name)
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):
            self.file_backend.rmtree(path)
