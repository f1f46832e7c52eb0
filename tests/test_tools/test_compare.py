"""The comparison, as a user starts it."""

import csv
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

from mmpfb.comparison import planning
from mmpfb.comparison import runs as comparison_runs

ROOT = Path(__file__).resolve().parents[2]
COMPARE = ROOT / 'tools/compare.py'
CONFIG = ROOT / 'configs/camvid/deeplabv3_r18-d8-w32_1xb8-1k_camvid-160x160.py'
ITERATIONS = 20


@pytest.fixture
def small(tiny_camvid, tmp_path):
    """A small version of the CamVid config, of twenty iterations."""
    config = Config.fromfile(CONFIG)
    config.merge_from_dict({
        'model.data_preprocessor.size': (64, 64),
        'model.backbone.base_channels': 8,
        'model.backbone.stem_channels': 8,
        'model.decode_head.in_channels': 64,
        'model.decode_head.channels': 8,
        'model.auxiliary_head.in_channels': 32,
        'model.auxiliary_head.channels': 8,
        'train_dataloader.batch_size': 4,
        'train_dataloader.dataset.pipeline.2.scale': (64, 64),
        'train_dataloader.dataset.pipeline.3.crop_size': (64, 64),
        'train_cfg.max_iters': ITERATIONS,
        'train_cfg.val_interval': ITERATIONS // 2,
        'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': 2,
        **{
            f'{split}_dataloader.{key}': value
            for split in ('train', 'val', 'test')
            for key, value in {
                'dataset.data_root': str(tiny_camvid),
                'num_workers': 0,
                'persistent_workers': False,
            }.items()
        },
    })
    config.dump(tmp_path / 'small.py')
    return tmp_path / 'small.py'


@pytest.fixture
def compare(small, tmp_path, monkeypatch, capsys):
    """Run the tool in this process and return its exit status, its words and its complaints."""

    def run(*arguments, config=small):
        words = [COMPARE, config, '--ratio', 0.5, '--work-dir', tmp_path / 'work', *arguments]
        monkeypatch.setattr(sys, 'argv', [str(word) for word in words])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            runpy.run_path(str(COMPARE), run_name='__main__')
            status = 0
        except SystemExit as stopped:
            status = stopped.code
        finally:
            signal.signal(signal.SIGTERM, handler)
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.fixture
def false_costs(monkeypatch):
    """A step costs 10 per image, one that prunes half of them 7."""
    cost = planning.StepCost(full=10.0, pruned=7.0, scoring=0.0, ratio=0.5)
    monkeypatch.setattr(planning, 'step_cost', lambda run, ratio: cost)


def record_of(run, metric=50.0, **changes):
    """What a run of the small config writes at its end."""
    images = 4 * run.iterations
    prunes = run.method.kind == 'batch'
    return {
        'iterations': run.iterations,
        'images_loaded': images,
        # By default it prunes half from iteration 1 to 18.
        'images_seen_while_pruning': 68 * prunes,
        'images_kept_while_pruning': 34 * prunes,
        'images_trained': images - 34 * prunes,
        'seconds': 100.0 if run.method.name == 'full' else 60.0,
        'peak_memory_bytes': 2**30,
        'peak_memory_kind': 'process',
        'metrics': {'aAcc': 9.0, 'mIoU': metric + run.seed},
        **changes,
    }


@pytest.fixture
def trainer(monkeypatch, tmp_path):
    """Train in no time: write records, but for runs that are to fail; note what was trained."""

    class Trainer:
        fails, trained, tables = (), [], []

        def __call__(self, run, command, on_progress, interval=5.0):
            name = f'{run.folder.parent.name}/{run.seed}'
            table = tmp_path / 'work/comparison.md'
            self.tables.append(table.read_text() if table.is_file() else '')
            self.trained.append(name)
            on_progress(run.iterations)
            failure = run.folder / 'failure.txt'
            failure.unlink(missing_ok=True)
            if name in self.fails:
                failure.write_text('exit status 1: no memory')
                return run.failure
            (run.folder / 'run_record.json').write_text(json.dumps(record_of(run)))

        def take(self):
            found, self.trained = self.trained, []
            return found

    trainer = Trainer()
    Trainer.trained, Trainer.tables = [], []
    monkeypatch.setattr(comparison_runs, 'execute', trainer)
    return trainer


def read_csv(path):
    with path.open() as file:
        return list(csv.DictReader(file))


# ---- What is trained and written -------------------------------------------------------------


