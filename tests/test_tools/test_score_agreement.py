"""The table and the plot of score agreement, as a user starts the tool."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TOOL = Path(__file__).resolve().parents[2] / 'tools/analysis_tools/score_agreement.py'


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )


def entry(iteration, half, quarter):
    same = {'overlap': 1.0, 'density_overlap': 1.0, 'rank_correlation': 1.0}
    return {
        'iteration': iteration, 'seen': 8, 'kept': 4, 'reuse': same,
        '0.5': {'overlap': half, 'density_overlap': half / 4, 'rank_correlation': half / 2},
        '0.25': {'overlap': quarter, 'density_overlap': 0.0, 'rank_correlation': float('nan')},
    }


@pytest.fixture
def work_dir(tmp_path):
    folder = tmp_path / 'run'
    folder.mkdir()
    record = [entry(10, 0.4, 0.2), entry(20, 0.6, 0.2), entry(30, 0.8, 0.2)]
    (folder / 'score_agreement.json').write_text(json.dumps(record))
    return folder


def test_the_table_holds_the_means_of_the_run_and_of_its_thirds(work_dir):
    result = run(work_dir, '--labels', 'scenes')
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == 'scenes: 3 pruned iterations'
    assert 'overlap by 50.0%' in lines[1]
    rows = [line.split() for line in lines[4:-1]]
    assert [(row[0], *row[-3:]) for row in rows] == [
        ('0.5', '60.0%', '15.0%', '0.300'), ('0.5', '40.0%', '10.0%', '0.200'),
        ('0.5', '60.0%', '15.0%', '0.300'), ('0.5', '80.0%', '20.0%', '0.400'),
        *[('0.25', '20.0%', '0.0%', 'nan')] * 4,
    ]
    with Image.open(work_dir / 'score_agreement.png') as picture:
        assert picture.width > picture.height


def test_several_runs_share_a_picture(work_dir, tmp_path):
    out = tmp_path / 'both.png'
    assert run(work_dir, work_dir, '--labels', 'one', 'two', '--out', out).returncode == 0
    with Image.open(out) as two:
        assert two.height > 500


def test_wrong_arguments_are_refused(work_dir, tmp_path):
    result = run(work_dir, '--labels', 'one', 'two')
    assert result.returncode == 2
    assert 'one of --labels for each of 1 work dirs, but got 2' in result.stderr
    result = run(tmp_path)
    assert result.returncode == 2
    assert 'default_hooks.score_agreement.type=mmpfb.ScoreAgreementHook' in result.stderr
