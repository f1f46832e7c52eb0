"""Runs in processes of their own; what trains here is a script of a few lines."""

import json
import os
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmpfb.comparison.methods import parse_method
from mmpfb.comparison.runs import Run, execute, train_command

RECORD = {'iterations': 8, 'metrics': {'mIoU': 50.0}}
START = 'import json, os, sys, time; from pathlib import Path; folder = Path(sys.argv[3])\n'
FINISH = f'(folder / "run_record.json").write_text({json.dumps(RECORD)!r})\n'


@pytest.fixture
def run(tmp_path):
    run = Run(parse_method('full'), 0, Config({'a': 1}), 8, tmp_path / 'full' / 'seed0')
    run.prepare()
    return run


@pytest.fixture
def train(run, tmp_path):
    """Execute the run by a script."""

    def train(script, on_progress=lambda done: None):
        (tmp_path / 'train.py').write_text(START + script)
        return execute(run, [sys.executable, str(tmp_path / 'train.py')], on_progress, 0.05)

    return train


def test_a_run_that_finishes(run, train):
    assert (run.record, run.failure) == (None, None)
    # As the runner does.
    dump = '(folder / Path(sys.argv[1]).name).write_text("a = 1; launcher = None")\n'
    assert Config.fromfile(run.folder / 'config.py').to_dict() == {'a': 1}
    assert train(f'print(sys.argv[1:], Path(sys.argv[1]).read_text())\n{dump}{FINISH}') is None
    assert (run.record, run.failure) == (RECORD, None)
    output = (run.folder / 'output.txt').read_text()
    given = f"['{run.folder / 'trained_config.py'}', '--work-dir', '{run.folder}']"
    assert output == f'{given} a = 1\n\n'
    run.check()


def test_a_run_with_a_checkpoint_is_resumed(run, train):
    assert not run.can_resume
    checkpoint = run.folder / 'iter_4.pth'
    (run.folder / 'last_checkpoint').write_text(str(checkpoint))
    # Deleted by a run that was killed before it wrote the next one.
    assert not run.can_resume
    checkpoint.touch()
    assert run.can_resume
    train('print(sys.argv[4:])')
    assert (run.folder / 'output.txt').read_text() == "['--resume']\n"


def test_a_run_that_fails(run, train):
    problem = train('print("many words"); sys.exit("RuntimeError: no memory\\n")')
    assert problem == f'exit status 1: RuntimeError: no memory (see {run.folder / "output.txt"})'
    assert run.failure == problem
    assert train('') == run.failure == (
        f'no run_record.json was written (see {run.folder / "output.txt"})'
    )
    # Tried again, it is not a failed one any more, from the beginning on.
    seen = []
    assert train('time.sleep(0.2);' + FINISH, lambda done: seen.append(run.failure)) is None
    assert run.failure is None and set(seen) == {None}


def test_a_process_that_was_killed_or_died_after_its_work(run, train):
    assert train('os.kill(os.getpid(), 9)').startswith('exit status -9: no output')
    assert train(FINISH + 'sys.exit(3)') is None


@pytest.mark.parametrize('error', [KeyboardInterrupt, SystemExit])
def test_no_training_goes_on_when_the_comparison_is_stopped(run, train, error):
    process = run.folder / 'process'

    def interrupt(done):
        if process.is_file() and process.read_text():
            raise error

    with pytest.raises(error):
        train('(folder / "process").write_text(str(os.getpid())); time.sleep(60)', interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(process.read_text()), 0)
    assert run.failure is None


def test_progress_is_read_from_the_newest_log_with_an_iteration(run, train):
    assert run.iterations_done() == 0
    for name, lines in {
        '20260101_000000': ['{"loss": 2.0, "iter": 5, "epoch": 3}', '{"loss": 1.0, "iter": 9}'],
        '20260102_000000': [
            '{"loss": 2.0, "step": 3}', '{"loss": NaN, "iter": 4, "step": 4}',
            '{"mIoU": 50, "step": 7}', '{"loss": 1.0, "it',
        ],
        '20260103_000000': [],
    }.items():
        log = run.folder / name / 'vis_data/scalars.json'
        log.parent.mkdir(parents=True)
        log.write_text('\n'.join(lines))
    assert run.iterations_done() == 4
    seen = []
    train('time.sleep(0.2)', seen.append)
    assert set(seen) == {4}


def test_a_folder_of_another_configuration_is_refused(run):
    written = (run.folder / 'config.py').stat().st_mtime_ns
    run.prepare()
    run.check()
    assert (run.folder / 'config.py').stat().st_mtime_ns == written
    other = Run(run.method, 0, Config({'a': 2}), 8, run.folder)
    for refuse in (other.prepare, other.check):
        with pytest.raises(ValueError, match='same configuration, but its config.py differs'):
            refuse()
    elsewhere = Run(run.method, 0, Config({'a': 2}), 8, run.folder / 'other')
    elsewhere.check()
    assert not elsewhere.folder.exists()


def test_commands():
    one, several = train_command(1), train_command(4)
    assert one == [sys.executable, several[-3]] and Path(one[1]).is_file()
    assert several[1:5] == [
        '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=4'
    ]
    assert several[-2:] == ['--launcher', 'pytorch']
