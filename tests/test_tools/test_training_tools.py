"""The command line tools, and those of the frameworks, on a tiny data set."""

import importlib.util
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
MMSEG_MIM = Path(mmseg.__file__).parent / '.mim'
CONFIG = ROOT / 'configs/camvid/deeplabv3_r18-d8-w32_1xb8-pfb0.5-1k_camvid-160x160.py'
CLASSIFIER = ROOT / 'configs/cifar10/resnet18-w16_1xb64-pfb0.5-300_cifar10.py'
CLASSIFIER_BY_EPOCH = ROOT / 'configs/cifar10/resnet18-w16_1xb128-pfb0.5-20e_cifar10-10k.py'
needs_mmseg_tools = pytest.mark.skipif(
    not (MMSEG_MIM / 'tools/train.py').is_file(), reason='MMSegmentation has no tools installed'
)
MMPRETRAIN_MIM = Path(importlib.util.find_spec('mmpretrain').origin).parent / '.mim'
needs_mmpretrain_tools = pytest.mark.skipif(
    not (MMPRETRAIN_MIM / 'tools/train.py').is_file(), reason='MMPretrain has no tools installed'
)


def shrink(data_root: Path, max_iters: int) -> list[str]:
    """Options that make the small CamVid config train on the tiny data in a moment."""
    options = [
        'model.data_preprocessor.size=(64,64)',
        'model.backbone.base_channels=8',
        'model.backbone.stem_channels=8',
        'model.decode_head.in_channels=64',
        'model.decode_head.channels=8',
        'model.auxiliary_head.in_channels=32',
        'model.auxiliary_head.channels=8',
        'model.pruning.selector.num_centroids=4',
        'train_dataloader.batch_size=4',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
        f'train_cfg.max_iters={max_iters}',
        f'train_cfg.val_interval={max_iters}',
        'default_hooks.pruning.begin=0.25',
        'default_hooks.logger.interval=1',
        f'default_hooks.checkpoint.interval={max_iters}',
    ]
    for split in ('train', 'val', 'test'):
        options += [
            f'{split}_dataloader.dataset.data_root={data_root}',
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
        ]
    return options


