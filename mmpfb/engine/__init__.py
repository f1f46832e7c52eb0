"""Hooks for MMEngine's runner; imported when a configuration names one."""

from mmpfb.engine.pruning_schedule_hook import PruningScheduleHook
from mmpfb.engine.retention_record_hook import RetentionRecordHook
from mmpfb.engine.score_agreement_hook import ScoreAgreementHook

__all__ = ['PruningScheduleHook', 'RetentionRecordHook', 'ScoreAgreementHook']
