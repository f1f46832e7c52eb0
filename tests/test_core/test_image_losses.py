"""Losses of single images, read off modules that compute one number for a batch."""

import pytest
import torch
from torch import nn

from mmpfb.core.image_losses import recording_image_losses
from mmpfb.errors import ImageLossError


class Host(nn.Module):
    """Takes what the hosts' losses take: weights per row, and a sum to divide by."""

    def __init__(self, reduction='mean'):
        super().__init__()
        self.reduction = reduction

    def forward(self, scores, labels, weight=None, avg_factor=None, reduction_override=None):
        losses = nn.functional.cross_entropy(scores, labels, reduction='none')
        if weight is not None:
            losses = losses * weight
        if 'none' in (self.reduction, reduction_override):
            return losses
        return losses.mean() if avg_factor is None else losses.sum() / avg_factor


def batch(size=4, classes=3):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(size, classes, generator=generator, requires_grad=True)
    return scores, torch.arange(size) % classes


@pytest.mark.parametrize('given', [{}, {'avg_factor': 4}, {'weight': torch.tensor([1.0, 2, 0, 1])}])
def test_the_loss_of_an_image_is_that_of_a_batch_of_one(given):
    module, (scores, labels) = Host(), batch()
    with recording_image_losses([module], 4) as recorded:
        loss = module(scores, labels, **given)
    expected = nn.functional.cross_entropy(scores, labels, reduction='none')
    if 'weight' in given:
        expected = expected * given['weight']
    torch.testing.assert_close(recorded.per_image, expected.detach())
    assert torch.equal(loss, module(scores, labels, **given))
    assert not recorded.per_image.requires_grad


def test_two_modules_add_up():
    first, second, (scores, labels) = Host(), Host(), batch()
    with recording_image_losses([first, second], 4) as recorded:
        total = first(scores, labels) + second(2 * scores, labels)
    torch.testing.assert_close(recorded.objective, total.detach())
    torch.testing.assert_close(recorded.of_batch, total.detach())
    torch.testing.assert_close(recorded.per_image.mean(), total.detach())


def test_weights_weigh_losses_and_gradients():
    module, (scores, labels) = Host(), batch()
    weights = torch.tensor([0.0, 1.0, 2.5, 1.0])
    with recording_image_losses([module], 4, weights) as recorded:
        loss = module(scores, labels)
    expected = (weights * nn.functional.cross_entropy(scores, labels, reduction='none')).mean()
    torch.testing.assert_close(loss, expected)
    (got,) = torch.autograd.grad(loss, scores, retain_graph=True)
    torch.testing.assert_close(got, torch.autograd.grad(expected, scores)[0])
    assert got[0].abs().sum() == 0
    torch.testing.assert_close(recorded.objective, expected.detach())
    # What was recorded is without weights: scores of a later pass must not depend on them.
    plain = nn.functional.cross_entropy(scores, labels, reduction='none')
    torch.testing.assert_close(recorded.per_image, plain.detach())
    torch.testing.assert_close(recorded.of_batch, plain.mean().detach())


def test_equal_weights_give_the_mean():
    module, (scores, labels) = Host(), batch()
    with recording_image_losses([module], 4, torch.ones(4)):
        weighted = module(scores, labels)
    torch.testing.assert_close(weighted, module(scores, labels))


def test_hooks_are_gone_afterwards():
    module, (scores, labels) = Host(), batch()
    with pytest.raises(KeyError), recording_image_losses([module], 4, torch.zeros(4)):
        raise KeyError
    assert not module._forward_hooks
    assert module(scores, labels) > 0


def test_no_loss_is_an_error():
    with recording_image_losses([Host()], 4) as recorded:
        pass
    for name in ('per_image', 'of_batch', 'objective'):
        with pytest.raises(ImageLossError, match='but none did'):
            getattr(recorded, name)


def test_rows_that_are_no_images_are_refused():
    module, (scores, labels) = Host(), batch()
    with (
        recording_image_losses([module], 3),
        pytest.raises(ImageLossError, match=r'one row for each of the 3 images.*\(4, 3\)'),
    ):
        module(scores, labels)


def test_losses_that_are_not_reduced_are_refused():
    module, (scores, labels) = Host('none'), batch()
    with (
        recording_image_losses([module], 4),
        pytest.raises(ImageLossError, match='to return one number for the batch'),
    ):
        module(scores, labels)


def test_a_call_that_asks_for_single_losses_is_none_of_the_objective():
    module, (scores, labels) = Host(), batch()
    with recording_image_losses([module], 4, torch.zeros(4)) as recorded:
        hardness = module(scores, labels, reduction_override='none')
        module(scores, labels)
    assert hardness.shape == (4,)
    assert (hardness > 0).all()
    torch.testing.assert_close(recorded.per_image, hardness.detach())
