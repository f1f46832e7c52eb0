"""Records how often each image was retained, to look at what a selector does."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpfb.engine.image_names import image_name
from mmpfb.engine.pruning_schedule_hook import pruning_model
from mmpfb.registry import HOOKS

RECORD_FILE = 'retention.json'


@HOOKS.register_module()
class RetentionRecordHook(Hook):
    """Writes ``retention.json``: for every image how often it was seen and kept.

    Images are named by their path, or by their number in the data set if they have none.

    Only iterations in which images were pruned count. The record is one pair of numbers per image
    of the data set. It is not resumed: it covers the iterations since the last start.
    """

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}
        self._kept: dict[str, int] = {}
        self._pruned_before = 0

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note where the counters of the model stand."""
        self._pruned_before = pruning_model(runner).pruner.iterations_pruned

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict[str, Sequence[Any]] | None = None,
        outputs: Any = None,
    ) -> None:
        """Count the images of the batch."""
        pruner = pruning_model(runner).pruner
        if data_batch is None or pruner.iterations_pruned == self._pruned_before:
            return
        paths = [image_name(sample) for sample in data_batch['data_samples']]
        kept = range(len(paths)) if pruner.last_kept is None else pruner.last_kept
        for path in paths:
            self._seen[path] = self._seen.get(path, 0) + 1
        for index in kept:
            self._kept[paths[index]] = self._kept.get(paths[index], 0) + 1

    def after_train(self, runner: Runner) -> None:
        """Add up the ranks and write the record into the work directory."""
        record: dict[str, dict[str, int]] = {}
        for seen, kept in all_gather_object((self._seen, self._kept)):
            for path, count in seen.items():
                entry = record.setdefault(path, {'seen': 0, 'kept': 0})
                entry['seen'] += count
                entry['kept'] += kept.get(path, 0)
        if is_main_process():
            path = Path(runner.work_dir) / RECORD_FILE
            path.write_text(json.dumps(record, indent=1, sort_keys=True) + '\n')
