import copy
import pickle
from collections import namedtuple
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmpfb.core.gate import BatchGate, take_rows
from mmpfb.errors import LocationError

KEEP = torch.tensor([0, 3])
Pair = namedtuple('Pair', ['tokens', 'size'])


class Net(nn.Module):
    """Three stages whose outputs are returned together, as a backbone does."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Linear(3, 4)
        self.stage2 = nn.Linear(4, 5)
        self.stage3 = nn.Linear(5, 6)
        self.rows_in_stage3 = 0

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        first = self.stage1(x)
        second = self.stage2(first.relu())
        self.rows_in_stage3 = len(second)
        return first, second, self.stage3(second.relu())


class Returning(nn.Module):
    """A stage that returns what it is told to, whatever comes in."""

    def __init__(self, output) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: torch.Tensor):
        return self.output


def make_net() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


def images(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1))


def keep_some(output) -> torch.Tensor:
    return KEEP


def rows_passed(net: nn.Module, gate: BatchGate, count: int = 5) -> list[int]:
    with gate.open(count, keep_some):
        return [len(output) for output in net(images(count))]


def test_a_closed_gate_changes_nothing():
    net, stock = make_net(), make_net()
    BatchGate(net.stage2, net)
    for got, expected in zip(net(images()), stock(images()), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize('stage', ['stage1', 'stage2', 'stage3'])
def test_all_outputs_hold_the_retained_images_wherever_the_batch_is_cut(stage):
    net, stock = make_net(), make_net()
    gate = BatchGate(getattr(net, stage), net)
    with gate.open(5, keep_some):
        outputs = net(images())
    for got, expected in zip(outputs, stock(images()), strict=True):
        torch.testing.assert_close(got, expected[KEEP])


def test_what_follows_the_cut_computes_retained_images_only():
    net = make_net()
    gate = BatchGate(net.stage2, net)
    rows_passed(net, gate)
    assert net.rows_in_stage3 == 2


def test_the_callback_sees_the_whole_output_of_the_submodule():
    net, stock = make_net(), make_net()
    gate = BatchGate(net.stage2, net)
    seen = []
    with gate.open(5, lambda output: seen.append(output) or KEEP):
        net(images())
    assert len(seen) == 1
    assert torch.equal(seen[0], stock(images())[1])


def test_gradients_are_those_of_the_retained_images_and_zero_for_the_pruned():
    net, stock = make_net(), make_net()
    gate = BatchGate(net.stage2, net)
    x = images().requires_grad_()
    with gate.open(5, keep_some):
        sum(output.square().sum() for output in net(x)).backward()
    expected = images()[KEEP].requires_grad_()
    sum(output.square().sum() for output in stock(expected)).backward()
    torch.testing.assert_close(x.grad[KEEP], expected.grad)
    assert (x.grad[[1, 2, 4]] == 0).all()
    for got, parameter in zip(net.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(got.grad, parameter.grad)


def test_none_retains_the_whole_batch_untouched():
    net, stock = make_net(), make_net()
    gate = BatchGate(net.stage2, net)
    with gate.open(5, lambda output: None):
        outputs = net(images())
    for got, expected in zip(outputs, stock(images()), strict=True):
        assert torch.equal(got, expected)


def test_naming_all_images_retains_the_whole_batch():
    net, stock = make_net(), make_net()
    gate = BatchGate(net.stage2, net)
    with gate.open(5, lambda output: torch.arange(5)):
        outputs = net(images())
    for got, expected in zip(outputs, stock(images()), strict=True):
        assert torch.equal(got, expected)


def test_the_callback_is_asked_once_per_opening():
    net = make_net()
    gate = BatchGate(net.stage2, net)
    answers = [torch.tensor([1]), torch.tensor([0, 2, 4])]
    asked = []

    def decide(output):
        asked.append(len(output))
        return answers[len(asked) - 1]

    with gate.open(5, decide):
        first = net(images())
        again = net(images())
    with gate.open(5, decide):
        second = net(images())
    assert asked == [5, 5]
    assert [len(output) for output in first] == [1, 1, 1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert [len(output) for output in second] == [3, 3, 3]


def test_the_decision_of_one_opening_is_gone_in_the_next():
    net = make_net()
    gate = BatchGate(net.stage2, net)
    rows_passed(net, gate)
    with gate.open(5, lambda output: None):
        assert [len(output) for output in net(images())] == [5, 5, 5]


def test_batches_of_changing_sizes_are_cut():
    net = make_net()
    gate = BatchGate(net.stage2, net)
    assert rows_passed(net, gate, 7) == [2, 2, 2]
    assert rows_passed(net, gate, 4) == [2, 2, 2]


def test_a_submodule_that_does_not_run_is_an_error():
    net = make_net()
    gate = BatchGate(net.stage2, net)
    with pytest.raises(LocationError, match='did not run in this forward pass; choose another'):
        with gate.open(5, keep_some):
            net.stage1(images())
    # And it does not stay open.
    assert [len(output) for output in net(images())] == [5, 5, 5]


def test_an_error_inside_closes_the_gate_and_is_not_replaced():
    net = make_net()
    gate = BatchGate(net.stage2, net)
    for fail_before_the_cut in (True, False):
        with pytest.raises(KeyError, match='inside'):
            with gate.open(5, keep_some):
                if not fail_before_the_cut:
                    net(images())
                raise KeyError('inside')
        assert [len(output) for output in net(images())] == [5, 5, 5]


def test_an_error_of_the_callback_closes_the_gate():
    net = make_net()
    gate = BatchGate(net.stage2, net)

    def decide(output):
        raise ArithmeticError('no decision')

    with pytest.raises(ArithmeticError, match='no decision'):
        with gate.open(5, decide):
            net(images())
    assert [len(output) for output in net(images())] == [5, 5, 5]


def test_a_removed_gate_leaves_no_hook():
    net = make_net()
    gate = BatchGate(net.stage2, net)
    gate.remove()
    assert not any(module._forward_hooks for module in net.modules())


@pytest.mark.parametrize(
    'duplicate', [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_a_copied_model_is_cut_by_its_own_gate(duplicate):
    net = make_net()
    net.gate = BatchGate(net.stage2, net)
    twin = duplicate(net)
    assert twin.gate is not net.gate
    assert rows_passed(twin, twin.gate) == [2, 2, 2]
    assert rows_passed(net, net.gate) == [2, 2, 2]
    # The gate of one model is deaf to the other model.
    with net.gate.open(5, keep_some):
        assert [len(output) for output in twin(images())] == [5, 5, 5]
        net(images())
    with twin.gate.open(5, keep_some):
        assert [len(output) for output in net(images())] == [5, 5, 5]
        twin(images())
    twin.gate.remove()
    assert not any(module._forward_hooks for module in twin.modules())
    assert rows_passed(net, net.gate) == [2, 2, 2]


def test_a_gate_adds_nothing_to_the_state_dict():
    net = make_net()
    net.gate = BatchGate(net.stage2, net)
    assert list(net.state_dict()) == list(make_net().state_dict())


def test_a_stage_that_returns_tokens_and_their_size_is_cut():
    tokens = torch.arange(20.0).view(5, 2, 2)
    stage = Returning((tokens, (5, 5)))
    gate = BatchGate(stage, nn.Sequential(stage))
    with gate.open(5, keep_some):
        output = stage(images())
    assert output[1] == (5, 5)
    assert torch.equal(output[0], tokens[KEEP])


# take_rows


def rows(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.tensor(shape).prod())).view(shape)


def test_a_tensor_of_the_whole_batch_is_indexed():
    x = rows(5, 2, 3)
    assert torch.equal(take_rows(x, KEEP, 5), x[KEEP])


@pytest.mark.parametrize('x', [torch.tensor(5.0), torch.ones(2, 5), torch.ones(6)])
def test_a_tensor_with_another_first_axis_is_passed_through(x):
    assert take_rows(x, KEEP, 5) is x


def test_dicts_lists_and_tuples_are_followed_to_any_depth():
    x = rows(5, 2)
    got = take_rows({'a': [x, (x, 5)], 'b': {'c': x, 'd': None}}, KEEP, 5)
    assert list(got) == ['a', 'b']
    assert isinstance(got['a'], list) and isinstance(got['a'][1], tuple)
    assert got['a'][1][1] == 5 and got['b']['d'] is None
    for tensor in (got['a'][0], got['a'][1][0], got['b']['c']):
        assert torch.equal(tensor, x[KEEP])


def test_a_namedtuple_keeps_its_type():
    got = take_rows(Pair(rows(5, 2), (5, 5)), KEEP, 5)
    assert type(got) is Pair
    assert torch.equal(got.tokens, rows(5, 2)[KEEP])
    assert got.size == (5, 5)


def test_the_input_is_not_changed():
    x, structure = rows(5, 2), [rows(5, 2)]
    take_rows(structure, KEEP, 5)
    assert len(structure[0]) == 5 and torch.equal(structure[0], x)


def test_rows_are_differentiable():
    x = rows(5, 2).requires_grad_()
    take_rows(x, KEEP, 5).sum().backward()
    assert x.grad.tolist() == [[1, 1], [0, 0], [0, 0], [1, 1], [0, 0]]


def test_a_gate_opens_once_at_a_time():
    net = nn.Sequential(nn.Linear(2, 2))
    gate = BatchGate(cut=net[0], collector=net)
    with gate.open(3, lambda output: KEEP[:1]):
        with pytest.raises(RuntimeError, match='open already'), gate.open(3, lambda output: None):
            pass
        assert len(net(rows(3, 2))) == 1


def test_rows_of_channels_last_maps_stay_channels_last():
    maps = torch.randn(5, 3, 4, 6).to(memory_format=torch.channels_last).requires_grad_()
    rows = take_rows(maps, KEEP, 5)
    assert rows.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(rows, maps[KEEP])
    rows.square().sum().backward()
    assert maps.grad.is_contiguous(memory_format=torch.channels_last)
    expected = torch.zeros(5, 3, 4, 6)
    expected[KEEP] = 2 * maps.detach()[KEEP]
    assert torch.equal(maps.grad, expected)


def test_a_dictionary_keeps_its_type():
    class Output(dict):
        @property
        def logits(self):
            return self['logits']

    output = Output(logits=torch.arange(5), other=None)
    rows = take_rows(output, KEEP, 5)
    assert rows.logits.tolist() == [0, 3]
    assert output.logits.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_a_cut_inside_of_a_checkpointed_part_is_refused(use_reentrant):
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    gate = BatchGate(cut=net[0], collector=net)
    images = torch.ones(4, 3, requires_grad=True)
    with gate.open(batch_size=4, decide=lambda output: torch.tensor([0, 2])):
        output = checkpoint(net, images, use_reentrant=use_reentrant)
    with pytest.raises(LocationError, match='ran again in the backward pass.*stages one by one'):
        output.sum().backward()


@pytest.mark.parametrize('use_reentrant', [True, False])
@pytest.mark.parametrize('part', [0, 1, 2])
def test_parts_beside_the_cut_may_be_checkpointed(use_reentrant, part):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    gate = BatchGate(cut=net[0], collector=net)
    images = torch.rand(4, 3, requires_grad=True)
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            net[part].forward = partial(
                checkpoint, net[part].forward, use_reentrant=use_reentrant
            )
        with gate.open(batch_size=4, decide=lambda output: torch.tensor([0, 2])):
            net(images).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
        net.zero_grad()
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right)
