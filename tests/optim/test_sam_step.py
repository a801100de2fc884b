"""What one step of SAM does to the weights, with real networks and base optimisers."""

from functools import partial

import pytest
import torch
from torch import nn

from curvature.optim import GSAM, SAM

BASES = {
    "sgd": partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.05),
}


def problem(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8)).to(dtype)
    inputs, labels = torch.randn(10, 1, 6, 6, dtype=dtype), torch.randint(8, (10,))
    return model, lambda rows=slice(None): nn.functional.cross_entropy(model(inputs[rows]), labels[rows])


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def closure_of(loss):
    def closure():
        value = loss()
        value.backward()
        return value

    return closure


def reference_step(model, base, loss, rho, adaptive=False, eta=0.0, scope="weight", clip=None):
    """Algorithm 1, one tensor at a time."""
    params = dict(model.named_parameters())
    base.zero_grad()
    loss().backward()
    tilts = {
        name: p.detach().abs() + eta if adaptive and (scope == "all" or "weight" in name) else torch.ones_like(p)
        for name, p in params.items()
    }
    norm = torch.sqrt(sum((tilts[name] * p.grad).square().sum() for name, p in params.items()))
    start = {name: p.detach().clone() for name, p in params.items()}
    with torch.no_grad():
        for name, p in params.items():
            p += rho * tilts[name] ** 2 * p.grad / norm
    base.zero_grad()
    loss().backward()
    with torch.no_grad():
        for name, p in params.items():
            p.copy_(start[name])
        if clip is not None:
            total = torch.sqrt(sum(p.grad.square().sum() for p in params.values()))
            for p in params.values():
                p.grad *= min(1.0, clip / (total.item() + 1e-6))  # torch.nn.utils.clip_grad_norm_ adds 1e-6
    base.step()


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_grad_norm": 0.1},
        {"adaptive": True, "eta": 0.01},
        {"adaptive": True, "eta": 0.0, "adaptive_scope": "all", "max_grad_norm": 0.5},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_equals_a_loop_over_tensors(base, options):
    model, loss = problem()
    optimizer = SAM(model.named_parameters(), base, rho=0.1, **options)
    for _ in range(6):
        optimizer.step(closure_of(loss))

    expected, expected_loss = problem()
    reference = base(expected.parameters())
    for _ in range(6):
        reference_step(
            expected,
            reference,
            expected_loss,
            0.1,
            options.get("adaptive", False),
            options.get("eta", 0.0),
            options.get("adaptive_scope", "weight"),
            options.get("max_grad_norm"),
        )
    for ours, theirs in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [partial(SAM, rho=0.3), partial(GSAM, rho_max=0.3)])
def test_weights_between_the_passes_and_the_update_are_restored_bit_for_bit(make, dtype):
    model, loss = problem(dtype=dtype)
    start = weights(model)
    optimizer = make(model.parameters(), partial(torch.optim.SGD, lr=0.0))
    for _ in range(3):
        optimizer.step(closure_of(loss))
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), start))


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_a_closure_that_raises_leaves_the_weights_as_they_were(error, fails_at):
    model, loss = problem()
    optimizer = SAM(model.parameters(), BASES["adamw"], rho=0.1)
    optimizer.step(closure_of(loss))
    start, calls = weights(model), iter(range(10))

    def closure():
        if next(calls) == fails_at:
            raise error("stop")
        return closure_of(loss)()

    with pytest.raises(error, match="stop"):
        optimizer.step([closure, closure])
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), start))
    assert not optimizer.current_pass.perturbed
    optimizer.step(closure_of(loss))
    assert not all(torch.equal(p, w) for p, w in zip(model.parameters(), start))


