"""The launch scripts, with the interpreter and srun replaced by ones that print their arguments."""

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'


@pytest.fixture
def launch(tmp_path: Path):
    for name in ('python', 'srun'):
        stub = tmp_path / name
        stub.write_text('#!/bin/sh\nfor argument; do echo "$argument"; done\n')
        stub.chmod(0o755)

    def run(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        environment = {'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'} | variables
        return subprocess.run(
            [TOOLS / script, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    return run


def test_dist_train_starts_one_process_per_gpu(launch):
    done = launch('dist_train.sh', 'my config.py', '4', '--cfg-options', 'a=b c')

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        '-m',
        'torch.distributed.run',
        '--nnodes=1',
        '--node_rank=0',
        '--master_addr=127.0.0.1',
        '--master_port=29500',
        '--nproc_per_node=4',
        str(TOOLS / 'train.py'),
        'my config.py',
        '--launcher',
        'pytorch',
        '--cfg-options',
        'a=b c',
    ]


def test_dist_train_takes_several_machines(launch):
    done = launch(
        'dist_train.sh', 'c.py', '8', NNODES='2', NODE_RANK='1', MASTER_ADDR='host', PORT='1234'
    )

    assert {'--nnodes=2', '--node_rank=1', '--master_addr=host', '--master_port=1234'} <= set(
        done.stdout.splitlines()
    )


def test_slurm_train_asks_for_tasks_and_gpus(launch):
    done = launch(
        'slurm_train.sh', 'part', 'job', 'c.py', '--resume',
        GPUS='16', GPUS_PER_NODE='8', SRUN_ARGS='--time=1 --quiet',
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        '--partition=part',
        '--job-name=job',
        '--gres=gpu:8',
        '--ntasks=16',
        '--ntasks-per-node=8',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        '--time=1',
        '--quiet',
        'python',
        '-u',
        str(TOOLS / 'train.py'),
        'c.py',
        '--launcher',
        'slurm',
        '--resume',
    ]


def test_slurm_train_fits_a_small_job_on_one_machine(launch):
    done = launch('slurm_train.sh', 'part', 'job', 'c.py', GPUS='2')

    assert {'--gres=gpu:2', '--ntasks=2', '--ntasks-per-node=2'} <= set(done.stdout.splitlines())


@pytest.mark.parametrize(
    ('script', 'arguments'),
    [
        ('dist_train.sh', []),
        ('dist_train.sh', ['--help']),
        ('dist_train.sh', ['c.py']),
        ('dist_train.sh', ['c.py', '0']),
        ('dist_train.sh', ['c.py', '--resume']),
        ('slurm_train.sh', ['part', 'job']),
        ('slurm_train.sh', ['--help', 'job', 'c.py']),
    ],
)
def test_wrong_arguments_show_the_usage(launch, script, arguments):
    done = launch(script, *arguments)

    assert done.returncode == 2
    assert done.stdout == ''
    assert done.stderr.startswith(f'Usage: {script}')
