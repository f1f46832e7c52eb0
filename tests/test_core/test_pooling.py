from collections import namedtuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpfb.core.pooling import pool_features

# Drawn the same way in every run, and free of time limits on a busy machine.
EXAMPLES = settings(deadline=None, derandomize=True)


def rand(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_a_map_is_averaged_over_space():
    features = rand(2, 3, 4, 5)
    pooled = pool_features(features)
    expected = [
        [
            sum(features[b, c, h, w].item() for h in range(4) for w in range(5)) / 20
            for c in range(3)
        ]
        for b in range(2)
    ]
    torch.testing.assert_close(pooled, torch.tensor(expected))


def test_tokens_are_averaged_over_the_sequence():
    tokens = rand(2, 7, 3)
    torch.testing.assert_close(pool_features(tokens), tokens.sum(dim=1) / 7)


def test_a_map_and_its_tokens_pool_to_the_same():
    features = rand(3, 6, 4, 5)
    tokens = features.flatten(2).transpose(1, 2)
    torch.testing.assert_close(pool_features(tokens), pool_features(features))


def test_vectors_are_taken_as_they_are():
    vectors = rand(4, 5)
    assert torch.equal(pool_features(vectors), vectors)


def test_channels_are_averaged_in_neighbouring_groups():
    vectors = torch.arange(12.0).view(1, 12)
    assert pool_features(vectors, dim=4).tolist() == [[1.0, 4.0, 7.0, 10.0]]


@settings(EXAMPLES, max_examples=50)
@given(channels=st.integers(1, 40), dim=st.integers(1, 20), batch_size=st.integers(1, 3))
def test_any_number_of_channels_is_pooled_to_at_most_dim(channels, dim, batch_size):
    vectors = rand(batch_size, channels)
    pooled = pool_features(vectors, dim)
    groups = min(channels, dim)
    assert pooled.shape == (batch_size, groups)
    for d in range(groups):
        begin, end = d * channels // groups, -(-(d + 1) * channels // groups)
        torch.testing.assert_close(pooled[:, d], vectors[:, begin:end].mean(dim=1))


def test_fewer_channels_than_dim_are_kept():
    assert pool_features(rand(2, 64, 3, 3), dim=128).shape == (2, 64)


def test_dim_none_pools_no_channels():
    assert pool_features(rand(2, 300, 2, 2), dim=None).shape == (2, 300)


def test_the_first_tensor_of_a_tuple_is_pooled():
    tokens, before = rand(2, 6, 3), rand(2, 24, 5)
    for output in [(tokens, (2, 3)), (tokens, (2, 3), before, (4, 6)), ((2, 3), tokens, before)]:
        assert torch.equal(pool_features(output), pool_features(tokens))


def test_a_namedtuple_is_a_tuple():
    output = namedtuple('Output', ['tokens', 'size'])(rand(2, 6, 3), (2, 3))
    assert torch.equal(pool_features(output), pool_features(output.tokens))


def test_branches_of_a_list_are_joined_along_the_channels():
    branches = [rand(2, 3, 8, 8), rand(2, 5, 4, 4), 'no branch']
    pooled = pool_features(branches)
    assert torch.equal(pooled, torch.cat([pool_features(item) for item in branches[:2]], dim=1))


def test_channels_are_pooled_after_the_branches_are_joined():
    branches = [torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)]
    assert pool_features(branches, dim=2).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_a_large_half_precision_map_does_not_overflow(dtype):
    features = torch.full((1, 2, 256, 256), 100.0, dtype=dtype)
    pooled = pool_features(features)
    assert pooled.dtype == torch.float32
    assert pooled.tolist() == [[100.0, 100.0]]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_averaged_in_float32(dtype):
    features = (100 + rand(2, 8, 16, 16)).to(dtype)
    torch.testing.assert_close(
        pool_features(features, dim=4), pool_features(features.float(), dim=4), rtol=1e-6, atol=0
    )


def test_autocast_does_not_lower_the_precision():
    features = rand(2, 8, 16, 16)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        pooled = pool_features(features, dim=4)
    assert torch.equal(pooled, pool_features(features, dim=4))


def test_float64_stays_float64():
    assert pool_features(rand(2, 4, 2, 2, dtype=torch.float64), dim=2).dtype == torch.float64


def test_non_finite_values_stay_in_their_image():
    features = rand(3, 8, 2, 2)
    features[1, 5, 0, 1] = torch.nan
    finite = torch.isfinite(pool_features(features, dim=4)).all(dim=1)
    assert finite.tolist() == [True, False, True]


@pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.complex64])
def test_features_that_are_not_floating_point_are_refused(dtype):
    with pytest.raises(TypeError, match=f'features to be floating point, but got {dtype}'):
        pool_features(torch.zeros(2, 3, 4, 4, dtype=dtype))


@pytest.mark.parametrize('shape', [(), (3,), (1, 2, 3, 4, 5)])
def test_other_numbers_of_axes_are_refused(shape):
    message = r'Expected features of shape \(B, C\), \(B, L, C\), \(B, C, H, W\) or '
    with pytest.raises(ValueError, match=message):
        pool_features(torch.zeros(shape))


@pytest.mark.parametrize('output', [None, 3, 'map', (), [], ((2, 3), 4), {'out': torch.ones(2, 2)}])
def test_an_output_without_a_tensor_is_refused(output):
    message = f'tensor, or a tuple or list that holds one, but got {type(output).__name__}'
    with pytest.raises(TypeError, match=message):
        pool_features(output)


@pytest.mark.parametrize('dim', [0, -1, 2.5])
def test_a_dimension_below_one_is_refused(dim):
    with pytest.raises(ValueError, match='`dim` to be an integer of at least 1, but got'):
        pool_features(torch.ones(2, 4), dim)


def test_channels_may_be_last():
    maps = torch.randn(3, 5, 6, 7)
    assert torch.equal(pool_features(maps, None, channel_axis=3), maps.mean((1, 2)))
    assert torch.equal(pool_features(maps, None), maps.mean((2, 3)))


@pytest.mark.parametrize('axis', [0, 2, -1, 'last'])
def test_no_other_axis_holds_channels(axis):
    with pytest.raises(ValueError, match='`channel_axis` to be 1 or 3'):
        pool_features(torch.ones(2, 3, 4, 4), channel_axis=axis)
