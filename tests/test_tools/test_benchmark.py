"""The benchmark, as a user starts it, on models that take a moment."""

import json
import platform
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmpfb.analysis import interleaved

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / 'tools/benchmark.py'
CONFIG = ROOT / 'configs/camvid/deeplabv3_r18-d8-w32_1xb8-pfb0.5-1k_camvid-160x160.py'
CLASSIFIER = ROOT / 'configs/cifar10/resnet18-w16_1xb128-pfb0.5-20e_cifar10-10k.py'
UNPRUNED_CLASSIFIER = ROOT / 'configs/cifar10/resnet18-w16_1xb128-20e_cifar10-10k.py'
BLOCK = 'backbone.layer3.0.conv1'


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the tool in this process and return what it prints."""

    def run(*arguments):
        # The tool switches it on, as the runner does.
        monkeypatch.setattr(torch.backends.cudnn, 'benchmark', False)
        words = [BENCHMARK, '--device', 'cpu', *arguments]
        monkeypatch.setattr(sys, 'argv', [str(word) for word in words])
        runpy.run_path(str(BENCHMARK), run_name='__main__')
        return capsys.readouterr().out

    return run


@pytest.fixture
def measured(call):
    """Run the tool in this process and return its report."""

    def run(*arguments):
        # Frameworks may print something when they are imported.
        return json.loads(call('--json', '--repeats', 1, *arguments).splitlines()[-1])

    return run


@pytest.fixture
def refused(call, capsys):
    """Run the tool in this process and return what it says before it exits with 2."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            call(*arguments)
        assert caught.value.code == 2
        return capsys.readouterr().err

    return run


@pytest.fixture
def small(tmp_path):
    """Write a small version of the CamVid config, with other settings of the pruning."""

    def write(data_root='nowhere', changes=None, **pruning):
        config = Config.fromfile(CONFIG)
        config.merge_from_dict({
            'model.data_preprocessor.size': (64, 64),
            'model.backbone.base_channels': 8,
            'model.backbone.stem_channels': 8,
            'model.decode_head.in_channels': 64,
            'model.decode_head.channels': 8,
            'model.auxiliary_head.in_channels': 32,
            'model.auxiliary_head.channels': 8,
            'model.pruning.selector.num_centroids': 8,
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_dataloader.dataset.data_root': str(data_root),
            'train_dataloader.dataset.pipeline.2.scale': (64, 64),
            'train_dataloader.dataset.pipeline.3.crop_size': (64, 64),
            **(changes or {}),
            **{f'model.pruning.{name}': value for name, value in pruning.items()},
        })
        config.dump(tmp_path / 'small.py')
        return tmp_path / 'small.py'

    return write


@pytest.fixture
def false_times(monkeypatch):
    """Let every step take a second of a false clock for each image it trains on."""

    def time_in_turn(variants, repeats, device, warmup=1):
        for function in variants.values():
            function()
        return {name: [float(name[1])] * repeats for name in variants}

    monkeypatch.setattr(interleaved, 'time_in_turn', time_in_turn)


def rows_of(report):
    return {(row['mode'], row['ratio']): row for row in report['steps']}


# ---- The report ------------------------------------------------------------------------------


