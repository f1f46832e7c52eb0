"""Runs a function in several processes that form one distributed training on the CPU."""

import os
import pickle
import tempfile
from pathlib import Path

import torch
from torch import distributed, multiprocessing


def run_on_ranks(function, num_ranks, *args):
    """Return what ``function(*args)`` returns on each rank; it must be importable."""
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_run, (function, args, num_ranks, folder), nprocs=num_ranks)
        return [
            pickle.loads(Path(folder, f'{rank}.pkl').read_bytes()) for rank in range(num_ranks)
        ]


def _run(rank, function, args, num_ranks, folder):
    os.environ['LOCAL_RANK'] = str(rank)
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/store', rank=rank, world_size=num_ranks
    )
    Path(folder, f'{rank}.pkl').write_bytes(pickle.dumps(function(*args)))
    distributed.barrier()
    distributed.destroy_process_group()
