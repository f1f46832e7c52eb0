"""The table of a comparison, by hand."""

import csv
import io

import pytest

from mmpfb.analysis.comparison import (
    RunResult,
    as_csv,
    as_markdown,
    summarise,
    training_flops,
)

GIB = 2**30


def result(method, seed, metric, images, flops, seconds, memory=1.0):
    return RunResult(
        method, seed, metric=metric, images_trained=images, images_loaded=1000, flops=flops,
        seconds=seconds, peak_memory_bytes=int(memory * GIB),
    )


RESULTS = [
    result('full', 0, 60.0, 1000, 4e12, 4000.0),
    result('full', 1, 64.0, 1000, 4e12, 5000.0, memory=2.0),
    result('pfb', 0, 61.0, 600, 3e12, 3000.0),
    RunResult('pfb', 1, failure='exit status 1: out of memory'),
    RunResult('pfb', 2, unfinished='iteration 30 of 100'),
    RunResult('ucb', 0, failure='no mIoU'),
    RunResult('divbs', 0, unfinished='iteration 0 of 100'),
    result('short', 0, 58.5, 600, None, 50.4),
]
CAPTIONS = {'ucb': 'UCB', 'pfb': 'PFB', 'full': 'Full training', 'short': 'Shorter schedule',
            'divbs': 'DivBS'}


def rows():
    return {row.method: row for row in summarise(RESULTS, CAPTIONS)}


# ---- Operations ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('kept', 'expected'),
    [
        # 20 images outside and 40 inside of the window; a whole image costs 10.
        # Half of a batch of two: before the cut 2 * 4, behind it 1 * 6, so 7 per image.
        (20, 20 * 10 + 40 * 7),
        (40, 60 * 10),
        (10, 20 * 10 + 40 * 4 + 10 * 6),
    ],
)
def test_operations_of_a_cut(kept, expected):
    record = dict(images_loaded=60, images_seen_while_pruning=40, images_kept_while_pruning=kept)
    assert training_flops(record, full=10, pruned=7, scoring=0, ratio=0.5) == expected


@pytest.mark.parametrize('kept', [10, 20, 40])
def test_operations_with_a_pass_that_scores(kept):
    # All are scored for 3, those that are retained are trained on for 10; a quarter is pruned.
    record = dict(images_loaded=60, images_seen_while_pruning=40, images_kept_while_pruning=kept)
    flops = training_flops(record, full=10, pruned=3 + 7.5, scoring=3, ratio=0.25)
    assert flops == 20 * 10 + 40 * 3 + kept * 10


def test_operations_of_a_run_that_never_pruned():
    record = dict(images_loaded=60, images_seen_while_pruning=0, images_kept_while_pruning=0)
    assert training_flops(record, full=10, pruned=12, scoring=3, ratio=0.5) == 600


# ---- Rows ------------------------------------------------------------------------------------


def test_rows_are_means_over_the_runs_that_finished():
    found = rows()
    assert list(found) == list(CAPTIONS)
    full, pfb = found['full'], found['pfb']
    assert (full.num_runs, full.metric, full.seconds) == (2, 62.0, 4500.0)
    # Of the sample: sqrt((2 ** 2 + 2 ** 2) / 1).
    assert full.deviation == pytest.approx(8**0.5)
    assert (full.images_share, full.flops_share, full.time_saved) == (1, 1, 0)
    assert full.peak_memory_bytes == 2 * GIB
    assert (pfb.num_runs, pfb.metric, pfb.deviation) == (1, 61.0, None)
    assert (pfb.images_share, pfb.flops_share) == (0.6, 0.75)
    assert pfb.time_saved == pytest.approx(1 / 3)
    assert pfb.failures == ('seed 1, exit status 1: out of memory',)
    assert pfb.unfinished == ('seed 2, iteration 30 of 100',)


def test_a_method_without_a_result_keeps_its_row():
    ucb, divbs = rows()['ucb'], rows()['divbs']
    assert (ucb.num_runs, ucb.failures, ucb.metric, ucb.time_saved) == (
        0, ('seed 0, no mIoU',), None, None
    )
    assert (divbs.num_runs, divbs.failures, divbs.unfinished) == (
        0, (), ('seed 0, iteration 0 of 100',)
    )


@pytest.mark.parametrize('failed', [True, False])
def test_without_a_full_training_there_are_no_shares(failed):
    results = [RunResult('full', 0, failure='x')] * failed + RESULTS[2:3]
    row = summarise(results, {**({'full': 'Full'} if failed else {}), 'pfb': 'PFB'})[-1]
    assert (row.metric, row.images_share, row.time_saved) == (61.0, None, None)


# ---- Printed ---------------------------------------------------------------------------------


def test_markdown():
    table = as_markdown(summarise(RESULTS, CAPTIONS), 'mIoU', 'GPU')
    # Shares of 3e12 in 4e12, of 600 in 1000, and 3000 of 4500 seconds.
    assert table == """\
| method | runs | mIoU | images trained on | training FLOPs | training time | time saved | \
peak memory (GPU) |
|---|---:|---:|---:|---:|---:|---:|---:|
| UCB | 0, 1 failed | failed | - | - | - | - | - |
| PFB | 1, 1 failed, 1 not finished | 61.00 | 600 (60%) | 3e+12 (75%) | 50 min 00 s | 33.3% | \
1.00 GiB |
| Full training | 2 | 62.00 ± 2.83 | 1,000 (100%) | 4e+12 (100%) | 1 h 15 min | 0.0% | 2.00 GiB |
| Shorter schedule | 1 | 58.50 | 600 (60%) | - | 0 min 50 s | 98.9% | 1.00 GiB |
| DivBS | 0, 1 not finished | not finished | - | - | - | - | - |

Times are those of the runs and of whatever else the machine did meanwhile.

Failed:

* UCB: seed 0, no mIoU
* PFB: seed 1, exit status 1: out of memory

Not finished:

* PFB: seed 2, iteration 30 of 100
* DivBS: seed 0, iteration 0 of 100
"""


def test_markdown_without_failures_has_no_list_of_them():
    assert as_markdown(summarise(RESULTS[:2], {'full': 'Full'}), 'mIoU', 'GPU').count('\n') == 5


def test_csv_of_runs_and_of_methods():
    runs = list(csv.DictReader(io.StringIO(as_csv(RESULTS, 'mIoU'))))
    assert len(runs) == len(RESULTS)
    assert [run['mIoU'] for run in runs] == ['60.0', '64.0', '61.0', '', '', '', '', '58.5']
    assert runs[3]['failure'] == 'exit status 1: out of memory'
    assert runs[4]['unfinished'] == 'iteration 30 of 100'

    methods = {
        line['method']: line
        for line in csv.DictReader(io.StringIO(as_csv(summarise(RESULTS, CAPTIONS), 'mIoU')))
    }
    assert list(methods) == list(CAPTIONS)
    assert float(methods['full']['deviation']) == pytest.approx(8**0.5)
    assert methods['full']['mIoU'] == '62.0'
    assert float(methods['pfb']['time_saved']) == pytest.approx(1 / 3)
    assert methods['ucb']['failures'] == 'seed 0, no mIoU'
