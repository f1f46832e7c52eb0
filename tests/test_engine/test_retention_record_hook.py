"""The record counts every image of the pruned batches."""

import json

import pytest
from mmengine.runner import Runner
from mmseg.structures import SegDataSample

from mmpfb.engine.image_names import image_name

from .tiny_run import config, run


def test_counts_add_up(tmp_path):
    def record(cfg):
        cfg.default_hooks.retention = dict(type='mmpfb.RetentionRecordHook')

    run(tmp_path, record, max_iters=40)
    counts = json.loads((tmp_path / 'retention.json').read_text())
    assert sum(entry['seen'] for entry in counts.values()) == 20 * 4
    assert sum(entry['kept'] for entry in counts.values()) == 20 * 2
    assert all(entry['kept'] <= entry['seen'] for entry in counts.values())
    assert set(counts) <= {f'image{index}.png' for index in range(24)}


def test_an_image_that_is_always_pruned_is_on_record(tmp_path):
    cfg = config(tmp_path)
    cfg.default_hooks.retention = dict(type='mmpfb.RetentionRecordHook')
    runner = Runner.from_cfg(cfg)
    runner.train()
    counts = json.loads((tmp_path / 'retention.json').read_text())
    assert any(entry['kept'] < entry['seen'] for entry in counts.values())


def test_samples_without_a_path_are_refused():
    with pytest.raises(ValueError, match="'sample_idx' in their metainfo, but .* add one"):
        image_name(SegDataSample(metainfo={'size': 3}))
