"""Measures what choosing costs as batches, centroids, dimensions, ranks and data sets grow."""

import ctypes
import io
import json
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from mmpfb.analysis.interleaved import time_in_turn
from mmpfb.analysis.memory import storage_bytes
from mmpfb.core.budget import retained_count
from mmpfb.core.checks import check_choice, check_positive_int, check_ratio
from mmpfb.core.pooling import pool_features
from mmpfb.core.randomness import generator_for
from mmpfb.core.ranks import SumOverRanks
from mmpfb.samplers import UCB, EpochSampler, EpsilonGreedy, InfoBatch, StaticRandom, UniformDynamic
from mmpfb.selectors import PFB, Needs, Selector

Result = TypeVar('Result')

PARTS = ('pooling', 'choice', 'update', 'step')
"""What is timed: pooling a stage output; density and selection; centroids; the last two at once."""
SAMPLERS: Mapping[str, tuple[type[EpochSampler], Mapping[str, Any]]] = {
    'InfoBatch': (InfoBatch, {}),
    'UCB': (UCB, {}),
    'EpsilonGreedy': (EpsilonGreedy, {}),
    'UniformDynamic': (UniformDynamic, {}),
    'UniformDynamic-replacement=False': (UniformDynamic, {'replacement': False}),
    'StaticRandom': (StaticRandom, {}),
}
WARMUP = 3
BYTES_PER_NUMBER = 4
# Long enough that the second pass of a run is none of its last ones, which may be full.
PASSES = 100
# What is loaded when code runs for the first time, threads and all, is not counted for the images.
# Torch uses threads from 32,768 numbers on.
REHEARSED_IMAGES = 50_000


# Times of one process


@dataclass(frozen=True)
class ScoringSize:
    """Sizes on which the time of a choice by PFB depends.

    Attributes:
        batch_size: Number of images in a batch ``B``.
        num_centroids: Number of kernels ``N_C``.
        dim: Number of dimensions ``D``.

    Raises:
        ValueError: If a number is no integer or too small to choose by.
    """

    batch_size: int = 8
    num_centroids: int = 64
    dim: int = 128

    def __post_init__(self) -> None:
        check_positive_int('batch_size', self.batch_size, minimum=2)
        check_positive_int('num_centroids', self.num_centroids, minimum=2)
        check_positive_int('dim', self.dim)


@dataclass(frozen=True)
class Spread:
    """Median, quartiles and lowest of repeated measurements, in seconds.

    The longest of many runs on a machine with other work says nothing about the code; the shortest
    tells what it takes when nothing interrupts it.
    """

    median: float
    lower: float
    upper: float
    lowest: float

    @classmethod
    def of(cls, times: Sequence[float]) -> 'Spread':
        """Return the spread of at least two times.

        Example:
            >>> Spread.of([1.0, 2.0, 3.0, 4.0, 50.0])
            Spread(median=3.0, lower=2.0, upper=4.0, lowest=1.0)
        """
        lower, median, upper = statistics.quantiles(times, n=4, method='inclusive')
        return cls(median, lower, upper, min(times))


