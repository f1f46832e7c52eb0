"""The table of a comparison: arithmetic on recorded runs, and its printed forms."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import mean, stdev


@dataclass(frozen=True)
class RunResult:
    """The outcome of one run.

    Attributes:
        method: Label of the method.
        seed: Its seed.
        metric: Result of the last validation; None if the run has no result.
        images_trained: Images whose loss was trained on, in all iterations.
        images_loaded: Images that were loaded, pruned ones included.
        flops: Floating point operations of the training; None if they cannot be counted.
        seconds: Duration of the training, without validation.
        peak_memory_bytes: Largest memory in use.
        failure: What went wrong; None if nothing did.
        unfinished: How far a run is that has neither finished nor failed; None otherwise.
    """

    method: str
    seed: int
    metric: float | None = None
    images_trained: int = 0
    images_loaded: int = 0
    flops: float | None = None
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    failure: str | None = None
    unfinished: str | None = None


@dataclass(frozen=True)
class MethodRow:
    """What the runs of one method came to; means over the seeds that finished.

    Attributes:
        method: Label of the method.
        caption: Its name for people.
        num_runs: Number of runs that finished.
        failures: What went wrong in those that failed.
        unfinished: How far those are that have neither finished nor failed.
        metric: Mean of the metric; None if no run finished.
        deviation: Standard deviation of the metric over the seeds; None below two seeds.
        images_trained: Images trained on.
        images_loaded: Images loaded.
        flops: Floating point operations of the training.
        seconds: Duration of the training.
        images_share: ``images_trained`` as a share of those of the full training.
        flops_share: ``flops`` as a share of those of the full training.
        time_saved: Share of the duration of the full training that is saved.
        peak_memory_bytes: Largest memory in use.
    """

    method: str
    caption: str
    num_runs: int
    failures: tuple[str, ...]
    unfinished: tuple[str, ...] = ()
    metric: float | None = None
    deviation: float | None = None
    images_trained: float | None = None
    images_loaded: float | None = None
    flops: float | None = None
    seconds: float | None = None
    images_share: float | None = None
    flops_share: float | None = None
    time_saved: float | None = None
    peak_memory_bytes: float | None = None


def training_flops(
    record: dict[str, int], full: float, pruned: float, scoring: float, ratio: float
) -> float:
    """Return the floating point operations of a run.

    The cost of a pruned step is a straight line in the number of images that it retains; the line
    goes through the step that was counted.

    Args:
        record: ``images_loaded`` of the run, and ``images_seen_while_pruning`` and
            ``images_kept_while_pruning`` of its pruned iterations.
        full: Operations per image of a step that prunes nothing.
        pruned: Operations per image of the whole batch of a step that prunes ``ratio``.
        scoring: Those of them that are a pass of its own in which images are scored.
        ratio: Share of the images that the counted step prunes.

    Example:
        >>> record = dict(images_loaded=10, images_seen_while_pruning=8,
        ...               images_kept_while_pruning=4)
        >>> training_flops(record, full=3.0, pruned=2.0, scoring=0.0, ratio=0.5)
        22.0
    """
    seen, kept = record['images_seen_while_pruning'], record['images_kept_while_pruning']
    whole = full * (record['images_loaded'] - seen)
    if not seen:
        return whole
    saved_per_image = (full + scoring - pruned) / ratio
    return whole + (full + scoring) * seen - saved_per_image * (seen - kept)


def summarise(
    results: Sequence[RunResult], captions: dict[str, str], reference: str = 'full'
) -> list[MethodRow]:
    """Return one row per method, in the order of ``captions``.

    Args:
        results: Outcomes of runs.
        captions: Label of each method and its name for people.
        reference: Label of the method to whose cost the others are compared.
    """
    rows = {label: _row(label, caption, results) for label, caption in captions.items()}
    base = rows.get(reference)
    return [_compared(row, base) for row in rows.values()]


def as_markdown(rows: Sequence[MethodRow], metric: str, memory: str) -> str:
    """Return the table in Markdown.

    Args:
        rows: One row per method.
        metric: Name of the metric.
        memory: Whose memory was measured, ``'GPU'`` or ``'process'``.
    """
    titles = ['method', 'runs', metric, 'images trained on', 'training FLOPs', 'training time',
              'time saved', f'peak memory ({memory})']
    lines = [f'| {" | ".join(titles)} |', f'|---|{"---:|" * (len(titles) - 1)}']
    for row in rows:
        failed = f', {len(row.failures)} failed' if row.failures else ''
        unfinished = f', {len(row.unfinished)} not finished' if row.unfinished else ''
        cells = [
            row.caption,
            f'{row.num_runs}{failed}{unfinished}',
            _with_deviation(row),
            _with_share(row.images_trained, row.images_share, '{:,.0f}'),
            _with_share(row.flops, row.flops_share, '{:.3g}'),
            _text(row.seconds, _duration),
            _text(row.time_saved, '{:.1%}'.format),
            _text(row.peak_memory_bytes, lambda value: f'{value / 2**30:.2f} GiB'),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    lines += ['', 'Times are those of the runs and of whatever else the machine did meanwhile.']
    for title, kind in (('Failed', 'failures'), ('Not finished', 'unfinished')):
        notes = [f'* {row.caption}: {note}' for row in rows for note in getattr(row, kind)]
        if notes:
            lines += ['', f'{title}:', '', *notes]
    return '\n'.join(lines) + '\n'


def as_csv(table: Sequence[MethodRow] | Sequence[RunResult], metric: str) -> str:
    """Return one line per method or per run, those without a result included.

    Args:
        table: Rows or results.
        metric: Name of the metric, which becomes the name of its column.
    """
    text = io.StringIO()
    names = [field.name for field in fields(table[0])]
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([metric if name == 'metric' else name for name in names])
    for line in table:
        values = (getattr(line, name) for name in names)
        writer.writerow([
            '; '.join(value) if isinstance(value, tuple) else value for value in values
        ])
    return text.getvalue()


def _row(label: str, caption: str, results: Sequence[RunResult]) -> MethodRow:
    own = [result for result in results if result.method == label]
    done = [one for one in own if one.failure is None and one.unfinished is None]
    failures = tuple(f'seed {one.seed}, {one.failure}' for one in own if one.failure is not None)
    unfinished = tuple(
        f'seed {one.seed}, {one.unfinished}' for one in own if one.unfinished is not None
    )
    if not done:
        return MethodRow(label, caption, 0, failures, unfinished)
    metrics = [result.metric for result in done if result.metric is not None]
    flops = [result.flops for result in done if result.flops is not None]
    return MethodRow(
        label,
        caption,
        len(done),
        failures,
        unfinished,
        metric=mean(metrics) if metrics else None,
        deviation=stdev(metrics) if len(metrics) > 1 else None,
        images_trained=mean(result.images_trained for result in done),
        images_loaded=mean(result.images_loaded for result in done),
        flops=mean(flops) if flops else None,
        seconds=mean(result.seconds for result in done),
        peak_memory_bytes=max(result.peak_memory_bytes for result in done),
    )


def _compared(row: MethodRow, base: MethodRow | None) -> MethodRow:
    if base is None or not base.num_runs or not row.num_runs:
        return row
    share = _share(row.seconds, base.seconds)
    return replace(
        row,
        images_share=_share(row.images_trained, base.images_trained),
        flops_share=_share(row.flops, base.flops),
        time_saved=None if share is None else 1 - share,
    )


def _share(value: float | None, base: float | None) -> float | None:
    return None if value is None or not base else value / base


def _text(value: float | None, form: Callable[[float], str]) -> str:
    return '-' if value is None else form(value)


def _with_deviation(row: MethodRow) -> str:
    if row.metric is None:
        return 'failed' if row.failures else 'not finished'
    return f'{row.metric:.2f}' + ('' if row.deviation is None else f' ± {row.deviation:.2f}')


def _with_share(value: float | None, share: float | None, form: str) -> str:
    if value is None:
        return '-'
    return form.format(value) + ('' if share is None else f' ({share:.0%})')


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02d} min' if hours else f'{minutes} min {seconds:02d} s'