def test_report(measured, small, tiny_camvid):
    report = measured(small(tiny_camvid), '--ratios', 0.5, 0.7)

    assert {**report, 'hardware': '', 'steps': [], 'data_loading_s': 0, 'notes': []} == {
        'hardware': '',
        'torch': torch.__version__,
        'python': platform.python_version(),
        'location': 'backbone.layer3',
        'batch_size': 8,
        'image_size': [64, 64],
        'repeats': 1,
        'amp': False,
        'data_loading_s': 0,
        'memory': 'tensors saved for the backward pass',
        'steps': [],
        'notes': [],
    }
    assert any('apart from the steps' in note for note in report['notes'])
    assert report['hardware'].endswith(f'CPU, {torch.get_num_threads()} threads')
    assert report['data_loading_s'] > 0
    rows = rows_of(report)
    assert list(rows) == [
        ('unpruned', 0.0), ('reuse', 0.5), ('reuse', 0.7), ('rescore', 0.5), ('rescore', 0.7)
    ]
    unpruned = rows['unpruned', 0.0]
    assert (unpruned['saved'], unpruned['memory_saved'], unpruned['limit']) == (0, 0, 0)
    for (_, ratio), row in rows.items():
        assert 0 < row['lowest'] <= row['seconds'] <= row['highest']
        assert row['images_per_s'] == pytest.approx(8 / row['seconds'])
        # One round, so the median of the ratios is the ratio of the medians.
        assert row['saved'] == pytest.approx(1 - row['seconds'] / unpruned['seconds'])
        assert row['ratio_pruned'] == row['limit'] == pytest.approx(ratio)
        fall = 1 - row['memory_bytes'] / unpruned['memory_bytes']
        assert row['memory_saved'] == pytest.approx(fall, abs=1e-6)
    assert [row['score_scale'] for row in rows.values()] == [None, 1.0, 1.0, 0.5, 0.5]


def test_memory_falls_with_the_images(measured, small):
    rows = rows_of(measured(small(), '--ratios', 0.3, 0.5, 0.7))
    for ratio in (0.3, 0.5, 0.7):
        rescore, reuse = rows['rescore', ratio], rows['reuse', ratio]
        assert 0.9 * ratio <= rescore['memory_saved'] <= ratio
        # All images leave something behind before the cut.
        assert 0.1 * ratio < reuse['memory_saved'] < 0.9 * rescore['memory_saved']
    whole, alternating = rows['rescore', 0.5], rows['rescore', 0.7]
    assert whole['memory_bytes_highest'] == whole['memory_bytes']
    # Three images need more than the mean of 2.4.
    ratio = alternating['memory_bytes_highest'] / alternating['memory_bytes']
    assert ratio == pytest.approx(3 / 2.4, rel=0.02)


def test_counts_that_alternate_are_all_timed(false_times, measured, small):
    rows = rows_of(measured(small(), '--ratios', 0.3, 0.7, 0.45))
    # Of 8 images 5.6, 2.4 and 4.4 are retained in the mean.
    for ratio, seconds in ((0.3, 5.6), (0.7, 2.4), (0.45, 4.4)):
        for mode in ('reuse', 'rescore'):
            assert rows[mode, ratio]['seconds'] == pytest.approx(seconds)
            assert rows[mode, ratio]['saved'] == pytest.approx(ratio)


@pytest.mark.parametrize(('seconds', 'told'), [(3.5, True), (4.0, False)])
def test_savings_that_cannot_be_are_told(seconds, told, measured, small, monkeypatch):
    monkeypatch.setattr(interleaved, 'time_in_turn', lambda variants, *_: {
        name: [8.0 if name[0] == 'unpruned' else seconds] for name in variants
    })
    report = measured(small(), '--ratios', 0.5, '--modes', 'reuse')
    assert any('savings are above the limit' in note for note in report['notes']) == told


def test_a_ratio_out_of_reach_is_told(false_times, measured, small):
    report = measured(small(), '--ratios', 0.9, '--batch-size', 4)
    # The ASPP needs two images.
    row = rows_of(report)['rescore', 0.9]
    assert row['ratio'] == 0.9
    assert row['ratio_pruned'] == row['limit'] == row['saved'] == 0.5
    assert 'rescore prunes 50.0% instead of 90.0%: at least 2 of 4 images are retained.' in (
        report['notes']
    )
    assert report['batch_size'] == 4


def test_random_choice_scores_no_images(measured, small):
    config = small()
    text = config.read_text().replace("type='PFB'", "type='Uniform'")
    config.write_text(text.replace('num_centroids=8, ', ''))
    rows = rows_of(measured(config, '--ratios', 0.5))
    assert rows['rescore', 0.5]['score_scale'] is None
    assert rows['rescore', 0.5]['memory_saved'] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ('pruning', 'arguments', 'expected'),
    [
        ({'mode': 'reuse'}, [], 0.5),
        ({'mode': 'rescore', 'score_scale': 0.75}, [], 0.75),
        ({'mode': 'auto', 'score_scale': 0.75}, [], 0.75),
        ({'mode': 'rescore', 'score_scale': 0.75}, ['--score-scale', '0.25'], 0.25),
        ({'mode': 'reuse'}, ['--score-scale', '1'], 1.0),
    ],
)
def test_score_scale(pruning, arguments, expected, measured, small):
    report = measured(small(**pruning), '--ratios', 0.5, '--modes', 'rescore', *arguments)
    assert rows_of(report)['rescore', 0.5]['score_scale'] == expected