def time_scoring(
    sizes: Iterable[ScoringSize],
    repeats: int,
    device: torch.device,
    ratio: float = 0.5,
    channels: int = 256,
    side: int = 14,
) -> dict[ScoringSize, dict[str, Spread]]:
    """Time what PFB does in a step, for several sizes in turn.

    As in a training the centroids learn from the retained images alone.

    Args:
        sizes: Sizes to time; each is timed once, however often it is given.
        repeats: Number of rounds, at least 2.
        device: Device of the features.
        ratio: Share of the images to prune, above 0 and below 1.
        channels: Channels of the stage output that is pooled, raised to ``dim`` where they are
            fewer.
        side: Height and width of that output.

    Returns:
        For each size the spread of each of :data:`PARTS`.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_positive_int('repeats', repeats, minimum=2)
    check_positive_int('channels', channels)
    check_positive_int('side', side)
    if check_ratio('ratio', ratio) == 0:
        raise ValueError('Expected argument `ratio` to be above 0, as 0 prunes nothing, but got 0.')
    variants: dict[tuple[ScoringSize, str], Callable[[], object]] = {}
    for size in dict.fromkeys(sizes):
        for part, function in _scoring_parts(size, device, ratio, channels, side).items():
            variants[size, part] = function
    names = list(variants)
    times: dict[tuple[ScoringSize, str], list[float]] = {name: [] for name in names}
    for index in range(WARMUP + repeats):
        # In another order in each round: a system that interrupts the process at regular intervals
        # would meet the same variants every time.
        order = torch.randperm(len(names), generator=generator_for(index)).tolist()
        in_order = {names[place]: variants[names[place]] for place in order}
        for name, values in time_in_turn(in_order, 1, device, warmup=0).items():
            if index >= WARMUP:
                times[name] += values
    return {
        size: {part: Spread.of(times[size, part]) for part in PARTS}
        for size in dict.fromkeys(size for size, _ in names)
    }


def _scoring_parts(
    size: ScoringSize, device: torch.device, ratio: float, channels: int, side: int
) -> dict[str, Callable[[], object]]:
    generator = generator_for(size.batch_size, size.num_centroids, size.dim)
    shape = (size.batch_size, max(channels, size.dim), side, side)
    output = torch.rand(shape, generator=generator).to(device)
    features = torch.rand(size.batch_size, size.dim, generator=generator).to(device)
    num_retained = retained_count(0, size.batch_size, ratio)
    # A selector for each part: an update ends with the next use of its centroids, and would be
    # timed with the part that happens to come next.
    choosing, updating, stepping = (
        _filled(PFB(size.num_centroids, size.dim), size.dim, generator, device) for _ in range(3)
    )
    retained = features[:num_retained].clone()

    def step() -> None:
        selection = stepping.select(features, num_retained, generator_for(0, 0, 0))
        stepping.observe(features.index_select(0, selection.keep))

    parts = (
        lambda: pool_features(output, size.dim),
        lambda: choosing.select(features, num_retained, generator_for(0, 0, 0)),
        lambda: updating.observe(retained),
        step,
    )
    return dict(zip(PARTS, map(_without_gradients, parts), strict=True))


def _without_gradients(function: Callable[[], object]) -> Callable[[], object]:
    return torch.no_grad()(function)


def _filled(
    selector: Selector, dim: int, generator: torch.Generator, device: torch.device
) -> Selector:
    """Show a selector random images until it is ready."""
    while selector.num_images_missing:
        images = torch.rand(selector.num_images_missing, dim, generator=generator)
        selector.observe(images.to(device))
    return selector


# Several processes


def summed_bytes(num_centroids: int, dim: int) -> int:
    """Return the bytes that ranks add up in a step: for each centroid a sum and a count.

    Example:
        >>> summed_bytes(num_centroids=64, dim=128)
        33024

    Raises:
        ValueError: If a number is no positive integer.
    """
    check_positive_int('num_centroids', num_centroids)
    return BYTES_PER_NUMBER * num_centroids * (check_positive_int('dim', dim) + 1)


def sent_bytes(num_ranks: int, num_bytes: int) -> int:
    """Return what a rank sends at least when all get a sum, as in a ring: ``2 (R - 1) / R`` of it.

    Example:
        >>> [sent_bytes(ranks, 1000) for ranks in (1, 2, 4)]
        [0, 1000, 1500]

    Raises:
        ValueError: If a number is no positive integer.
    """
    check_positive_int('num_bytes', num_bytes)
    return 2 * (check_positive_int('num_ranks', num_ranks) - 1) * num_bytes // num_ranks


def time_sum_over_ranks(num_ranks: int, num_centroids: int, dim: int, repeats: int) -> Spread:
    """Time the collective operation of a step between processes of this machine, with gloo.

    In every repetition the slowest rank counts.

    Args:
        num_ranks: Number of processes ``R``, at least 2.
        num_centroids: Number of centroids ``N_C``.
        dim: Number of dimensions ``D``.
        repeats: Number of repetitions, at least 2.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_positive_int('num_ranks', num_ranks, minimum=2)
    check_positive_int('repeats', repeats, minimum=2)
    numbers = summed_bytes(num_centroids, dim) // BYTES_PER_NUMBER
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(
            _sum_over_ranks, (num_ranks, numbers, repeats, folder), nprocs=num_ranks
        )
        return Spread.of(json.loads((Path(folder) / 'times.json').read_text()))


