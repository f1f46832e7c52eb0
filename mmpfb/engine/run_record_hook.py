"""Records what a training run did and cost, whatever method trained it."""

import json
import resource
import sys
import time
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpfb.engine.unwrapped import unwrapped_model
from mmpfb.models.mixin import BatchPruningMixin
from mmpfb.registry import HOOKS

CHECKPOINT_KEY = 'mmpfb_run'
RECORD_FILE = 'run_record.json'


@HOOKS.register_module()
class RunRecordHook(Hook):
    """Writes ``run_record.json``: images, iterations, seconds, memory and the last validation.

    It works with every model, pruned or not, and survives a resume: the record is that of a run
    which was never interrupted. Seconds are those of training, data loading included and validation
    left out.
    """

    # Before the logger, which resets the peak of the GPU's memory.
    priority = 'NORMAL'

    def __init__(self) -> None:
        self._images = 0
        self._seconds = 0.0
        self._started: float | None = None
        self._metrics: dict[str, float] = {}
        self._validated_at = 0
        self._resumed_at: int | None = None
        self._peak_cuda = 0

    def before_train(self, runner: Runner) -> None:
        """Start the clock, unless the run first goes through the data that it has seen."""
        if runner.iter == 0:
            self._start()

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Start the clock of a resumed run."""
        self._start()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Count the images of the batch."""
        if data_batch is not None:
            self._images += len(data_batch['inputs'])
        if torch.cuda.is_available():
            self._peak_cuda = max(self._peak_cuda, torch.cuda.max_memory_allocated())

    def before_val(self, runner: Runner) -> None:
        """Stop the clock."""
        self._stop()

    def after_val_epoch(
        self, runner: Runner, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Remember the result of the validation."""
        self._metrics = {
            name: float(value) for name, value in (metrics or {}).items() if _is_number(value)
        }
        self._validated_at = runner.iter

    def after_val(self, runner: Runner) -> None:
        """Go on with the clock."""
        self._start()

    def after_train(self, runner: Runner) -> None:
        """Write the record into the work directory."""
        self._stop()
        interrupted = self._resumed_at == runner.iter and self._validated_at < runner.iter
        if interrupted and runner.val_loop is not None:
            # In its last validation, after the last checkpoint: the loop has nothing left to do.
            runner.val_loop.run()
            self._started = None
        if is_main_process():
            path = Path(runner.work_dir) / RECORD_FILE
            # Whoever finds the record finds all of it.
            unfinished = path.with_suffix('.tmp')
            unfinished.write_text(json.dumps(self._record(runner), indent=1) + '\n')
            unfinished.replace(path)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Save the counts."""
        if self._started is not None:
            self._stop()
            self._start()
        checkpoint[CHECKPOINT_KEY] = {
            'images': self._images,
            'seconds': self._seconds,
            'metrics': dict(self._metrics),
            'validated_at': self._validated_at,
            'peak_cuda': self._peak_cuda,
        }

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Restore the counts when a run is resumed."""
        if not getattr(runner, '_resume', False):
            return
        state = checkpoint.get(CHECKPOINT_KEY)
        if state is None:
            runner.logger.warning(
                f'The checkpoint holds no record of its run: {RECORD_FILE} will count from here.'
            )
            return
        self._images, self._seconds = int(state['images']), float(state['seconds'])
        self._metrics, self._peak_cuda = dict(state['metrics']), int(state['peak_cuda'])
        self._validated_at = state.get('validated_at', 0)
        self._resumed_at = checkpoint['meta']['iter']

    def _start(self) -> None:
        if self._started is None:
            self._started = time.perf_counter()

    def _stop(self) -> None:
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    def _record(self, runner: Runner) -> dict[str, Any]:
        images = self._images * get_world_size()
        pruned_from = pruned_to = 0
        model = unwrapped_model(runner)
        if isinstance(model, BatchPruningMixin):
            pruned_from = model.pruner.images_seen_while_pruning
            pruned_to = model.pruner.images_kept_while_pruning
        return {
            'iterations': runner.iter,
            'images_loaded': images,
            'images_seen_while_pruning': pruned_from,
            'images_kept_while_pruning': pruned_to,
            'images_trained': images - pruned_from + pruned_to,
            'seconds': self._seconds,
            'peak_memory_bytes': self._peak_cuda or _peak_resident_bytes(),
            'peak_memory_kind': 'GPU' if self._peak_cuda else 'process',
            'metrics': self._metrics,
        }


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or (isinstance(value, torch.Tensor) and value.numel() == 1)


def _peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else 1024 * peak