def test_table(call, small):
    out = call(small(), '--ratios', 0.5, '--repeats', 2)
    out = out[out.index('small, cut at ') :]
    title, header, *lines = out.splitlines()
    assert title.startswith('small, cut at backbone.layer3, batch 8 of 64x64, ')
    assert header.split()[:4] == ['mode', 'ratio', 'scale', 'median']
    cells = [line.split() for line in lines[:3]]
    assert [row[0] for row in cells] == ['unpruned', 'reuse', 'rescore']
    assert [row[1:3] for row in cells[1:]] == [['0.5', '1'], ['0.5', '0.5']]
    assert [row[-4] for row in cells] == ['0.0%', '50.0%', '50.0%']
    assert lines[3].startswith('medians of 2 interleaved steps')
    assert 'tensors saved for the backward pass' in lines[4]
    assert lines[-1].startswith("data loading: not measured: The folder 'nowhere/images/train' ")


def test_plot(call, small, tmp_path):
    path = tmp_path / 'saving.png'
    call(small(), '--ratios', 0.3, 0.7, '--repeats', 1, '--plot', path)
    assert path.stat().st_size < 100_000
    with Image.open(path) as picture:
        assert picture.format == 'PNG'
        # Both lines stand out from the background, the limit and the text.
        colours = {colour for _, colour in picture.convert('RGB').getcolors(2**24)}
    assert any(red - blue > 100 for red, _, blue in colours)
    assert any(blue - red > 100 for red, _, blue in colours)


@pytest.mark.parametrize('data_root', ['nowhere', 'tiny_cifar'])
def test_classifier(data_root, measured, tmp_path, request):
    found = data_root == 'tiny_cifar'
    config = Config.fromfile(CLASSIFIER)
    config.merge_from_dict({
        'model.backbone.stem_channels': 8,
        'model.backbone.base_channels': 8,
        'model.head.in_channels': 64,
        'model.pruning.selector.num_centroids': 8,
        'train_dataloader.num_workers': 0,
        'train_dataloader.persistent_workers': False,
        'train_dataloader.dataset.images_per_class': None,
        'train_dataloader.dataset.data_root': str(
            request.getfixturevalue('tiny_cifar') if found else tmp_path / 'nowhere'
        ),
    })
    config.dump(tmp_path / 'classifier.py')
    report = measured(tmp_path / 'classifier.py', '--batch-size', 8, '--ratios', 0.5)
    assert [row['mode'] for row in report['steps']] == ['unpruned', 'reuse', 'rescore']
    assert report['image_size'] == [32, 32]
    assert rows_of(report)['rescore', 0.5]['memory_saved'] == pytest.approx(0.5, abs=0.02)
    # Without the data nothing is downloaded.
    assert (report['data_loading_s'] is not None) == found
    assert not (tmp_path / 'nowhere').exists()
    assert any('not measured: ' in note for note in report['notes']) != found


@pytest.mark.slow
def test_pruning_saves_time(measured):
    report = measured(CONFIG, '--ratios', 0.75, '--repeats', 3)
    # Three quarters of the images gone save much more than any noise between neighbouring steps.
    for mode in ('reuse', 'rescore'):
        assert rows_of(report)[mode, 0.75]['saved'] > 0.2


# ---- Modes that do not work ------------------------------------------------------------------


def test_a_mode_that_does_not_work_is_left_out(measured, small):
    # Inside of a residual block the batch cannot be cut, for the other branch is whole.
    report = measured(small(location=BLOCK), '--ratios', 0.5)
    assert [row['mode'] for row in report['steps']] == ['unpruned', 'rescore']
    (note,) = [note for note in report['notes'] if note.startswith('reuse is left out: ')]
    assert f"cannot be cut at '{BLOCK}'" in note