def shrink_classifier(data_root: Path) -> list[str]:
    """Options that make a CIFAR-10 config train on the tiny data in a moment."""
    options = [
        'model.backbone.stem_channels=8',
        'model.backbone.base_channels=8',
        'model.head.in_channels=64',
        'train_dataloader.batch_size=8',
        'train_dataloader.dataset.images_per_class=None',
        'default_hooks.logger.interval=1',
    ]
    for split in ('train', 'val', 'test'):
        options += [
            f'{split}_dataloader.dataset.type=mmpfb.CIFAR10Dataset',
            f'{split}_dataloader.dataset.data_root={data_root}',
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
        ]
    return options


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '-1'}
    # Tools of the frameworks know nothing of this clone; ours find it by themselves.
    if Path(str(arguments[0])).parent != TOOLS:
        environment['PYTHONPATH'] = str(ROOT)
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def call(script: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run one of our tools in this process."""
    monkeypatch.setattr(sys, 'argv', [script, *map(str, arguments)])
    monkeypatch.setattr(sys, 'path', sys.path.copy())
    monkeypatch.setenv('LOCAL_RANK', '0')
    runpy.run_path(str(TOOLS / script), run_name='__main__')


def read_scalars(work_dir: Path) -> list[dict]:
    (path,) = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1:]
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope='module')
def trained(tiny_camvid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dir of a pruned run of four iterations."""
    folder = tmp_path_factory.mktemp('trained')
    run(TOOLS / 'train.py', CONFIG, '--cfg-options', *shrink(tiny_camvid, 4), cwd=folder)
    return folder / 'work_dirs' / CONFIG.stem


def test_train_writes_checkpoint_log_and_score(trained: Path):
    assert (trained / 'iter_4.pth').is_file()
    scalars = read_scalars(trained)
    assert [entry['step'] for entry in scalars if 'loss' in entry] == [1, 2, 3, 4]
    assert all(np.isfinite(entry['loss']) for entry in scalars if 'loss' in entry)
    assert any('mIoU' in entry for entry in scalars)


def test_train_resumes(trained: Path, tiny_camvid: Path, tmp_path: Path):
    work_dir = tmp_path / 'resumed'
    work_dir.mkdir()
    (work_dir / 'iter_4.pth').write_bytes((trained / 'iter_4.pth').read_bytes())
    (work_dir / 'last_checkpoint').write_text(str(work_dir / 'iter_4.pth'))
    run(TOOLS / 'train.py', CONFIG, '--work-dir', work_dir, '--resume', '--cfg-options',
        *shrink(tiny_camvid, 6), cwd=tmp_path)

    assert [entry['step'] for entry in read_scalars(work_dir) if 'loss' in entry] == [5, 6]


@pytest.mark.parametrize('augmented', [False, True])
def test_test_evaluates_and_writes_predictions(
    augmented: bool, trained: Path, tiny_camvid: Path, tmp_path: Path
):
    run(TOOLS / 'test.py', CONFIG, trained / 'iter_4.pth', '--work-dir', tmp_path / 'work',
        '--out', tmp_path / 'predicted', *(['--tta'] if augmented else []),
        '--cfg-options', *shrink(tiny_camvid, 4), cwd=tmp_path)

    (scores,) = (tmp_path / 'work').glob('*/*.json')
    assert 0 <= json.loads(scores.read_text())['mIoU'] <= 100
    predicted = sorted((tmp_path / 'predicted').glob('*.png'))
    assert [path.name for path in predicted] == ['0.png', '1.png']
    assert np.asarray(Image.open(predicted[0])).shape == (64, 64)


def test_checkpoint_loads_into_the_stock_model(trained: Path):
    config = Config.fromfile(trained / CONFIG.name)
    config.model.type = 'EncoderDecoder'
    config.model.pop('pruning')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(config.model)
    checkpoint = torch.load(trained / 'iter_4.pth', map_location='cpu', weights_only=False)
    model.load_state_dict(checkpoint['state_dict'], strict=True)


@pytest.mark.slow
@needs_mmseg_tools
def test_mmseg_train_takes_our_config(tiny_camvid: Path, tmp_path: Path):
    run(MMSEG_MIM / 'tools/train.py', CONFIG, '--work-dir', tmp_path, '--cfg-options',
        *shrink(tiny_camvid, 4), cwd=tmp_path)

    assert (tmp_path / 'iter_4.pth').is_file()


@pytest.mark.slow
@needs_mmseg_tools
def test_mmseg_train_prunes_any_mmseg_config_by_options_alone(tiny_camvid: Path, tmp_path: Path):
    config = MMSEG_MIM / 'configs/fcn/fcn_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    options = [
        'model.type=mmpfb.PFBEncoderDecoder',
        'model.pruning.ratio=0.5',
        'model.pruning.selector.type=PFB',
        'model.pruning.selector.num_centroids=4',
        'default_hooks.pruning.type=mmpfb.PruningScheduleHook',
        'default_hooks.pruning.begin=0.25',
        'default_hooks.pruning.end=1.0',
        'default_hooks.pruning.by=fraction',
        'model.pretrained=None',
        'model.data_preprocessor.size=(64,64)',
        'train_dataloader.batch_size=4',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)',
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'default_hooks.logger.interval=1',
    ]
    for split, folder in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        options += [
            f'{split}_dataloader.num_workers=0',
            f'{split}_dataloader.persistent_workers=False',
            f'{split}_dataloader.dataset.type=mmpfb.CamVidDataset',
            f'{split}_dataloader.dataset.data_root={tiny_camvid}',
            f'{split}_dataloader.dataset.data_prefix.img_path=images/{folder}',
            f'{split}_dataloader.dataset.data_prefix.seg_map_path=annotations/{folder}',
        ]
    done = run(MMSEG_MIM / 'tools/train.py', config, '--work-dir', tmp_path, '--cfg-options',
               *options, cwd=tmp_path)

    entries = [entry for entry in read_scalars(tmp_path) if 'loss' in entry]
    assert [entry['step'] for entry in entries] == [1, 2, 3, 4]
    assert 'pruned' in (done.stdout + done.stderr).lower()


