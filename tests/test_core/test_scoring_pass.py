"""The scoring pass ends at the cut and leaves nothing behind."""

import pytest
import torch
from torch import nn

from mmpfb.core.scoring_pass import downscale, output_at, scaled_size, traceless
from mmpfb.errors import LocationError

CPU = torch.device('cpu')


class Noise(nn.Module):
    """Draws random numbers even in evaluation mode, and writes down how often it ran."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x + torch.rand_like(x)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout())
        self.stage = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5))
        self.head = Noise()

    def forward(self, x):
        return self.head(self.stage(self.stem(x)))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Nested()


def test_the_output_is_that_of_the_whole_pass(net):
    seen = []
    images = torch.ones(6, 3)
    with traceless(net, CPU):
        net.stage.register_forward_hook(lambda module, args, output: seen.append(output))
        net(images)
        got = output_at(net.stage, lambda: net(images))
    assert torch.equal(got, seen[0])


def test_nothing_behind_the_cut_runs(net):
    output_at(net.stage, lambda: net(torch.ones(6, 3)))
    assert net.head.calls == 0


def test_the_module_is_as_before(net):
    net.stem[1].eval()
    net.stem[0].training = False
    flags = [module.training for module in net.modules()]
    state = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(5)
    random = torch.get_rng_state()
    with traceless(net, CPU):
        assert not any(module.training for module in net.modules())
        assert not net(torch.randn(6, 3)).requires_grad
    assert [module.training for module in net.modules()] == flags
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    for key, value in net.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_the_module_is_as_before_when_the_pass_fails(net):
    flags = [module.training for module in net.modules()]
    hooks = len(net.stage._forward_hooks)
    with pytest.raises(RuntimeError, match='shapes'), traceless(net, CPU):
        output_at(net.stage, lambda: net(torch.ones(6, 2)))
    assert [module.training for module in net.modules()] == flags
    assert len(net.stage._forward_hooks) == hooks
    assert torch.is_autocast_cache_enabled()


def test_a_pass_under_autocast_leaves_no_weight_without_gradient(net):
    """Autocast caches its copies of weights: one made without gradients must not be used later."""
    images = torch.randn(6, 3)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        with traceless(net, CPU):
            # Newer versions of PyTorch mend it themselves.
            assert not torch.is_autocast_cache_enabled()
            output = output_at(net.stage, lambda: net(images))
        assert torch.is_autocast_cache_enabled()
        assert output.dtype == torch.bfloat16
        loss = net(images).float().sum()
    loss.backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_hooks_of_others_are_called_to_the_end(net):
    begun, ended = [], []
    modules = {'stem': net.stem, 'linear': net.stage[0], 'stage': net.stage, 'head': net.head}
    handle = net.stage.register_forward_hook(lambda *_: None)
    for name, module in modules.items():
        module.register_forward_pre_hook(lambda *_, name=name: begun.append(name))
        module.register_forward_hook(lambda *_, name=name: ended.append(name))
    output_at(net.stage, lambda: net.forward(torch.ones(6, 3)))
    assert sorted(begun) == sorted(ended) == ['linear', 'stage', 'stem']
    handle.remove()


def test_an_enclosing_module_with_hooks_is_refused(net):
    net.stage.register_forward_hook(lambda *_: None)
    with pytest.raises(LocationError, match='Sequential contains the place .*always_call=True'):
        output_at(net.stage[0], lambda: net(torch.ones(6, 3)), enclosing=[net.stage])


def test_hooks_on_all_modules_are_seen_as_well(net):
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(LocationError, match='has forward hooks'):
            output_at(net.stage[0], lambda: net(torch.ones(6, 3)), enclosing=[net.stage])
        output_at(net.stage, lambda: net.forward(torch.ones(6, 3)))
    finally:
        handle.remove()


def test_a_hook_that_asks_to_be_called_always_is_called(net):
    called = []
    net.stage.register_forward_hook(lambda *_: called.append(True), always_call=True)
    output_at(net.stage[0], lambda: net(torch.ones(6, 3)), enclosing=[net.stage])
    assert called == [True]


def test_a_module_that_does_not_run_is_refused(net):
    with pytest.raises(LocationError, match='did not run in this forward pass'):
        output_at(nn.Linear(1, 1), lambda: net(torch.ones(6, 3)))


def test_a_pass_that_swallows_exceptions_still_gives_the_output(net):
    def forward():
        try:
            net(torch.ones(6, 3))
        except Exception:
            pass

    assert output_at(net.stage, forward).shape == (6, 5)


@pytest.mark.parametrize(
    ('size', 'scale', 'expected'),
    [((8, 8), 0.5, (4, 4)), ((9, 16), 0.25, (2, 4)), ((4, 4), 0.01, (1, 1)), ((5, 7), 1.0, (5, 7))],
)
def test_scaled_size(size, scale, expected):
    assert scaled_size(size, scale) == expected
    assert downscale(torch.ones(2, 3, *size), scale).shape[-2:] == expected


def test_a_downscaled_pixel_is_the_mean_of_its_area():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert downscale(image, 0.5).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert downscale(image, 1) is image
    channels_last = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    assert downscale(channels_last, 0.5).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
def test_the_generator_of_a_gpu_is_as_before():
    net = Nested().cuda()
    state = torch.cuda.get_rng_state()
    with traceless(net, torch.device('cuda')):
        net(torch.ones(6, 3, device='cuda'))
    assert torch.equal(torch.cuda.get_rng_state(), state)
