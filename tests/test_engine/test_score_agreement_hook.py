"""The record of how far cheaper scores agree, from runs of the real runner."""

import json

import pytest

from .tiny_run import run

WATCH = {'type': 'mmpfb.ScoreAgreementHook', 'scales': [1.0, 0.5]}


def watched(work_dir, scales=(1.0, 0.5), **settings):
    def change(cfg):
        cfg.default_hooks['score_agreement'] = {**WATCH, 'scales': list(scales)}

    run(work_dir, change, **settings)
    return json.loads((work_dir / 'score_agreement.json').read_text())


def test_the_reference_is_what_the_run_itself_kept(tmp_path):
    record = watched(tmp_path)
    # Ten pruned iterations, of which the scales take two to collect their centroids.
    assert len(record) == 8
    for entry in record:
        assert (entry['seen'], entry['kept']) == (4, 2)
        assert entry['reuse'] == {
            'overlap': 1.0, 'density_overlap': 1.0, 'rank_correlation': 1.0,
        }
        assert 0 <= entry['1']['overlap'] <= 1
        assert -1 <= entry['0.5']['rank_correlation'] <= 1


def test_watching_changes_nothing_in_the_training(tmp_path):
    watched(tmp_path / 'watched')
    run(tmp_path / 'plain')
    losses = []
    for name in ('watched', 'plain'):
        (log,) = (tmp_path / name).glob('*/vis_data/scalars.json')
        entries = map(json.loads, log.read_text().splitlines())
        losses.append([entry['loss'] for entry in entries if 'loss' in entry])
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_frozen_statistics_at_full_scale_agree_entirely(tmp_path):
    """With nothing that differs in evaluation mode, scale 1 is the same score."""

    def change(cfg):
        cfg.model.backbone.norm_eval = True
        cfg.default_hooks['score_agreement'] = {**WATCH, 'scales': [1.0]}

    # From the first iteration, so that all take the same centroids.
    run(tmp_path, change, hook={'begin': 0.0})
    record = json.loads((tmp_path / 'score_agreement.json').read_text())
    assert {entry['1']['overlap'] for entry in record} == {1.0}


@pytest.mark.parametrize(
    ('pruning', 'named'),
    [({'selector': {'type': 'Uniform'}}, 'Uniform'), ({'mode': 'rescore'}, "mode='rescore'")],
)
def test_other_runs_are_refused(tmp_path, pruning, named):
    with pytest.raises(TypeError, match=f"PFB with mode='reuse'.*but got .*{named}"):
        watched(tmp_path, pruning=pruning)


def test_a_scale_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'`scales` to be in \(0, 1\], but got 1.5'):
        watched(tmp_path, scales=(1.5,))
