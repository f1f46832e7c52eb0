"""Compares the states of two runs."""

import torch


def assert_same_state(left, right):
    """Assert that nested dicts of tensors and plain values are equal, to the bit and the type."""
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_same_state(left[key], right[key])
    elif isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    else:
        assert left == right