# ---- Classifiers -----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained_classifier(tiny_cifar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work dir of a run of two iterations, the second of them pruned."""
    work_dir = tmp_path_factory.mktemp('trained_classifier')
    run(TOOLS / 'train.py', CLASSIFIER, '--work-dir', work_dir, '--cfg-options',
        *shrink_classifier(tiny_cifar), 'model.pruning.selector.num_centroids=8',
        'default_hooks.pruning.begin=0.5', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2', cwd=work_dir)
    return work_dir


def read_summary(work_dir: Path) -> dict:
    return json.loads((work_dir / 'pruning_summary.json').read_text())


def test_train_takes_a_classifier(trained_classifier: Path, tiny_cifar: Path):
    assert (trained_classifier / 'iter_2.pth').is_file()
    scalars = read_scalars(trained_classifier)
    losses = [entry for entry in scalars if 'loss' in entry]
    assert [entry['step'] for entry in losses] == [1, 2]
    assert all(np.isfinite(entry['loss']) for entry in losses)
    assert [entry['accuracy/top1'] for entry in scalars if 'accuracy/top1' in entry]
    summary = read_summary(trained_classifier)
    assert (summary['images_seen'], summary['images_kept']) == (16, 12)
    record = json.loads((trained_classifier / 'retention.json').read_text())
    assert {Path(name).parents[1] for name in record} == {tiny_cifar / 'train'}
    assert [sum(entry[key] for entry in record.values()) for key in ('seen', 'kept')] == [8, 4]


def test_test_scores_a_classifier(
    trained_classifier: Path, tiny_cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    call('test.py', CLASSIFIER, trained_classifier / 'iter_2.pth',
         '--work-dir', tmp_path / 'work',
         '--cfg-options', *shrink_classifier(tiny_cifar), monkeypatch=monkeypatch)

    (scores,) = (tmp_path / 'work').glob('*/*.json')
    trained_scores = [entry for entry in read_scalars(trained_classifier)
                      if 'accuracy/top1' in entry]
    assert json.loads(scores.read_text())['accuracy/top1'] == trained_scores[-1]['accuracy/top1']


def test_checkpoint_of_a_classifier_loads_into_the_stock_model(trained_classifier: Path):
    config = Config.fromfile(trained_classifier / CLASSIFIER.name)
    config.model.type = 'ImageClassifier'
    config.model.pop('pruning')
    model = MODELS.build({**config.model, '_scope_': 'mmpretrain'})
    checkpoint = torch.load(
        trained_classifier / 'iter_2.pth', map_location='cpu', weights_only=False
    )
    model.load_state_dict(checkpoint['state_dict'], strict=True)


def check_epochs(work_dir: Path, epochs: int) -> None:
    """Check that a run on 40 images in batches of 8 trained, and pruned, and was scored."""
    assert (work_dir / f'epoch_{epochs}.pth').is_file()
    scalars = read_scalars(work_dir)
    losses = [entry['loss'] for entry in scalars if 'loss' in entry]
    assert len(losses) == 5 * epochs and np.isfinite(losses).all()
    assert any('accuracy/top1' in entry for entry in scalars)
    summary = read_summary(work_dir)
    assert (summary['selector'], summary['location']) == ('PFB', 'backbone.layer1')
    assert summary['iterations'] == 5 * epochs
    assert summary['images_seen'] == 40 * epochs
    # Half of every batch of eight.
    pruned = summary['iterations_pruned']
    assert pruned >= 2
    assert summary['images_seen'] - summary['images_kept'] == 4 * pruned
    assert summary['ratio_while_pruning'] == pytest.approx(0.5)


@pytest.mark.slow
@needs_mmpretrain_tools
def test_mmpretrain_train_takes_our_config(tiny_cifar: Path, tmp_path: Path):
    run(MMPRETRAIN_MIM / 'tools/train.py', CLASSIFIER_BY_EPOCH, '--work-dir', tmp_path,
        '--cfg-options', *shrink_classifier(tiny_cifar), 'model.pruning.selector.num_centroids=16',
        'param_scheduler.total_steps=2', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2',
        'default_hooks.checkpoint.interval=2', cwd=tmp_path)

    check_epochs(tmp_path, epochs=2)
    # OneCycle by epoch goes down again by the last iteration of the last epoch.
    rates = [entry['lr'] for entry in read_scalars(tmp_path) if 'loss' in entry]
    assert max(rates) == pytest.approx(0.1, rel=0.1)
    assert rates[-1] < 0.1 * max(rates)


@pytest.mark.slow
@needs_mmpretrain_tools
def test_mmpretrain_train_prunes_any_mmpretrain_config_by_options_alone(
    tiny_cifar: Path, tmp_path: Path
):
    config = MMPRETRAIN_MIM / 'configs/resnet/resnet18_8xb16_cifar10.py'
    assert Config.fromfile(config).model.type == 'ImageClassifier'
    pruning = [
        'model.type=mmpfb.PFBImageClassifier',
        'model.pruning.ratio=0.5',
        'default_hooks.pruning.type=mmpfb.PruningScheduleHook',
    ]
    run(MMPRETRAIN_MIM / 'tools/train.py', config, '--work-dir', tmp_path,
        '--cfg-options', *pruning, *shrink_classifier(tiny_cifar),
        'train_cfg.max_epochs=3', 'train_cfg.val_interval=3', cwd=tmp_path)

    check_epochs(tmp_path, epochs=3)


# ---- Arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('script', 'arguments', 'message'),
    [
        ('train.py', ['missing.py'], "`config` to be a file, but got 'missing.py'"),
        ('test.py', ['missing.py', 'x.pth'], "`config` to be a file, but got 'missing.py'"),
        ('test.py', [CONFIG, 'missing.pth'], "`checkpoint` to be a file, but got 'missing.pth'"),
        ('train.py', [CONFIG, '--launcher', 'ssh'], 'invalid choice'),
        ('train.py', [CONFIG, '--amp', '--cfg-options', 'optim_wrapper.type=Other'],
         "OptimWrapper or AmpOptimWrapper with --amp, but got 'Other'"),
        ('train.py', [CONFIG, '--auto-scale-lr'], 'to set `auto_scale_lr.base_batch_size`'),
        ('test.py', [CONFIG, CONFIG, '--show-dir', 'x', '--cfg-options',
                     'default_hooks.visualization=None'], 'for --show-dir, but it does not'),
        ('test.py', [CLASSIFIER, CONFIG, '--out', 'x'], 'config of a segmentor with --out'),
        ('test.py', [CLASSIFIER, CONFIG, '--show-dir', 'x'],
         'classifier, whose images `default_hooks.visualization` draws'),
        ('test.py', [CLASSIFIER, CONFIG, '--tta'], 'define `tta_model` for --tta'),
    ],
)
def test_wrong_arguments_are_named(script, arguments, message, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_info:
        call(script, *arguments, monkeypatch=monkeypatch)

    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('missing', ['tta_model', 'tta_pipeline'])
def test_augmentation_needs_a_description(missing, tmp_path, monkeypatch, capsys):
    config = Config.fromfile(CONFIG)
    del config._cfg_dict[missing]
    config.dump(tmp_path / 'config.py')
    with pytest.raises(SystemExit):
        call('test.py', tmp_path / 'config.py', CONFIG, '--tta', monkeypatch=monkeypatch)

    assert f'define `{missing}` for --tta' in capsys.readouterr().err


class RecordedRunner:
    """Stands in for the runner: keeps the config and trains nothing."""

    configs: list[Config] = []

    @classmethod
    def from_cfg(cls, config: Config) -> 'RecordedRunner':
        cls.configs.append(config)
        return cls()

    def train(self) -> None:
        pass

    test = train


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    monkeypatch.setattr('mmengine.runner.Runner', RecordedRunner)
    monkeypatch.setattr(RecordedRunner, 'configs', [])
    return RecordedRunner.configs


def test_train_arguments_reach_the_config(recorded, monkeypatch):
    call('train.py', CONFIG, '--amp', '--resume', '--launcher', 'slurm', '--work-dir', 'here',
         '--local-rank', '3', '--cfg-options', 'model.pruning.ratio=0.25', monkeypatch=monkeypatch)

    (config,) = recorded
    assert config.optim_wrapper.type == 'AmpOptimWrapper'
    assert config.optim_wrapper.loss_scale == 'dynamic'
    assert config.resume is True
    assert config.launcher == 'slurm'
    assert config.work_dir == 'here'
    assert config.model.pruning.ratio == 0.25
    # The variable that a launcher set wins over the argument.
    assert os.environ['LOCAL_RANK'] == '0'


def test_the_learning_rate_is_scaled_on_request(recorded, monkeypatch):
    base = ('--cfg-options', 'auto_scale_lr.base_batch_size=16')
    for arguments in (base, ('--auto-scale-lr', *base)):
        call('train.py', CONFIG, *arguments, monkeypatch=monkeypatch)

    left, right = recorded
    assert 'enable' not in left.auto_scale_lr
    assert right.auto_scale_lr == {'base_batch_size': 16, 'enable': True}


def test_processes_of_the_cpu_meet_over_gloo(recorded, monkeypatch):
    backends = []
    monkeypatch.setattr(torch.distributed, 'init_process_group', backends.append)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    call('train.py', CONFIG, '--launcher', 'pytorch', '--cfg-options',
         'find_unused_parameters=True', monkeypatch=monkeypatch)

    (config,) = recorded
    assert backends == ['gloo']
    assert config.model_wrapper_cfg == {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': True,
        'device_ids': None,
    }


def test_train_defaults(recorded, monkeypatch):
    call('train.py', CONFIG, monkeypatch=monkeypatch)

    (config,) = recorded
    assert config.optim_wrapper.type == 'OptimWrapper'
    assert config.resume is False
    assert config.launcher == 'none'
    assert config.work_dir == os.path.join('work_dirs', CONFIG.stem)


def test_test_arguments_reach_the_config(recorded, monkeypatch):
    call('test.py', CONFIG, CONFIG, '--tta', '--out', 'predicted', '--show-dir', 'painted',
         monkeypatch=monkeypatch)

    (config,) = recorded
    assert config.model.type == 'SegTTAModel'
    assert config.model.module.type == 'mmpfb.PFBEncoderDecoder'
    assert config.test_dataloader.dataset.pipeline == config.tta_pipeline
    assert config.test_evaluator.output_dir == 'predicted'
    assert config.default_hooks.visualization.draw is True
    assert config.visualizer.save_dir == 'painted'
    assert config.load_from == str(CONFIG)


@pytest.mark.parametrize('script', ['train.py', 'test.py'])
def test_a_clone_that_is_not_installed_is_found(script, monkeypatch):
    monkeypatch.setattr(sys, 'path', [entry for entry in sys.path if entry not in ('', str(ROOT))])
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, 'find_spec', lambda name: None)
        runpy.run_path(str(TOOLS / script), run_name='script')

    assert sys.path[0] == str(ROOT)