def test_frozen_and_unused_parameters_are_left_alone():
    model, _ = problem()
    model.unused = nn.Linear(3, 3).double()
    model[0].weight.requires_grad_(False)
    model[0].weight.grad = torch.full_like(model[0].weight, 1e6)
    before = [p.detach().clone() for p in (model[0].weight, *model.unused.parameters())]
    seen = []
    optimizer = SAM(model.parameters(), partial(torch.optim.AdamW, lr=0.1, weight_decay=0.1), rho=0.1)

    def closure():
        seen.append(weights(model))
        value = nn.Sequential(*list(model)[:5])(torch.ones(2, 1, 6, 6, dtype=torch.float64)).square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    after = (model[0].weight, *model.unused.parameters())
    assert all(torch.equal(p, w) for p, w in zip(after, before))
    e = torch.cat([(there - here).reshape(-1) for here, there in zip(*seen)])
    assert e.norm().item() == pytest.approx(0.1, rel=1e-10)


def test_step_returns_the_clean_loss_and_keeps_the_perturbed_one():
    model, loss = problem()
    clean = loss().item()
    optimizer = SAM(model.parameters(), BASES["sgd"], rho=0.1)
    assert optimizer.last_grad_norm is None
    assert optimizer.step(closure_of(loss)).item() == clean
    assert optimizer.last_perturbed_loss.item() > clean
    assert not optimizer.last_perturbed_loss.requires_grad
    expected = clean + 0.1 * optimizer.last_grad_norm.item()
    assert optimizer.last_perturbed_loss.item() == pytest.approx(expected, rel=0.05)


def test_closures_see_which_pass_it_is():
    model, loss = problem()
    optimizer, seen = SAM(model.parameters(), BASES["sgd"]), []

    def closure():
        seen.append((optimizer.current_pass.chunk, optimizer.current_pass.perturbed, optimizer.current_pass.local))
        return closure_of(loss)()

    optimizer.step([closure, closure])
    assert seen == [(0, False, False), (0, True, False), (1, False, False), (1, True, False)]


def test_clearing_gradients_in_the_closure_changes_nothing():
    results = []
    for clears in (False, True):
        model, loss = problem()
        optimizer = SAM(model.parameters(), BASES["adamw"], rho=0.1)

        def closure(rows, clears=clears, optimizer=optimizer, loss=loss):
            if clears:
                optimizer.zero_grad()
            return closure_of(partial(loss, rows))()

        for _ in range(3):
            optimizer.step([partial(closure, slice(0, 5)), partial(closure, slice(5, 10))])
        results.append(weights(model))
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_chunks_at_radius_zero_accumulate_the_gradient_of_the_batch():
    model, loss = problem()
    optimizer = SAM(model.parameters(), BASES["sgd"], rho=0.0)
    calls = []

    def chunk(rows):
        calls.append(rows)
        return closure_of(partial(loss, rows))()

    optimizer.step([partial(chunk, slice(0, 2)), partial(chunk, slice(2, 10))], weights=[2, 8])
    assert len(calls) == 2
    expected, expected_loss = problem()
    BASES["sgd"](expected.parameters()).step(closure_of(expected_loss))
    for ours, theirs in zip(model.parameters(), expected.parameters()):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("gap", [0.0, 0.5])
def test_gsam_chunks_average_their_own_decompositions(gap):
    def direction(rows_of_chunks):
        model, loss = problem()
        start = weights(model)
        base = partial(torch.optim.SGD, lr=1.0)
        optimizer = GSAM(model.parameters(), base, rho_max=0.2, alpha=gap)
        optimizer.step([closure_of(partial(loss, rows)) for rows in rows_of_chunks])
        return [w - p.detach() for w, p in zip(start, model.parameters())]

    halves = [direction([rows]) for rows in (slice(0, 5), slice(5, 10))]
    both = direction([slice(0, 5), slice(5, 10)])
    for first, second, mean in zip(*halves, both):
        torch.testing.assert_close(mean, (first + second) / 2, atol=1e-12, rtol=0)


def test_loss_falls_in_training():
    model, loss = problem(dtype=torch.float32)
    optimizer = SAM(model.parameters(), partial(torch.optim.AdamW, lr=1e-2), rho=0.05, max_grad_norm=1.0)
    losses = [optimizer.step(closure_of(loss)).item() for _ in range(60)]
    assert losses[-1] < 0.2 * losses[0]
