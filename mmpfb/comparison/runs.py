"""One run of a comparison: its folder, its process, and where it stands."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmpfb.comparison.methods import Method
from mmpfb.engine.run_record_hook import RECORD_FILE

CONFIG_FILE = 'config.py'
TRAINED_FILE = 'trained_config.py'
OUTPUT_FILE = 'output.txt'
FAILURE_FILE = 'failure.txt'


@dataclass(frozen=True)
class Run:
    """A training of one method with one seed.

    Attributes:
        method: What is trained.
        seed: Seed of everything random.
        config: Configuration by which it trains.
        iterations: Number of its iterations.
        folder: Work directory of the run.
    """

    method: Method
    seed: int
    config: Config
    iterations: int
    folder: Path

    @property
    def record(self) -> dict[str, Any] | None:
        """What the finished run did and cost; None if it has not finished."""
        path = self.folder / RECORD_FILE
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def failure(self) -> str | None:
        """What went wrong when the run was last tried; None if nothing did."""
        path = self.folder / FAILURE_FILE
        return path.read_text().strip() if path.is_file() else None

    @property
    def can_resume(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        path = self.folder / 'last_checkpoint'
        # A run that was killed while it saved may have deleted the one before already.
        return path.is_file() and Path(path.read_text().strip()).is_file()

    def check(self) -> None:
        """Refuse a folder that holds something else.

        Raises:
            ValueError: If the folder holds a run by another configuration.
        """
        path = self.folder / CONFIG_FILE
        if path.is_file() and path.read_text() != self.config.pretty_text:
            raise ValueError(
                f'Expected {self.folder} to hold a run by the same configuration, but its '
                f'{CONFIG_FILE} differs: choose another --work-dir or delete that folder.'
            )

    def prepare(self) -> None:
        """Write the configuration into the folder.

        Raises:
            ValueError: If the folder holds a run by another configuration.
        """
        self.check()
        path = self.folder / CONFIG_FILE
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(self.config.pretty_text)

    def iterations_done(self) -> int:
        """Return the number of iterations that the run has logged."""
        logs = sorted(self.folder.glob('*/vis_data/scalars.json'))
        for log in reversed(logs):
            for line in reversed(log.read_text().splitlines()):
                # The last line may be half written.
                if line.startswith('{') and line.endswith('}') and '"loss"' in line:
                    entry = json.loads(line)
                    return int(entry.get('iter', entry.get('step', 0)))
        return 0


def execute(
    run: Run, command: Sequence[str], on_progress: Callable[[int], None], interval: float = 5.0
) -> str | None:
    """Train a run in a process of its own, from its last checkpoint if there is one.

    Args:
        run: What to train; its folder has been prepared.
        command: Starts a training; the configuration and the options follow.
        on_progress: Is told the number of iterations that are done.
        interval: Seconds between two looks at it.

    Returns:
        None if the run has finished, otherwise what went wrong, which is also written into its
        folder.
    """
    failure = run.folder / FAILURE_FILE
    failure.unlink(missing_ok=True)
    # The runner writes what it was given, with settings of its own, into the work directory by the
    # same name. What a later start is compared with has to stay as it was planned.
    trained = run.folder / TRAINED_FILE
    shutil.copyfile(run.folder / CONFIG_FILE, trained)
    arguments = [*command, str(trained), '--work-dir', str(run.folder)]
    if run.can_resume:
        arguments.append('--resume')
    output = run.folder / OUTPUT_FILE
    with output.open('a') as file:
        process = subprocess.Popen(arguments, stdout=file, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                on_progress(run.iterations_done())
                _wait(process, interval)
        finally:
            # Also where the comparison itself is interrupted: no training must go on unseen.
            if process.poll() is None:
                process.terminate()
                process.wait()
    if run.record is not None:
        return None
    problem = (
        f'exit status {process.returncode}: {_last_line(output)}'
        if process.returncode
        else f'no {RECORD_FILE} was written'
    )
    failure.write_text(f'{problem} (see {output})\n')
    return run.failure


def train_command(num_gpus: int) -> list[str]:
    """Return the command that starts a training on one or several GPUs."""
    tools = Path(__file__).resolve().parents[2] / 'tools'
    if num_gpus == 1:
        return [sys.executable, str(tools / 'train.py')]
    launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    return [*launcher, f'--nproc_per_node={num_gpus}', str(tools / 'train.py'), '--launcher',
            'pytorch']


def _wait(process: 'subprocess.Popen[bytes]', seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(min(0.1, seconds))


def _last_line(path: Path) -> str:
    lines = [line for line in path.read_text(errors='replace').splitlines() if line.strip()]
    return lines[-1].strip() if lines else 'no output'
