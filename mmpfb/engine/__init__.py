"""Hooks for MMEngine's runner; imported when a configuration names one."""

import mmpfb.engine.samplers  # noqa: F401  (registers them)
from mmpfb.engine.image_losses_hook import ImageLossesHook
from mmpfb.engine.pruning_schedule_hook import PruningScheduleHook
from mmpfb.engine.resumable_checkpoint_hook import ResumableCheckpointHook
from mmpfb.engine.retention_record_hook import RetentionRecordHook
from mmpfb.engine.run_record_hook import RunRecordHook
from mmpfb.engine.score_agreement_hook import ScoreAgreementHook

__all__ = [
    'ImageLossesHook',
    'PruningScheduleHook',
    'ResumableCheckpointHook',
    'RetentionRecordHook',
    'RunRecordHook',
    'ScoreAgreementHook',
]
