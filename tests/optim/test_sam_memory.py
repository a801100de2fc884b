"""One extra copy of the parameters, and no value ever read back by the host."""

import gc
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from curvature.benchmark import StorageMeter
from curvature.optim import GSAM, SAM

SGD = partial(torch.optim.SGD, lr=0.01)


def layers(dtype=torch.float32):
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(50, 80, dtype=dtype)) for _ in range(10)]


def measured(make, steps=2, chunks=1):
    """Bytes of the parameters; then, in copies of them, what steps allocate at their peak and what stays after them."""
    params = layers()
    supply = iter([[torch.randn_like(p) for p in params] for _ in range(2 * chunks * steps)])

    def closure():
        for p, g in zip(params, next(supply)):
            p.grad = g.clone()

    optimizer = make([(f"{i}.weight", p) for i, p in enumerate(params)])
    with StorageMeter() as meter:
        for _ in range(steps):
            optimizer.step([closure] * chunks)
        optimizer.zero_grad()
        gc.collect()
    size = sum(p.nbytes for p in params)
    return meter.peak / size, meter.now() / size


SLACK = 0.1  # generator states, norms, one tensor of ten in passing
SAM_OPTIONS = [{}, {"adaptive": True}, {"max_grad_norm": 1.0}]


@pytest.mark.parametrize("options", SAM_OPTIONS, ids=lambda options: "-".join(options) or "sam")
@pytest.mark.parametrize(("chunks", "gradients"), [(1, 1), (4, 2)])
def test_exactly_one_copy_of_the_parameters(options, chunks, gradients):
    peak, kept = measured(lambda params: SAM(params, SGD, rho=0.1, **options), chunks=chunks)
    assert kept == pytest.approx(1, abs=SLACK)
    assert peak == pytest.approx(1 + gradients, abs=SLACK)


def test_gsam_also_keeps_the_clean_gradient():
    peak, kept = measured(lambda params: GSAM(params, SGD))
    assert kept == pytest.approx(1, abs=SLACK)
    assert peak == pytest.approx(1 + 2, abs=SLACK + 0.1)
    assert measured(lambda params: GSAM(params, SGD, alpha=0.0))[0] == pytest.approx(1 + 1, abs=SLACK)


def test_nothing_but_gradients_is_allocated_at_radius_zero():
    peak, kept = measured(lambda params: SAM(params, SGD, rho=0.0))
    assert peak == pytest.approx(1, abs=SLACK)
    assert kept == pytest.approx(0, abs=SLACK)


def test_the_copy_is_made_once_and_only_of_what_has_gradients():
    params = layers()
    optimizer = SAM(params, SGD, rho=0.1)

    def closure():
        for p in params[:4]:
            p.grad = torch.ones_like(p)

    optimizer.step(closure)
    first = {id(p): copy.data_ptr() for p, copy in optimizer._saved.items()}
    assert set(first) == {id(p) for p in params[:4]}
    optimizer.step(closure)
    assert {id(p): copy.data_ptr() for p, copy in optimizer._saved.items()} == first
    assert not optimizer.state_dict()["state"]


def test_parameters_may_change_dtype_after_the_first_step():
    model = nn.Linear(3, 2)
    optimizer = SAM(model.parameters(), SGD, rho=0.1)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model.to(dtype)
        start = model.weight.detach().clone()
        optimizer.step(lambda dtype=dtype: model(torch.ones(1, 3, dtype=dtype)).sum().backward())
        assert not torch.equal(model.weight, start)
        assert all(copy.dtype == dtype for copy in optimizer._saved.values())


class NoHostReads(TorchDispatchMode):
    """Fails where a tensor's value would have to travel to the host."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "make",
    [
        partial(SAM, rho=0.1),
        partial(SAM, rho=0.1, max_grad_norm=0.5),
        partial(SAM, rho=0.1, adaptive=True),
        partial(GSAM),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_value_is_read_by_the_host(make, dtype):
    params = layers(dtype)
    optimizer = make([(f"{i}.weight", p) for i, p in enumerate(params)], SGD)

    def closure():
        loss = sum(p.float().square().sum() for p in params)
        loss.backward()
        return loss

    with NoHostReads():
        optimizer.step([closure, closure], weights=[3, 1])
    with pytest.raises(AssertionError, match="local_scalar"), NoHostReads():
        optimizer.last_grad_norm.item()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("make", [partial(SAM, rho=0.1, max_grad_norm=1.0), partial(SAM, adaptive=True), partial(GSAM)])
def test_no_synchronisation_and_one_copy_on_a_gpu(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Dropout(0.5), nn.Linear(2048, 10)).cuda()
    inputs = torch.randn(64, 512, device="cuda")
    optimizer = make(model.named_parameters(), SGD)

    def closure():
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    base = SGD(model.parameters())
    for _ in range(2):
        base.zero_grad()
        base.step(closure)
    base.zero_grad()
    optimizer.step(closure)
    before = [p.detach().clone() for p in model.parameters()]
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step(closure)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not all(torch.equal(p, w) for p, w in zip(model.parameters(), before))
    assert sum(copy.nbytes for copy in optimizer._saved.values()) == sum(p.nbytes for p in model.parameters())
