import copy
import pickle

import pytest
import torch
from torch import distributed

from mmpfb.core import DensityEstimator
from mmpfb.core.ranks import SumOverRanks, gather_rows, num_ranks, rank
from tests.ranks import run_on_ranks

# Rows of the two ranks in each step: the first 10 images become centroids, in the middle of a step
# of which both ranks have rows; then come unequal numbers, none, and rows that are not usable.
STEPS = [(3, 2), (1, 0), (3, 4), (5, 5), (0, 4), (4, 0), (4, 4), (6, 1), (5, 5)]


def batches(step):
    """The features of all ranks in one step."""
    generator = torch.Generator().manual_seed(step)
    rows = [3 + torch.randn(count, 4, generator=generator) for count in STEPS[step]]
    if step in (0, 6):
        rows[1][0, 2] = float('nan')
    return rows


def follow_and_exchange():
    return follow(), exchange()


def follow():
    """What one rank holds after every step."""
    states = []
    estimator = DensityEstimator(num_centroids=10, dim=4)
    for step in range(len(STEPS)):
        estimator.update(batches(step)[distributed.get_rank()])
        if step == 5:
            # With the sums of the ranks still under way.
            estimator = pickle.loads(pickle.dumps(copy.deepcopy(estimator)))
        ready = estimator.ready
        if step == 6:
            # Only one rank looks at its state, as when it alone saves a checkpoint.
            if distributed.get_rank() == 0:
                estimator.state_dict()
            continue
        states.append((ready, estimator.state_dict()))
    return states


def exchange():
    number = distributed.get_rank()
    rows = torch.full((2 * number, 2), 7.0)
    total = SumOverRanks(torch.tensor([1.0, 3.0 * number]))
    return (
        rank(),
        num_ranks(),
        [one.tolist() for one in gather_rows(rows, capacity=5)],
        total.wait().tolist(),
        total.wait().tolist(),
    )


@pytest.fixture(scope='module')
def two_ranks():
    return run_on_ranks(follow_and_exchange, 2)


def test_all_ranks_hold_the_same_bits(two_ranks):
    (left, _), (right, _) = two_ranks
    for (left_ready, left_state), (right_ready, right_state) in zip(left, right, strict=True):
        assert left_ready == right_ready
        assert left_state['num_collected'] == right_state['num_collected']
        assert torch.equal(left_state['centroids'], right_state['centroids'])
        assert torch.equal(left_state['counts'], right_state['counts'])


def test_ranks_learn_what_one_process_learns_from_all_their_images(two_ranks):
    whole = DensityEstimator(num_centroids=10, dim=4)
    expected = []
    for step in range(len(STEPS)):
        whole.update(torch.cat(batches(step)))
        if step != 6:
            expected.append((whole.ready, whole.state_dict()))
    assert [ready for ready, _ in expected] == [False, False] + [True] * 6
    for (ready, state), (expected_ready, expected_state) in zip(
        two_ranks[0][0], expected, strict=True
    ):
        assert ready == expected_ready
        assert state['num_collected'] == expected_state['num_collected']
        assert torch.equal(state['counts'], expected_state['counts'])
        torch.testing.assert_close(state['centroids'], expected_state['centroids'])


def test_one_process_is_its_own_only_rank():
    assert (rank(), num_ranks()) == (0, 1)
    total = SumOverRanks(torch.ones(2))
    assert pickle.loads(pickle.dumps(total)).wait().tolist() == [1, 1]
    (rows,) = gather_rows(torch.ones(2, 3), capacity=4)
    assert rows.tolist() == torch.ones(2, 3).tolist()


def test_more_rows_than_there_is_room_for_are_refused():
    with pytest.raises(ValueError, match='`rows` to hold at most 1 rows, but got 2'):
        gather_rows(torch.ones(2, 3), capacity=1)


def test_ranks_exchange_rows_and_sums(two_ranks):
    for number, (_, seen) in enumerate(two_ranks):
        assert seen == (number, 2, [[], [[7.0, 7.0]] * 2], [2, 3], [2, 3])
