"""The contact sheet and the benchmark, as a user starts them."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
CONTACT_SHEET = ROOT / 'tools/analysis_tools/contact_sheet.py'
BENCHMARK = ROOT / 'tools/benchmark.py'
CONFIG = ROOT / 'configs/camvid/deeplabv3_r18-d8-w32_1xb8-pfb0.5-1k_camvid-160x160.py'


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run a tool in this process and return what it says before it exits with 2."""

    def run(script, *arguments):
        monkeypatch.setattr(sys, 'argv', [str(script), *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(script), run_name='__main__')
        assert caught.value.code == 2
        return capsys.readouterr().err

    return run


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True, text=True, check=False,
    )


@pytest.fixture
def work_dir(tmp_path):
    record = {}
    for index, colour in enumerate(['red', 'green', 'blue', 'white']):
        path = tmp_path / f'{colour}.png'
        Image.new('RGB', (32, 24), colour).save(path)
        record[str(path)] = {'seen': 10, 'kept': 3 * index}
    (tmp_path / 'retention.json').write_text(json.dumps(record))
    return tmp_path


def test_contact_sheet_shows_the_extremes(work_dir):
    result = run(CONTACT_SHEET, work_dir, '--count', 1)
    assert result.returncode == 0, result.stderr
    with Image.open(work_dir / 'contact_sheet.png') as sheet:
        colours = {pixel for _, pixel in sheet.convert('RGB').getcolors(maxcolors=2**24)}
        half = sheet.height // 2
        upper = sheet.convert('RGB').crop((0, 0, sheet.width, half)).getcolors(2**24)
        lower = sheet.convert('RGB').crop((0, half, sheet.width, sheet.height)).getcolors(2**24)
    red = (255, 0, 0)
    assert red in colours
    assert red in {pixel for _, pixel in lower}  # kept 0 of 10: among the pruned
    assert red not in {pixel for _, pixel in upper}
    assert (0, 0, 255) not in colours


def test_contact_sheet_without_a_record_names_the_hook(tmp_path, refused):
    message = refused(CONTACT_SHEET, tmp_path)
    assert 'retention.json to exist' in message
    assert 'mmpfb.RetentionRecordHook' in message


def test_contact_sheet_of_an_empty_record_is_refused(tmp_path, refused):
    (tmp_path / 'retention.json').write_text('{}')
    assert 'at least one image, but it holds none' in refused(CONTACT_SHEET, tmp_path)


@pytest.mark.slow
def test_benchmark_compares_ratios_with_the_unpruned_step():
    result = run(
        BENCHMARK, CONFIG, '--ratios', 0.75, '--batch-size', 8, '--repeats', 3, '--json',
        '--device', 'cpu',
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout.splitlines()[-1])
    assert list(report['steps']) == ['unpruned', '0.75']
    assert report['steps']['unpruned']['saved'] == 0
    # Three quarters of the images gone save much more than any noise between neighbouring steps.
    assert report['steps']['0.75']['saved'] > 0.1
    assert (report['batch_size'], report['repeats']) == (8, 3)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.py'], "`config` to be a file, but got 'nowhere.py'"),
        ([CONFIG, '--ratios', '1'], r'`ratios` to be in [0, 1), but got 1.0'),
        ([CONFIG, '--repeats', '0'], '`repeats` to be an integer of at least 1, but got 0'),
        ([CONFIG, '--batch-size', '0'], '`batch-size` to be an integer of at least 2, but got 0'),
    ],
)
def test_benchmark_refuses_wrong_arguments(arguments, message, refused):
    assert message in refused(BENCHMARK, *arguments)