def _sum_over_ranks(rank: int, num_ranks: int, numbers: int, repeats: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group(
        'gloo', init_method=f'file://{folder}/ranks', rank=rank, world_size=num_ranks
    )
    times = []
    for index in range(WARMUP + repeats):
        share = torch.ones(numbers)
        distributed.barrier()
        started = time.perf_counter()
        total = SumOverRanks(share).wait()
        if index >= WARMUP:
            times.append(time.perf_counter() - started)
        if not bool((total == num_ranks).all()):
            raise RuntimeError(f'The sum over {num_ranks} ranks is wrong.')
    slowest = torch.tensor(times, dtype=torch.float64)
    distributed.all_reduce(slowest, distributed.ReduceOp.MAX)
    if rank == 0:
        (Path(folder) / 'times.json').write_text(json.dumps(slowest.tolist()))
    distributed.barrier()
    distributed.destroy_process_group()


# Memory


@dataclass(frozen=True)
class SelectorMemory:
    """Memory of an in-batch selector, whatever the number of images in the data set.

    Attributes:
        name: Name of its class.
        tensor_bytes: Tensors that it holds from one step to the next.
        checkpoint_bytes: Its part of a checkpoint, with what the file format adds.
    """

    name: str
    tensor_bytes: int
    checkpoint_bytes: int


@dataclass(frozen=True)
class SamplerMemory:
    """Memory and time of an epoch-level sampler in its first pass and at the start of the second.

    The first pass of a method that chooses by losses is a full one.

    Attributes:
        name: One of :data:`SAMPLERS`.
        num_images: Number of images in the data set.
        tensor_bytes: Tensors that it holds once the second pass has begun.
        tensor_bytes_highest: Tensors that it holds at the end of the first pass, when the losses of
            all images wait to be taken in.
        checkpoint_bytes: Its part of a checkpoint, with what the file format adds.
        resident_bytes: Memory that the process has got since the sampler was built, once the second
            pass has begun: tensors, and the indices that wait to be drawn. None if the system does
            not tell, like the next two.
        first_peak_bytes: Most memory in addition while the first pass is begun.
        peak_bytes: The same for the second pass.
        first_plan_seconds: Time until the first index of the first pass.
        plan_seconds: Time until the first index of the second pass.
        observe_seconds: Time to ask for the weights of all images and to hand over their losses,
            batch by batch; 0 for a method that needs none.
    """

    name: str
    num_images: int
    tensor_bytes: int
    tensor_bytes_highest: int
    checkpoint_bytes: int
    resident_bytes: int | None
    first_peak_bytes: int | None
    peak_bytes: int | None
    first_plan_seconds: float
    plan_seconds: float
    observe_seconds: float


def tensors_held(holder: object) -> list[Tensor]:
    """Return the tensors in the attributes of an object, in containers and in further objects."""
    found: list[Tensor] = []
    seen: set[int] = set()
    waiting = [holder]
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, (type, str)):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
        else:
            waiting += getattr(value, '__dict__', {}).values()
    return found


