"""Times the data loader of a config, apart from training."""

import copy
import inspect
import itertools
import time
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from mmpfb.core.checks import check_positive_int


def seconds_per_batch(dataloader: ConfigDict, batch_size: int, batches: int = 5) -> float:
    """Return the mean time that the workers of a data loader need for a batch.

    The first batches, for which the workers start, are not counted. Nothing is downloaded.

    Args:
        dataloader: Configuration of the data loader.
        batch_size: Number of images in a batch, in place of the configured one.
        batches: Number of batches that are timed.

    Raises:
        ValueError: If ``batches`` is no positive integer or the data set has too few images.
        Exception: Whatever the data set raises if its files are missing.
    """
    check_positive_int('batches', batches)
    config = copy.deepcopy(dataloader)
    config.batch_size = batch_size
    _forbid_download(config.dataset)
    # After the first batch of each worker their pace is steady.
    first = max(1, config.get('num_workers', 0))
    stream = iter(Runner.build_dataloader(config, seed=0))
    for _ in itertools.islice(stream, first):
        pass
    started = time.perf_counter()
    drawn = sum(1 for _ in itertools.islice(stream, batches))
    seconds = time.perf_counter() - started
    if not drawn:
        raise ValueError(
            f'Expected more than {first} batches of {batch_size} images, but the data set holds '
            'no more.'
        )
    return seconds / drawn


def _forbid_download(dataset: Any) -> None:
    while 'dataset' in dataset:
        # A wrapper such as RepeatDataset.
        dataset = dataset.dataset
    kind = dataset.type
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    # A data set passes on to its bases what it does not know.
    bases = inspect.getmro(kind) if inspect.isclass(kind) else ()
    if any('download' in inspect.signature(base.__init__).parameters for base in bases):
        dataset.download = False