def test_a_mode_that_does_not_work_is_an_error_if_asked_for(refused, small):
    message = refused(small(location=BLOCK), '--modes', 'rescore', 'reuse')
    assert f"cannot be cut at '{BLOCK}'" in message


def test_a_scale_that_does_not_work_is_an_error_if_asked_for(measured, refused, small):
    # At the default scale nothing of the stage is left of an image of 8 pixels.
    changes = {'model.data_preprocessor.size': (8, 8)}
    config = small(changes=changes)
    report = measured(config, '--ratios', 0.5)
    assert [row['mode'] for row in report['steps']] == ['unpruned', 'reuse']
    assert any('rescore is left out: ' in note for note in report['notes'])
    message = refused(config, '--score-scale', 0.5)
    assert 'use a `score_scale` of at least' in message


def test_no_mode_at_all_is_an_error(refused, small):
    message = refused(small(location='backbone.stage9'))
    assert 'reuse is left out: ' in message
    assert 'rescore is left out: ' in message
    assert "but got 'backbone.stage9'" in message


# ---- Arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.py'], "`config` to be a file, but got 'nowhere.py'"),
        ([CONFIG, '--ratios', '1'], '`ratios` to be in [0, 1), but got 1.0'),
        ([CONFIG, '--ratios', '0.5', '0'], '`ratios` to be above 0, but got 0.0'),
        ([CONFIG, '--repeats', '0'], '`repeats` to be an integer of at least 1, but got 0'),
        ([CONFIG, '--batch-size', '0'], '`batch-size` to be an integer of at least 2, but got 0'),
        ([CONFIG, '--score-scale', '0'], '`score-scale` to be in (0, 1], but got 0.0'),
        ([CONFIG, '--modes', 'reuse', '--score-scale', '0.5'],
         '`rescore` to be among --modes with --score-scale, but got reuse'),
        ([CONFIG, '--modes', 'auto'], "invalid choice: 'auto'"),
        ([CONFIG, '--device', 'gpu'], 'gpu'),
        ([CONFIG, '--plot', 'saving.txt'], "ends in .png in a folder that exists, but got 'saving"),
        ([CONFIG, '--plot', 'nowhere/saving.png'], "folder that exists, but got 'nowhere/saving"),
        ([CONFIG, '--amp'], 'CUDA device with mixed precision, which the AmpOptimWrapper'),
        ([UNPRUNED_CLASSIFIER], 'a model that prunes, but ImageClassifier does not'),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, refused):
    assert message in refused(*arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason='needs a machine without a CUDA device')
def test_a_missing_gpu_is_named(refused):
    assert 'of this machine, but got cuda and found no GPU' in refused(CONFIG, '--device', 'cuda')


def test_a_missing_matplotlib_is_named(refused, monkeypatch, tmp_path):
    from importlib import util

    find = util.find_spec
    monkeypatch.setattr(
        util, 'find_spec', lambda name, *rest: None if name == 'matplotlib' else find(name, *rest)
    )
    message = refused(CONFIG, '--plot', tmp_path / 'saving.png')
    assert 'matplotlib to be installed for --plot' in message


@pytest.mark.parametrize(
    ('changes', 'arguments', 'message'),
    [
        ({'train_dataloader.batch_size': 1}, [], '`batch-size` to be an integer of at least 2'),
        ({'model.pruning.ratios': 0.5}, [], "the keys of `pruning` to be among ['selector'"),
        ({'optim_wrapper.type': 'ApexOptimWrapper'}, ['--amp'],
         "OptimWrapper or AmpOptimWrapper with --amp, but got 'ApexOptimWrapper'"),
        ({'optim_wrapper.type': 'AmpOptimWrapper'}, [], 'a CUDA device with mixed precision'),
        ({'model.data_preprocessor.size': None,
          'train_dataloader.dataset.pipeline': []}, [], 'tell the size of its images'),
    ],
)
def test_wrong_configs_are_refused(changes, arguments, message, refused, small):
    assert message in refused(small(changes=changes), *arguments)
