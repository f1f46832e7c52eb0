"""The tool that measures the growth of costs, as a user starts it, with small numbers."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmpfb.analysis import scaling
from mmpfb.analysis.scaling import PARTS, SAMPLERS, SamplerMemory, Spread

TOOL = Path(__file__).resolve().parents[2] / 'tools/analysis_tools/scaling.py'
SMALL = (
    '--device', 'cpu', '--around', 4, 3, 2, '--batch-sizes', 2, 8, '--centroids', 5, '--dims', 7,
    '--map', 4, 2, '--repeats', 2, '--ranks', 1, 2, '--images', 100, 1000,
    '--samplers', 'UCB', 'StaticRandom',
)
TIMES = Spread(median=0.004, lower=0.003, upper=0.005, lowest=0.002)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the tool in this process and return what it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(word) for word in (TOOL, *SMALL, *arguments)])
        runpy.run_path(str(TOOL), run_name='__main__')
        return capsys.readouterr().out

    return run


@pytest.fixture
def one_process(monkeypatch):
    """Start no processes: they take seconds each, and have tests of their own."""
    monkeypatch.setattr(scaling, 'in_fresh_process', lambda function, *args: function(*args))
    monkeypatch.setattr(scaling, 'time_sum_over_ranks', lambda *_: TIMES)


@pytest.fixture
def refused(call, capsys):
    """Run the tool in this process and return what it says before it exits."""

    def run(*arguments, code=2):
        with pytest.raises(SystemExit) as caught:
            call(*arguments)
        assert caught.value.code == code
        return capsys.readouterr().err

    return run


def columns(text, title):
    """The numbers of the row that begins with a title."""
    (line,) = (line for line in text.splitlines() if line.startswith(f'{title} '))
    return line[len(title) :].split()


# ---- The report -------------------------------------------------------------------------------


def test_report(call, one_process, tmp_path):
    file = tmp_path / 'scaling.json'
    text = call('--json', file)
    report = json.loads(file.read_text())
    assert {key for key, value in report.items() if not isinstance(value, (list, dict))} == {
        'hardware', 'cores', 'threads', 'torch', 'python', 'repeats', 'ratio',
    }
    assert report['around'] == {'batch_size': 4, 'num_centroids': 3, 'dim': 2}
    assert report['stage_output'] == {'channels': 4, 'side': 2}

    sizes = [
        (row['factor'], row['batch_size'], row['num_centroids'], row['dim'])
        for row in report['scoring']
    ]
    assert sizes == [
        ('batch_size', 2, 3, 2), ('batch_size', 4, 3, 2), ('batch_size', 8, 3, 2),
        ('num_centroids', 4, 3, 2), ('num_centroids', 4, 5, 2),
        ('dim', 4, 3, 2), ('dim', 4, 3, 7),
    ]
    for row in report['scoring']:
        assert tuple(row['seconds']) == PARTS
        for times in row['seconds'].values():
            assert 0 < times['lowest'] <= times['lower'] <= times['median'] <= times['upper']
    for title in (
        'batch size 2', 'batch size 4*', 'batch size 8', 'centroids 3*', 'centroids 5',
        'dimensions 2*', 'dimensions 7',
    ):
        assert len(columns(text, title)) == len(PARTS) + 4

    # Three centroids of two dimensions and a count.
    assert report['ranks'] == [
        {'ranks': 1, 'summed_bytes': 36, 'sent_bytes': 0, 'seconds': None},
        {
            'ranks': 2, 'summed_bytes': 36, 'sent_bytes': 36,
            'seconds': {'median': 0.004, 'lower': 0.003, 'upper': 0.005, 'lowest': 0.002},
        },
    ]
    assert columns(text, '    1') == ['0', '-', '-', '-']
    assert columns(text, '    2') == ['36', '4.000', '3.000-5.000', '2.000']
    assert 'an order of magnitude alone' in text

    held = {row['name']: row['tensor_bytes'] for row in report['selectors']}
    assert held == {'PFB': 4 * 6 + 8 * 3 + 36, 'Uniform': 0, 'HighLoss': 0, 'DivBS': 0}
    assert columns(text, 'PFB')[0] == '84'

    found = {
        (row['name'], row['num_images']): row['tensor_bytes'] for row in report['samplers']
    }
    # Two scores of four bytes, half of the images as numbers of eight bytes.
    assert found == {
        ('UCB', 100): 1200, ('StaticRandom', 100): 400,
        ('UCB', 1000): 12000, ('StaticRandom', 1000): 4000,
    }
    assert columns(text, f'{"UCB":<34}{"1,000":>12}')[:2] == ['12.0', '28.0']
    assert columns(text, f'{"StaticRandom":<34}{"100":>12}')[:2] == ['4.0', '4.0']


def test_growth_is_that_of_the_lowest_step(call, one_process, monkeypatch):
    def time_scoring(sizes, repeats, device, ratio, channels, side):
        assert (repeats, ratio, channels, side) == (2, 0.25, 4, 2)
        return {
            size: {
                part: Spread(
                    (index + 1) * size.batch_size / 1000, 0.001, 0.002, size.batch_size / 1e4
                )
                for index, part in enumerate(PARTS)
            }
            for size in sizes
        }

    monkeypatch.setattr(scaling, 'time_scoring', time_scoring)
    text = call('--measure', 'scoring', '--ratio', 0.25)
    assert columns(text, 'batch size 8') == [
        '8.000', '16.000', '24.000', '32.000', '1.000-2.000', '0.800', '0.1000', '2.00',
    ]
    assert columns(text, 'centroids 5')[-1] == '1.00'


def test_samplers_are_told_the_ratio(call, one_process, tmp_path):
    file = tmp_path / 'scaling.json'
    call('--measure', 'samplers', '--ratio', 0.75, '--json', file)
    rows = json.loads(file.read_text())['samplers']
    assert rows[1]['name'] == 'StaticRandom'
    assert rows[1]['tensor_bytes'] == 8 * 25


def test_only_what_is_asked_for_is_measured(call, tmp_path):
    file = tmp_path / 'scaling.json'
    text = call('--measure', 'selectors', '--json', file)
    report = json.loads(file.read_text())
    assert 'selectors' in report
    assert not {'scoring', 'ranks', 'samplers'} & set(report)
    assert 'DivBS' in text and 'Ranks' not in text and 'UCB' not in text


def test_unknown_memory_is_a_dash(call, one_process, monkeypatch):
    def measure_sampler(name, num_images, ratio):
        return SamplerMemory(name, num_images, 400, 800, 1600, None, None, None, 0.5, 0.25, 2.0)

    monkeypatch.setattr(scaling, 'measure_sampler', measure_sampler)
    text = call('--measure', 'samplers', '--images', 100)
    assert columns(text, 'UCB') == [
        '100', '4.0', '8.0', '16.0', '-', '-', '-', '0.50', '0.25', '2.00'
    ]


def test_every_sampler_is_measured_by_default():
    namespace = runpy.run_path(str(TOOL), run_name='tool')
    args = namespace['build_parser']().parse_args([])
    assert args.samplers == list(SAMPLERS)
    assert args.images == [1_000_000, 10_000_000]
    assert args.ranks == [1, 2, 4]


@pytest.mark.gpu
def test_report_on_a_gpu(call, tmp_path):
    file = tmp_path / 'scaling.json'
    call('--measure', 'scoring', '--device', 'cuda', '--json', file)
    assert json.loads(file.read_text())['hardware'] == torch.cuda.get_device_name()


# ---- What is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--around', 1, 3, 2), '`batch_size` to be an integer of at least 2, but got 1'),
        (('--batch-sizes', 8, 1), '`batch_size` to be an integer of at least 2, but got 1'),
        (('--centroids', 1), '`num_centroids` to be an integer of at least 2, but got 1'),
        (('--dims', 0), '`dim` to be an integer of at least 1, but got 0'),
        (('--map', 4, 0), '`map` to be an integer of at least 1, but got 0'),
        (('--repeats', 1), '`repeats` to be an integer of at least 2, but got 1'),
        (('--ratio', 1), '`ratio` to be in [0, 1), but got 1.0'),
        (('--ratio', 0), '`ratio` to be above 0'),
        (('--ranks', 2, 0), '`ranks` to be an integer of at least 1, but got 0'),
        (('--images', 0), '`images` to be an integer of at least 1, but got 0'),
        (('--device', 'nonsense'), 'nonsense'),
        (('--samplers', 'Nobody'), "invalid choice: 'Nobody'"),
        (('--measure', 'everything'), "invalid choice: 'everything'"),
        (('--json', 'missing/scaling.json'), '`json` to be a file in a folder that exists'),
        (('--json', TOOL.parent), '`json` to be a file in a folder that exists'),
    ],
)
def test_wrong_arguments_are_refused(refused, arguments, message):
    assert message in refused(*arguments)


def test_a_gpu_that_is_missing_is_refused(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert 'of this machine, but got cuda and found no GPU' in refused('--device', 'cuda')


def test_a_process_without_a_result_ends_the_tool(refused, monkeypatch):
    def fail(function, *arguments):
        raise RuntimeError('its process was ended')

    monkeypatch.setattr(scaling, 'in_fresh_process', fail)
    assert 'its process was ended' in refused('--measure', 'samplers', code=1)
