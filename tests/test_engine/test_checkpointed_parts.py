"""Parts that are checkpointed around the cut are refused before anything is trained."""

import pytest

from mmpfb.errors import LocationError

from .tiny_run import run


def log_of(folder):
    return ''.join(path.read_text() for path in folder.glob('*/*.log'))


def train(folder, parts, mode):
    def change(cfg):
        cfg.activation_checkpointing = parts

    run(folder, change, max_iters=1, pruning=dict(mode=mode))
    return log_of(folder)


@pytest.mark.parametrize('parts', ['backbone', ['decode_head', 'backbone']])
def test_a_part_that_contains_the_cut_is_refused(tmp_path, parts):
    with pytest.raises(LocationError, match=r"contains the cut at backbone.layer3, but got 'back"):
        train(tmp_path, parts, 'reuse')
    assert 'Iter(train)' not in log_of(tmp_path)


def test_a_part_that_would_not_be_trained_is_warned_of(tmp_path):
    log = train(tmp_path, ['backbone'], 'rescore')
    assert "`activation_checkpointing` of 'backbone' leaves its weights without gradients" in log


@pytest.mark.parametrize('mode', ['reuse', 'rescore'])
def test_stages_are_fine(tmp_path, mode):
    log = train(tmp_path, ['backbone.layer3', 'backbone.layer4', 'decode_head'], mode)
    assert 'activation_checkpointing` of' not in log
