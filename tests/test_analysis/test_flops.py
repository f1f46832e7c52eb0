"""Counted operations, against arithmetic that is written out."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmpfb.analysis.flops import (
    FlopCounter,
    StepFlops,
    WholeBatch,
    count_pruned_step,
    count_step,
    count_up_to,
    whole_batch,
)
from mmpfb.core.gate import BatchGate
from mmpfb.core.scoring_pass import downscale, output_at, traceless

# One image of 3x8x8 through a convolution (3 to 4 channels, 3x3, same size) and one of stride 2
# (4 to 5 channels, 3x3, 4x4 positions); a multiplication with its addition counts as two.
FIRST = 2 * (8 * 8) * (3 * 3 * 3) * 4
SECOND = 2 * (4 * 4) * (3 * 3 * 4) * 5
BATCH = WholeBatch(size=10, num_retained=7)


def two_layers():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2, padding=1)
    ).to('meta')


def images(size=BATCH.size, side=8):
    return torch.empty(size, 3, side, side, device='meta')


def test_a_step_of_two_layers_by_hand():
    net = two_layers()
    # The first layer needs gradients of its weights alone, the second those of its input as well.
    assert (FIRST, SECOND) == (13_824, 5_760)
    assert count_step(lambda: net(images())) == StepFlops(
        scoring=0, forward=10 * (13_824 + 5_760), backward=10 * (13_824 + 2 * 5_760)
    )


def test_a_step_that_reuses_features_by_hand():
    net = two_layers()
    gate = BatchGate(net[1], net)

    def step(decide):
        with gate.open(10, decide):
            return net(images())

    # Ten images before the cut, seven behind it.
    assert count_pruned_step(step, BATCH, scores_apart=False) == StepFlops(
        scoring=0, forward=10 * FIRST + 7 * SECOND, backward=10 * FIRST + 2 * 7 * SECOND
    )


def test_a_step_that_scores_at_half_size_by_hand():
    net = two_layers()
    model = nn.Sequential(net)

    def step(decide):
        # The pass ends inside of a module, which a counter with global hooks would not allow.
        with traceless(model, torch.device('meta')):
            output = output_at(net[0], lambda: model(downscale(images(), 0.5)), [net])
        return model(images().index_select(0, decide(output)))

    # A quarter of the positions of ten images, then a step of seven.
    assert count_pruned_step(step, BATCH, scores_apart=True) == StepFlops(
        scoring=10 * FIRST / 4, forward=7 * (FIRST + SECOND), backward=7 * (FIRST + 2 * SECOND)
    )


def test_a_step_that_retains_the_whole_batch():
    net = two_layers()
    answers = []

    def step(decide):
        answers.append(decide(images(2)))
        return net(images(2))

    flops = count_pruned_step(step, WholeBatch(2, 2), scores_apart=True)
    assert answers == [None]
    assert flops == count_step(lambda: net(images(2)))


def test_parts_of_a_step():
    flops = StepFlops(scoring=2, forward=4, backward=6)
    assert flops.total == 12
    assert flops.per_image(2) == StepFlops(scoring=1, forward=2, backward=3)


def test_all_outputs_are_trained():
    net, other = two_layers(), nn.Linear(5, 2, device='meta')

    def forward():
        outputs = net(images(1))
        return {'list': [outputs, 'no tensor'], 'other': (other(outputs.mean((2, 3))).detach(),)}

    # What is detached has a forward pass alone: 2 * 5 * 2 operations.
    flops = count_step(forward)
    assert (flops.forward, flops.backward) == (FIRST + SECOND + 20, FIRST + 2 * SECOND)


def test_nothing_to_train():
    with pytest.raises(ValueError, match='outputs that require gradients, but got none'):
        count_step(lambda: two_layers()(images()).detach())


def test_up_to_places():
    net = two_layers()
    places = {'first': net[0], 'second': net[2], 'unused': nn.Linear(2, 2)}
    assert count_up_to(lambda: net(images()), places, 10) == {
        'first': StepFlops(0, 10 * FIRST, 10 * FIRST),
        'second': StepFlops(0, 10 * (FIRST + SECOND), 10 * (FIRST + 2 * SECOND)),
    }
    assert not any(module._forward_hooks for module in net.modules())


def test_up_to_a_frozen_place():
    net = two_layers()
    net[0].requires_grad_(False)
    assert count_up_to(lambda: net(images()), {'first': net[0]}, 10) == {
        'first': StepFlops(0, 10 * FIRST, 0)
    }


@pytest.mark.parametrize(
    'module', [nn.Flatten(0, 1), nn.Unflatten(1, (4, 1, 1)), nn.Threshold(0, 0)]
)
def test_places_without_features_of_each_image_are_left_out(module):
    net = nn.Sequential(two_layers()[0], module)
    found = count_up_to(lambda: net(images()), {'place': net[1]}, 10)
    assert list(found) == (['place'] if isinstance(module, nn.Threshold) else [])


@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('kind', [nn.Conv2d, nn.ConvTranspose2d])
def test_a_backward_pass_of_a_convolution_costs_two_forward_passes(kind, groups):
    layer = kind(4, 8, 3, stride=2, groups=groups, device='meta')
    image = torch.empty(2, 4, 9, 9, device='meta', requires_grad=True)
    flops = count_step(lambda: layer(image))
    positions = 9 * 9 if kind is nn.ConvTranspose2d else 4 * 4
    assert flops.forward == 2 * 2 * positions * (3 * 3) * 4 * 8 / groups
    assert flops.backward == 2 * flops.forward


@pytest.mark.parametrize('kind', [nn.Conv2d, nn.ConvTranspose2d])
def test_without_groups_it_counts_what_the_counter_of_pytorch_counts(kind):
    net = nn.Sequential(kind(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.LazyLinear(3))
    image = torch.rand(2, 3, 16, 16)
    net(image)
    with FlopCounterMode(display=False) as expected:
        net(image).sum().backward()
    flops = count_step(lambda: net(image))
    assert flops.total == expected.get_total_flops() > 0


def test_the_counter_leaves_no_hooks():
    hooks = nn.modules.module
    with FlopCounter():
        assert not hooks._global_forward_hooks
        assert not hooks._global_forward_pre_hooks
    assert not hooks._global_forward_hooks


@pytest.mark.parametrize(
    ('ratio', 'min_keep', 'expected'),
    [
        (0.3, 1, (10, 7)),
        (0.5, 1, (2, 1)),
        (0.5, 2, (4, 2)),
        (0.7, 2, (10, 3)),
        (0.9, 4, (40, 4)),
        (0, 1, (1, 1)),
        (0, 2, (2, 2)),
        (1 / 3, 1, (3, 2)),
        (0.123, 1, (1000, 877)),
        # No fraction with a small denominator: rounded, but never to 0 retained images.
        (0.12345, 1, (964, 845)),
        (0.999999, 1, (1000, 1)),
        (0.000001, 1, (1, 1)),
    ],
)
def test_whole_batches(ratio, min_keep, expected):
    batch = whole_batch(ratio, min_keep)
    assert tuple(batch) == expected
    assert batch.ratio == pytest.approx(ratio, abs=1e-3)


def test_the_ratio_of_a_whole_batch_is_exact():
    assert [whole_batch(ratio).ratio for ratio in (0.3, 0.4, 0.7)] == [0.3, 0.4, 0.7]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((1.0,), r'`ratio` to be in \[0, 1\), but got 1.0'),
        ((0.5, 0), '`min_keep` to be an integer of at least 1, but got 0'),
    ],
)
def test_wrong_batches(arguments, message):
    with pytest.raises(ValueError, match=message):
        whole_batch(*arguments)
