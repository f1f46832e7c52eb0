import dataclasses

import pytest
import torch

from mmpfb.core.selection import Selection


def test_a_selection_cannot_be_changed():
    selection = Selection(torch.tensor([0, 2]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        selection.keep = torch.tensor([1])


def test_only_the_retained_images_are_required():
    selection = Selection(torch.tensor([1]))
    assert selection.weight is None
    assert selection.score is None
    assert selection.stats == {}


def test_selections_do_not_share_their_statistics():
    first, second = Selection(torch.tensor([0])), Selection(torch.tensor([0]))
    first.stats['random_share'] = torch.tensor(1.0)
    assert second.stats == {}