def checkpoint_bytes(state: Mapping[str, Any]) -> int:
    """Return the bytes that a state takes in a file of ``torch.save``."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getbuffer().nbytes


def measure_selector(selector: Selector, batch_size: int, dim: int) -> SelectorMemory:
    """Let a selector choose once and learn from the choice; return the memory that it holds then.

    Args:
        selector: Selector, as it was built.
        batch_size: Number of images in the batch, at least 2.
        dim: Number of dimensions of the features, if it needs them.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_positive_int('batch_size', batch_size, minimum=2)
    check_positive_int('dim', dim)
    generator, device = generator_for(0), torch.device('cpu')
    _filled(selector, dim, generator, device)
    width = {Needs.NOTHING: 0, Needs.LOSSES: 1}.get(selector.needs, dim)
    features = torch.rand(batch_size, width, generator=generator)
    shown = features @ features.T if selector.needs is Needs.GRADIENTS else features
    selection = selector.select(shown, batch_size // 2, generator)
    if selector.needs is Needs.FEATURES:
        selector.observe(features.index_select(0, selection.keep))
    held = storage_bytes(tensors_held(selector))
    return SelectorMemory(type(selector).__name__, held, checkpoint_bytes(selector.state_dict()))


def measure_sampler(
    name: str, num_images: int, ratio: float = 0.5, batch_size: int = 256
) -> SamplerMemory:
    """Walk a whole pass, hand over a random loss of every image and begin the next pass.

    Memory is that of the whole process, as the indices of a pass are no tensors. What a process has
    used before it does not always give back, so call this in a fresh one: :func:`in_fresh_process`.

    Args:
        name: One of :data:`SAMPLERS`.
        num_images: Number of images in the data set.
        ratio: Share of the images to prune, in [0, 1).
        batch_size: Number of images whose losses are handed over at once.

    Raises:
        ValueError: If an argument is out of range.
    """
    check_choice('name', name, tuple(SAMPLERS))
    check_positive_int('num_images', num_images)
    check_positive_int('batch_size', batch_size)
    _two_passes(name, min(num_images, REHEARSED_IMAGES), ratio, batch_size)
    return _two_passes(name, num_images, ratio, batch_size)


def in_fresh_process(function: Callable[..., Result], *arguments: Any) -> Result:
    """Return what a function of a module returns in a process that has done nothing before.

    Raises:
        RuntimeError: If the process ends without a result, as for want of memory.
    """
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool:
            raise RuntimeError(
                f'Expected a result of {function.__name__}{arguments}, but its process was ended; '
                'it may have run out of memory.'
            ) from None


def _two_passes(name: str, num_images: int, ratio: float, batch_size: int) -> SamplerMemory:
    kind, settings = SAMPLERS[name]
    before = _resident_bytes()
    sampler = kind(range(num_images), ratio=ratio, seed=0, **settings)
    sampler.set_run_length(PASSES)

    def begin(pass_index: int) -> Iterable[int]:
        sampler.set_epoch(pass_index)
        return iter(sampler)

    indices, first_plan_seconds, first_peak_bytes = _followed(lambda: begin(0))
    generator = generator_for(0)
    observe_seconds = 0.0
    position = 0
    for batch in iter(lambda: list(islice(indices, batch_size)), []):
        images, losses = torch.tensor(batch), torch.rand(len(batch), generator=generator)
        if sampler.wants_losses:
            started = time.perf_counter()
            sampler.weights_at(position, images)
            sampler.observe(images, losses)
            observe_seconds += time.perf_counter() - started
        position += len(batch)
    highest = storage_bytes(tensors_held(sampler))
    # The iterator of a pass is gone when a loop begins the next one.
    del indices
    indices, plan_seconds, peak_bytes = _followed(lambda: begin(1))
    after = _resident_bytes()
    return SamplerMemory(
        name=name,
        num_images=num_images,
        tensor_bytes=storage_bytes(tensors_held(sampler)),
        tensor_bytes_highest=highest,
        checkpoint_bytes=checkpoint_bytes(sampler.state_dict()),
        resident_bytes=None if before is None or after is None else max(after - before, 0),
        first_peak_bytes=first_peak_bytes,
        peak_bytes=peak_bytes,
        first_plan_seconds=first_plan_seconds,
        plan_seconds=plan_seconds,
        observe_seconds=observe_seconds,
    )


def _followed(function: Callable[[], Result]) -> tuple[Result, float, int | None]:
    """Return result, seconds and the most memory that was resident in addition, in bytes."""
    before = _resident_bytes()
    watched = _forget_peak()
    started = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - started
    peak = _status_bytes('VmHWM') if watched else None
    return result, seconds, None if before is None or peak is None else max(peak - before, 0)


def _resident_bytes() -> int | None:
    """Return the memory that this process has in use, None where the system does not tell."""
    # Freed memory that the C library keeps for later would count as used, and what fills it again
    # as nothing. Only the one of GNU has this function.
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        pass
    return _status_bytes('VmRSS')


def _status_bytes(key: str) -> int | None:
    try:
        status = Path('/proc/self/status').read_text()
    except OSError:
        return None
    found = re.search(rf'^{key}:\s+(\d+) kB', status, re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def _forget_peak() -> bool:
    """Let the system count the peak of this process from now on; return whether it does."""
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        return False
    return True