def test_comparison_with_a_failure(compare, trainer, false_costs, tmp_path):
    trainer.fails = ('pfb-temperature=1/1',)
    arguments = ('--methods', 'full', 'short', 'pfb:temperature=1', '--seeds', 2)
    status, said, _ = compare(*arguments)

    assert status == 1
    names = ['full', 'short', 'pfb-temperature=1']
    assert trainer.take() == [f'{name}/{seed}' for seed in (0, 1) for name in names]
    assert '[6/6] PFB (temperature 1), seed 1: FAILED, exit status 1: no memory; all runs' in said
    # The table is there from the first run on.
    assert 'Not finished:\n\n* Full training: seed 1, iteration 0 of 20' in trainer.tables[1]
    assert '| Full training | 1, 1 not finished | 50.00 |' in trainer.tables[1]

    table = (tmp_path / 'work/comparison.md').read_text()
    assert table in said
    full, short, pfb = table.splitlines()[2:5]
    assert full.startswith('| Full training | 2 | 50.50 ± 0.71 | 80 (100%) |')
    # 80 - 34 images are 11.5 batches.
    assert short.startswith('| Shorter schedule | 2 | 50.50 ± 0.71 | 48 (60%) |')
    assert short.endswith('(60%) | 1 min 00 s | 40.0% | 1.00 GiB |')
    assert pfb.startswith('| PFB (temperature 1) | 1, 1 failed | 50.00 | 46 (57%) |')
    assert table.endswith(
        'Failed:\n\n* PFB (temperature 1): seed 1, exit status 1: no memory\n'
    )
    by_method = {line['method']: line for line in read_csv(tmp_path / 'work/comparison.csv')}
    assert list(by_method) == names
    assert by_method['pfb-temperature=1']['failures'] == 'seed 1, exit status 1: no memory'
    # 12 images before and after, and 68 of which half were pruned.
    assert by_method['pfb-temperature=1']['flops'] == '596.0' == str(12 * 10.0 + 68 * 7.0)
    assert by_method['pfb-temperature=1']['flops_share'] == '0.745'
    by_run = read_csv(tmp_path / 'work/runs.csv')
    assert [line['mIoU'] for line in by_run] == ['50.0'] * 3 + ['51.0'] * 2 + ['']
    assert Image.open(tmp_path / 'work/comparison.png').size > (500, 300)

    # Once more: what failed is tried again, and nothing else.
    trainer.fails = ()
    status, said, _ = compare(*arguments)
    assert (status, trainer.take()) == (0, ['pfb-temperature=1/1'])
    assert 'seed 0: finished before' in said and 'Failed' not in said
    # More seeds and more methods join.
    compare(*arguments[:-1], 3)
    assert trainer.take() == [f'{name}/2' for name in names]


def test_report_trains_nothing(compare, trainer, false_costs, tmp_path):
    methods = ('--methods', 'full', 'uniform', 'divbs')
    status, _, said = compare(*methods, '--report')
    assert status == 2 and "with --report, but '" in said and 'does not exist' in said
    assert not (tmp_path / 'work').exists()

    trainer.fails = ('uniform/0',)
    compare('--methods', 'full', 'uniform')
    trainer.take()
    (tmp_path / 'work/comparison.md').unlink()
    status, said, _ = compare(*methods, '--report')
    assert (status, trainer.take()) == (1, [])
    assert '| Full training | 1 | 50.00 |' in said
    assert '| Uniform | 0, 1 failed | failed |' in said
    assert '| DivBS | 0, 1 not finished | not finished |' in said
    assert '* DivBS: seed 0, iteration 0 of 20' in said
    assert (tmp_path / 'work/comparison.md').read_text() in said
    assert not (tmp_path / 'work/divbs').exists()


def test_a_run_without_the_metric_has_failed(compare, trainer, false_costs):
    status, said, _ = compare('--methods', 'full', '--metric', 'mDice')
    assert status == 1
    assert '* Full training: seed 0, no mDice in its last validation, which gave aAcc 9, mIoU 50' \
        in said
    assert compare('--methods', 'full', '--metric', 'aAcc')[0] == 0


def test_a_cost_that_cannot_be_counted_is_told_of_first(compare, trainer, small):
    config = Config.fromfile(small)
    del config.model.data_preprocessor['size']
    del config.train_dataloader.dataset.pipeline[3]
    config.train_dataloader.dataset.pipeline[2]['keep_ratio'] = True
    config.dump(small)
    status, said, complaints = compare('--methods', 'full', 'uniform')
    assert status == 0
    assert 'The FLOPs of Uniform are not counted: Expected the config to tell' in complaints
    assert '| Uniform | 1 | 50.00 | 46 (57%) | - |' in said


