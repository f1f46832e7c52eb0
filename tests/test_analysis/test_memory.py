"""Bytes are counted by hand here: a float takes four."""

import gc

import pytest
import torch
from torch import nn

from mmpfb.analysis.memory import peak_cuda_bytes, saved_tensor_bytes, storage_bytes


def tensors_of(module):
    return [*module.parameters(), *module.buffers()]


def test_views_of_the_same_memory_count_once():
    whole = torch.zeros(4, 8)
    assert storage_bytes([whole, whole[1:], whole.T, torch.zeros(2)]) == 4 * (32 + 2)
    assert storage_bytes([]) == 0


def test_what_a_two_layer_network_saves():
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    inputs = torch.rand(4, 8)
    # The first layer saves its input, and the activation its result, which is the input of the
    # second layer as well. The weights exist anyway.
    expected = 4 * (4 * 8 + 4 * 16)
    for step in (lambda: net(inputs).sum(), lambda: net(inputs).sum().backward()):
        assert saved_tensor_bytes(step, tensors_of(net)) == expected
    with_weight = saved_tensor_bytes(lambda: net(inputs).sum().backward())
    # That of the first layer is needed for the gradient of its input alone, which nobody wants.
    assert with_weight == expected + 4 * 2 * 16


def test_half_the_batch_saves_half():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))

    def measured(batch_size):
        images = torch.rand(batch_size, 3, 16, 16)
        return saved_tensor_bytes(lambda: net(images).sum().backward(), tensors_of(net))

    # The batch normalisation saves two numbers per channel as well, whatever the batch.
    fixed = 2 * measured(4) - measured(8)
    assert 0 <= fixed <= 100 < measured(4)


def test_nothing_is_saved_without_gradients():
    net = nn.Linear(8, 8)
    with torch.no_grad():
        assert saved_tensor_bytes(lambda: net(torch.rand(4, 8))) == 0


def test_what_was_let_go_counts_no_more():
    weight = torch.ones(100, requires_grad=True)
    one = saved_tensor_bytes(lambda: weight.exp().sum().backward())
    assert one == 400

    def one_after_the_other():
        for _ in range(3):
            weight.exp().sum()

    # An operation that saves its own result must not be kept alive by that.
    gc.disable()
    try:
        assert saved_tensor_bytes(one_after_the_other) == one
    finally:
        gc.enable()

    def at_once():
        kept = [weight.exp().sum() for _ in range(3)]
        return kept

    assert saved_tensor_bytes(at_once) == 3 * one


def test_gradients_are_those_without_measuring():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)
    )
    images = torch.rand(2, 3, 8, 8)

    def gradients(run):
        net.zero_grad()
        run(lambda: net(images).square().sum().backward())
        return [parameter.grad.clone() for parameter in net.parameters()]

    measured = gradients(saved_tensor_bytes)
    for left, right in zip(measured, gradients(lambda step: step()), strict=True):
        assert torch.equal(left, right)


def test_an_error_of_the_function_gets_through():
    def fail():
        raise KeyError('inside')

    with pytest.raises(KeyError, match='inside'):
        saved_tensor_bytes(fail)


def test_the_peak_is_that_of_the_function_without_what_others_hold(monkeypatch):
    events = []
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: None)
    monkeypatch.setattr(
        torch.cuda, 'reset_peak_memory_stats', lambda device: events.append('reset')
    )
    monkeypatch.setattr(
        torch.cuda, 'max_memory_allocated', lambda device: events.append('read') or 1000
    )
    # Tensors of the host do not lie on the device.
    peak = peak_cuda_bytes(
        lambda: events.append('run'), torch.device('cuda'), exclude=[torch.zeros(100)]
    )
    assert peak == 1000
    assert events == ['reset', 'run', 'read']


@pytest.mark.gpu
def test_the_peak_on_a_gpu():
    device = torch.device('cuda')
    other = torch.zeros(2**20, device=device)
    own = torch.zeros(2**18, device=device)
    held = torch.cuda.memory_allocated(device)

    def function():
        torch.zeros(2**19, device=device)

    expected = held + 4 * 2**19
    assert peak_cuda_bytes(function, device) == expected
    assert peak_cuda_bytes(function, device, [other, other[:5]]) == expected - 4 * 2**20
    assert own.numel() == 2**18
