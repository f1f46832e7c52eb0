import pytest
import torch

from mmpfb.core.gradient_products import gradient_products


@pytest.mark.parametrize('positions', [1, 7])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_they_are_the_products_of_the_weight_gradients(positions, dtype):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(5, 3, positions, generator=generator).to(dtype)
    output_gradients = torch.randn(5, 4, positions, generator=generator).to(dtype)
    products = gradient_products(inputs, output_gradients)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert products.dtype == wide and products.shape == (5, 5)
    for i in range(5):
        for j in range(5):
            left, right = (
                sum(torch.outer(output_gradients[k, :, p].to(wide), inputs[k, :, p].to(wide))
                    for p in range(positions))
                for k in (i, j)
            )
            torch.testing.assert_close(products[i, j], (left * right).sum(), rtol=1e-4, atol=1e-4)