# ---- Arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--methods', 'best'], "one of full, short, .*, but got 'best'"),
        (['--methods', 'pfb', 'pfb'], 'Expected different --methods'),
        (['--methods', 'full', '--ratio', '1'], r'`--ratio` to be in \[0, 1\), but got 1'),
        (['--methods', 'full', '--ratio', '0'], 'ratio=0 prunes nothing'),
        (['--methods', 'full', '--seeds', '0'], '`--seeds`'),
        (['--methods', 'full', '--gpus', '0'], '`--gpus`'),
        (['--methods', 'full', '--budget', 'equal'], 'invalid choice'),
        (['--methods', 'ucb:colour=1'], 'colour'),
        (['--methods', 'pfb:num_centroids=1'], 'num_centroids'),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message, compare, trainer, tmp_path):
    status, _, said = compare(*arguments)
    assert status == 2
    assert re.search(message, said.replace('\n', ' '))
    assert trainer.take() == [] and not (tmp_path / 'work').exists()


def test_a_missing_config_and_other_runs_in_the_folder_are_refused(
    compare, trainer, false_costs
):
    status, _, said = compare('--methods', 'full', config='missing.py')
    assert status == 2 and "`config` to be a file, but got 'missing.py'" in said
    compare('--methods', 'full', 'uniform')
    for extra in ([], ['--report']):
        status, _, said = compare('--methods', 'uniform', '--ratio', 0.25, *extra)
        assert status == 2 and 'same configuration, but its config.py differs' in said


# ---- The real thing --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_trainings_side_by_side(compare, small, tmp_path):
    """Stopped in the middle, gone on with, with a failure, and reported again."""
    work = tmp_path / 'work'
    methods = ['infobatch', 'full', 'short', 'pfb:num_centroids=8']
    command = [sys.executable, COMPARE, small, '--ratio', '0.5', '--work-dir', work, '--methods']
    environment = os.environ | {'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '-1'}
    with (tmp_path / 'first.txt').open('w') as output:
        process = subprocess.Popen(
            [*command, *methods[:2]], env=environment, stdout=output, stderr=output
        )
        deadline = time.monotonic() + 500
        while not (work / 'full/seed0/last_checkpoint').is_file():
            assert process.poll() is None and time.monotonic() < deadline, (
                (tmp_path / 'first.txt').read_text()[-3000:]
            )
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    # Nothing trains on.
    log = work / 'full/seed0/output.txt'
    size = log.stat().st_size
    assert (work / 'infobatch/seed0/run_record.json').is_file()
    assert not (work / 'full/seed0/run_record.json').is_file()
    trained_once = (work / 'infobatch/seed0/run_record.json').stat().st_mtime_ns
    # Its checkpoint is none.
    (work / 'short/seed0').mkdir(parents=True)
    (work / 'broken.pth').write_text('broken')
    (work / 'short/seed0/last_checkpoint').write_text(str(work / 'broken.pth'))
    assert log.stat().st_size == size

    done = subprocess.run(
        [*command, *methods], env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    said = done.stdout
    assert '[1/4] InfoBatch, seed 0: finished before' in said
    assert '[2/4] Full training, seed 0: resumed at' in said
    assert '[3/4] Shorter schedule, seed 0: FAILED, exit status 1: ' in said
    assert (work / 'infobatch/seed0/run_record.json').stat().st_mtime_ns == trained_once

    rows = {line['method']: line for line in read_csv(work / 'comparison.csv')}
    runs = {line['method']: line for line in read_csv(work / 'runs.csv')}
    images = {name: row['images_trained'] for name, row in rows.items()}
    # By default half of the images is pruned from iteration 1 to 18 of 20, once eight were seen.
    assert images == {'infobatch': '48', 'full': '80', 'short': '', 'pfb-num_centroids=8': '48'}
    assert rows['short']['failures'].startswith('seed 0, exit status 1: ')
    assert [name for name, run in runs.items() if run['failure']] == ['short']
    assert all(0 <= float(rows[name]['mIoU']) <= 100 for name in rows if name != 'short')
    shares = {name: float(row['flops_share']) for name, row in rows.items() if row['flops']}
    assert shares['infobatch'] == 0.6 < shares['pfb-num_centroids=8'] < 1
    full = json.loads((work / 'full/seed0/run_record.json').read_text())
    assert (full['iterations'], full['images_loaded']) == (20, 80)
    steps = [
        json.loads(line)['step']
        for scalars in sorted((work / 'full/seed0').glob('*/vis_data/scalars.json'))
        for line in scalars.read_text().splitlines() if '"loss"' in line
    ]
    # It went on from its last checkpoint, and not from the beginning.
    assert steps.count(1) == 1 and steps[-1] == 20 and set(steps) == set(range(1, 21))

    written = (work / 'comparison.md').read_text()
    status, reported, _ = compare('--methods', *methods, '--report')
    assert status == 1 and written in reported
