"""Slices of parameters shrink in place, whatever their type, dimension and order in memory."""

import pytest
import torch

from curvature.optim.hesso.pruner import _Slices

SHAPES = [((40, 6), 0), ((6, 40), 1), ((40,), 0), ((40, 6, 3, 3), 0), ((6, 40, 3, 3), 1)]
INDICES = [[3], [0, 1, 2, 39], [7, 5, 6, 20, 31], list(range(40))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("shape", "dim"), SHAPES)
@pytest.mark.parametrize("indices", INDICES)
def test_slices_are_multiplied_and_the_rest_stays(dtype, shape, dim, indices):
    torch.manual_seed(0)
    before = torch.randn(shape, dtype=torch.float64).to(dtype)
    for strides in (torch.contiguous_format, torch.channels_last) if len(shape) == 4 else (torch.contiguous_format,):
        p = before.clone(memory_format=strides)
        slices = _Slices(p, dim, torch.tensor(indices))
        expected = before.clone()
        for factor in (0.75, 2 / 3, 0.0):
            slices.scale_(factor)
            chosen = expected.index_select(dim, torch.tensor(indices))
            expected.index_copy_(dim, torch.tensor(indices), chosen * factor)
            torch.testing.assert_close(p, expected, rtol=2 * torch.finfo(dtype).eps, atol=0.0)
        rest = [i for i in range(shape[dim]) if i not in indices]
        assert torch.equal(
            p.index_select(dim, torch.tensor(rest, dtype=torch.int64)),
            before.index_select(dim, torch.tensor(rest, dtype=torch.int64)),
        )
        assert not p.index_select(dim, torch.tensor(indices)).any()
        assert p.stride() == before.clone(memory_format=strides).stride()


def test_zeroed_slices_forget_what_is_not_a_number():
    p = torch.full((4, 3), float("nan"))
    _Slices(p, 0, torch.tensor([1, 2])).scale_(0.0)
    assert p[1:3].eq(0.0).all() and p[[0, 3]].isnan().all()


def test_slices_follow_a_parameter_to_other_memory():
    p = torch.nn.Parameter(torch.ones(4, 2))
    slices = _Slices(p, 0, torch.tensor([1]))
    with torch.no_grad():
        slices.scale_(0.0)
        p.data = torch.ones(4, 2)
        slices.scale_(0.0)
    assert torch.equal(p.detach(), torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]))
