"""The plot of the random share, as a user starts it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TOOL = Path(__file__).resolve().parents[2] / 'tools/analysis_tools/random_share.py'


def run(*arguments):
    return subprocess.run(
        [sys.executable, str(TOOL), *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )


def write_log(work_dir, name, entries):
    folder = work_dir / name / 'vis_data'
    folder.mkdir(parents=True)
    lines = [
        {'step': step, 'pruning/ratio': ratio, 'pruning/random_share': share}
        for step, ratio, share in entries
    ]
    validation = [{'accuracy/top1': 50.0, 'step': 1}]
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines + validation)))


@pytest.fixture
def work_dir(tmp_path):
    folder = tmp_path / 'run'
    # The second log is of a resumed run; images are not pruned at the end.
    write_log(folder, '20260101_000000', [(10, 0.5, 0.1), (20, 0.5, 0.9)])
    write_log(folder, '20260102_000000', [(20, 0.5, 0.2), (30, 0.5, 0.3), (40, 0.0, 0.3)])
    return folder


def test_curve_is_that_of_the_pruned_intervals_of_the_newest_log(work_dir):
    namespace = {'__name__': 'tool'}
    exec(compile(TOOL.read_text(), str(TOOL), 'exec'), namespace)
    assert namespace['read_curve'](work_dir) == ([10, 20, 30], [0.1, 0.2, 0.3])


def test_picture_shows_a_line_for_every_run(work_dir, tmp_path):
    out = tmp_path / 'share.png'
    result = run(work_dir, work_dir, '--labels', 'one', 'two', '--out', out)
    assert result.returncode == 0, result.stderr
    assert str(out) in result.stdout
    with Image.open(out) as picture:
        colours = {colour for _, colour in picture.convert('RGB').getcolors(2**24)}
    # The second line lies on the first; the legend shows both of the default colours.
    assert {(31, 119, 180), (255, 127, 14)} <= colours


def test_a_run_without_a_random_share_is_refused(tmp_path):
    result = run(tmp_path)
    assert result.returncode == 2
    assert 'to hold logs with pruning/random_share, but found none' in result.stderr


def test_picture_lies_in_the_first_work_dir_by_default(work_dir):
    result = run(work_dir)
    assert result.returncode == 0, result.stderr
    assert (work_dir / 'random_share.png').is_file()


def test_labels_must_match_the_runs(work_dir):
    result = run(work_dir, '--labels', 'one', 'two')
    assert result.returncode == 2
    assert 'for each of 1 work dirs, but got 2' in result.stderr
