"""The tool that counts, as a user starts it."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COST = ROOT / 'tools/cost.py'
CONFIGS = ROOT / 'configs'
CITYSCAPES = CONFIGS / 'cityscapes/deeplabv3_r50-d8_4xb2-pfb0.3-36k_cityscapes-512x1024.py'
CAMVID = CONFIGS / 'camvid/deeplabv3_r18-d8-w32_1xb8-pfb0.5-1k_camvid-160x160.py'
UNPRUNED_CAMVID = CONFIGS / 'camvid/deeplabv3_r18-d8-w32_1xb8-1k_camvid-160x160.py'
CIFAR = CONFIGS / 'cifar10/resnet18-w16_1xb128-pfb0.5-20e_cifar10-10k.py'


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the tool in this process and return what it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', [str(COST), *map(str, arguments)])
        runpy.run_path(str(COST), run_name='__main__')
        return capsys.readouterr().out

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ('mode', 'ratio', 'lowest', 'highest'),
    [
        ('rescore', 0.3, 0.285, 0.29),
        ('rescore', 0.7, 0.685, 0.69),
        ('reuse', 0.3, 0.255, 0.26),
        ('reuse', 0.7, 0.6, 0.605),
    ],
)
def test_the_city_model(call, mode, ratio, lowest, highest):
    scale = 0.5 if mode == 'rescore' else 1.0
    arguments = ['--ratio', ratio, '--mode', mode, '--score-scale', scale, '--json']
    cost = json.loads(call(CITYSCAPES, *arguments))
    assert lowest <= cost['saved'] < highest
    assert cost['share_before_cut'] == pytest.approx(0.142, abs=0.0005)
    assert cost['saved'] == pytest.approx(1 - cost['flops_pruned'] / cost['flops_full'])
    assert (cost['mode'], cost['ratio'], cost['score_scale']) == (mode, ratio, scale)
    assert (cost['location'], cost['image_size']) == ('backbone.layer3', [512, 1024])


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'size'),
    [
        ('imagenet/resnet50_4xb256-pfb0.4-90e_in1k.py', [224, 224]),
        ('imagenet/swin-tiny_4xb256-pfb0.3-300e_in1k.py', [224, 224]),
        ('pascal_voc12/deeplabv3_r50-d8_4xb4-pfb0.7-36k_voc12aug-512x512.py', [512, 512]),
        ('cifar10/resnet18_1xb128-pfb0.5-200e_cifar10.py', [32, 32]),
        ('camvid/deeplabv3_r50-d8_1xb8-pfb0.3-20k_camvid-360x480.py', [360, 480]),
    ],
)
def test_the_other_models(call, config, size):
    cost = json.loads(call(CONFIGS / config, '--json'))
    assert cost['image_size'] == size
    (place,) = [place for place in cost['places'] if place['location'] == cost['location']]
    assert cost['saved'] == pytest.approx(place[cost['mode']], abs=0.01)
    assert 0 < cost['saved'] < cost['ratio']


def test_the_standard_output_is_one_json_object():
    result = subprocess.run(
        [sys.executable, str(COST), str(CIFAR), '--json'],
        capture_output=True, text=True, check=False,
    )
    assert result.returncode == 0, result.stderr
    cost = json.loads(result.stdout)
    assert {'flops_full', 'flops_pruned', 'saved', 'share_before_cut', 'mode', 'ratio',
            'score_scale', 'location', 'full', 'pruned', 'places'} <= cost.keys()
    assert cost['full'].keys() == {'scoring', 'forward', 'backward'}
    assert cost['flops_full'] == sum(cost['full'].values())
    assert cost['flops_pruned'] == sum(cost['pruned'].values())
    assert cost['places'][0].keys() == {'location', 'share', 'reuse', 'rescore'}


def test_the_table(call):
    lines = call(CAMVID, '--mode', 'rescore', '--score-scale', 0.5, '--ratio', 0.7).splitlines()
    cost = json.loads(
        call(CAMVID, '--mode', 'rescore', '--score-scale', 0.5, '--ratio', 0.7, '--json')
    )
    assert lines[0] == f'{CAMVID.stem}: PFBEncoderDecoder, images of 160x160'
    assert lines[1] == (
        'cut at backbone.layer3, mode rescore at score_scale 0.5, ratio 0.7 '
        '(3 of 10 images retained)'
    )
    rows = {line.split()[0]: line.split() for line in lines if line}
    full, step = rows['full'], rows['pruned']
    assert [float(cell) for cell in full[2:]] == pytest.approx(
        [*(part / 1e9 for part in cost['full'].values()), cost['flops_full'] / 1e9], abs=1e-3
    )
    assert [float(cell) for cell in step[2:]] == pytest.approx(
        [*(part / 1e9 for part in cost['pruned'].values()), cost['flops_pruned'] / 1e9], abs=1e-3
    )
    assert f'saved {cost["saved"]:.1%} of a training step; the limit is the ratio, 70.0%' in lines
    assert [line.split()[:2] for line in lines if line.startswith('* ')] == [
        ['*', 'backbone.layer3']
    ]
    assert 'too late' not in '\n'.join(lines)


def test_a_model_that_is_not_pruned_yet(call):
    pruned, stock = (
        json.loads(call(config, '--ratio', 0.5, '--mode', 'reuse', '--json'))
        for config in (CAMVID, UNPRUNED_CAMVID)
    )
    assert stock == pruned


def test_a_cut_that_comes_too_late(call):
    text = call(CIFAR, '--location', 'backbone.layer4')
    assert '100% of the work lies before backbone.layer4: the cut comes too late' in text
    text = call(CIFAR, '--location', 'backbone.layer4', '--mode', 'rescore', '--ratio', 0.2)
    assert 'Scoring costs more than pruning saves here.' in text


def test_a_ratio_that_is_rounded(call):
    assert 'ratio 0.12345 is rounded to whole images of a batch' in call(CIFAR, '--ratio', 0.12345)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['nowhere.py'], "`config` to be a file, but got 'nowhere.py'"),
        ([CIFAR, '--ratio', 1], '`ratio` to be in [0, 1), but got 1.0'),
        ([CIFAR, '--mode', 'both'], "`mode` to be one of 'reuse', 'rescore', 'auto', but got"),
        ([CIFAR, '--mode', 'rescore', '--score-scale', 0], '`score_scale` to be in (0, 1]'),
        ([CIFAR, '--mode', 'reuse', '--score-scale', 0.5], '`score_scale` to be 1.0 with mode='),
        ([CIFAR, '--location', 'backbone.layer9'], "or a module path such as backbone.layer1"),
        ([CONFIGS / '_base_/models/resnet18_cifar.py'], 'a config with `train_dataloader`'),
        ([CONFIGS / '_base_/default_runtime.py'], 'a config with `model`'),
    ],
)
def test_wrong_arguments(call, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        call(*arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
