"""SAM under DDP with real processes: whose gradient makes the perturbation, and that replicas never part."""

import os
import socket
from datetime import timedelta
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from curvature.errors import ConfigError
from curvature.optim import GSAM, SAM, consecutive_ranks

STEPS, PER_RANK = 3, 4
BASE = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
CHUNKS = [slice(0, 2), slice(2, 4)]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def batch(step, world):
    generator = torch.Generator().manual_seed(step)
    count = PER_RANK * world
    inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (count,), generator=generator)


def train(model, make, shards, scoped=True, chunks=(slice(None),)):
    """Flat weights after ``STEPS`` steps; one closure for each shard and chunk of it."""
    optimizer = make(model.parameters())
    for step in range(STEPS):

        def evaluate(inputs, labels):
            with optimizer.scope(*[model] * scoped):
                loss = nn.functional.cross_entropy(model(inputs), labels)
                loss.backward()
            return loss

        closures = [partial(evaluate, inputs[rows], labels[rows]) for inputs, labels in shards(step) for rows in chunks]
        optimizer.step(closures)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


SCENARIOS = {
    "local": {"make": partial(SAM, base_optimizer=BASE, rho=0.5)},
    "clipped": {"make": partial(SAM, base_optimizer=BASE, rho=0.5, max_grad_norm=0.1)},
    "synchronized": {"make": partial(SAM, base_optimizer=BASE, rho=0.5, synchronize=True)},
    "unscoped": {"make": partial(SAM, base_optimizer=BASE, rho=0.5), "scoped": False},
    "chunks": {"make": partial(SAM, base_optimizer=BASE, rho=0.5, max_grad_norm=0.1), "chunks": CHUNKS},
    "chunks_synchronized": {
        "make": partial(SAM, base_optimizer=BASE, rho=0.5, synchronize=True),
        "chunks": CHUNKS,
    },
    "plain": {"make": partial(SAM, base_optimizer=BASE, rho=0.0)},
    "plain_chunks": {"make": partial(SAM, base_optimizer=BASE, rho=0.0), "chunks": CHUNKS},
    "gsam": {"make": partial(GSAM, base_optimizer=BASE, rho_max=0.5, max_grad_norm=0.1)},
    "gsam_synchronized": {"make": partial(GSAM, base_optimizer=BASE, rho_max=0.5, synchronize=True)},
}


def shard(step, rank, world):
    inputs, labels = batch(step, world)
    rows = slice(rank * PER_RANK, (rank + 1) * PER_RANK)
    return inputs[rows], labels[rows]


def worker(rank, world, port, names, path):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    results = {}
    for name in names:
        options = dict(SCENARIOS.get(name, {}))
        if name == "grouped":
            group = consecutive_ranks(2)
            options = {"make": partial(SAM, base_optimizer=BASE, rho=0.5, synchronize=True, process_group=group)}
        model = DistributedDataParallel(
            network(), gradient_as_bucket_view=name in ("local", "gsam", "chunks_synchronized")
        )
        results[name] = train(model, shards=lambda step: [shard(step, rank, world)], **options)
    if world == 2:
        with pytest.raises(ConfigError, match="divides"):
            consecutive_ranks(3)
        assert consecutive_ranks(1) is None
    torch.save(results, f"{path}/{rank}.pt")
    dist.destroy_process_group()


def launch(world, names, path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, args=(world, port, list(names), str(path)), nprocs=world)
    return [torch.load(path / f"{rank}.pt") for rank in range(world)]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return launch(2, SCENARIOS, tmp_path_factory.mktemp("two"))


def single_process(name, shards, chunks=(slice(None),)):
    return train(network(), SCENARIOS[name]["make"], shards, chunks=chunks)


def whole(step, world=2):
    return [batch(step, world)]


def per_rank(step, world=2):
    return [shard(step, rank, world) for rank in range(world)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_replicas_stay_bit_identical(two_ranks, name):
    assert torch.equal(two_ranks[0][name], two_ranks[1][name])
    assert torch.isfinite(two_ranks[0][name]).all()


@pytest.mark.parametrize("name", ["local", "clipped", "gsam"])
def test_each_process_perturbs_by_its_own_gradient(two_ranks, name):
    torch.testing.assert_close(two_ranks[0][name], single_process(name, per_rank), atol=1e-12, rtol=0)
    assert not torch.allclose(two_ranks[0][name], single_process(name, whole), atol=1e-4)


def by_hand(world):
    """Unsynchronised SAM with SGD and momentum, written out: mean over ranks of grad L_r(w + rho g_r / ||g_r||)."""
    model = network()
    params = list(model.parameters())
    momentum = [torch.zeros_like(p) for p in params]

    def gradient(at, inputs, labels):
        logits = torch.func.functional_call(model, dict(zip(dict(model.named_parameters()), at)), inputs)
        return torch.autograd.grad(nn.functional.cross_entropy(logits, labels), at)

    weights = [p.detach().clone().requires_grad_() for p in params]
    for step in range(STEPS):
        directions = []
        for rank in range(world):
            g = gradient(weights, *shard(step, rank, world))
            norm = torch.cat([x.reshape(-1) for x in g]).norm()
            climbed = [(w + 0.5 * x / norm).detach().requires_grad_() for w, x in zip(weights, g)]
            directions.append(gradient(climbed, *shard(step, rank, world)))
        momentum = [0.9 * m + torch.stack(d).mean(0) for m, d in zip(momentum, zip(*directions))]
        weights = [(w - 0.5 * m).detach().requires_grad_() for w, m in zip(weights, momentum)]
    return torch.cat([w.detach().reshape(-1) for w in weights])


def test_local_perturbation_against_the_formula(two_ranks):
    torch.testing.assert_close(two_ranks[0]["local"], by_hand(2), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["synchronized", "gsam_synchronized"])
def test_synchronised_perturbation_is_that_of_the_global_batch(two_ranks, name):
    torch.testing.assert_close(two_ranks[0][name], single_process(name, whole), atol=1e-12, rtol=0)


def test_without_scope_the_first_gradient_is_reduced_too(two_ranks):
    torch.testing.assert_close(two_ranks[0]["unscoped"], two_ranks[0]["synchronized"], atol=1e-12, rtol=0)


def test_chunks_of_each_process_are_perturbed_alone(two_ranks):
    expected = single_process("chunks", per_rank, CHUNKS)
    torch.testing.assert_close(two_ranks[0]["chunks"], expected, atol=1e-12, rtol=0)


def test_synchronised_chunks_span_the_processes(two_ranks):
    def across(step):
        inputs, labels = batch(step, 2)
        return [(inputs[rows], labels[rows]) for rows in ([0, 1, 4, 5], [2, 3, 6, 7])]

    expected = single_process("chunks_synchronized", across)
    torch.testing.assert_close(two_ranks[0]["chunks_synchronized"], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["plain", "plain_chunks"])
def test_radius_zero_is_data_parallel_base_training(two_ranks, name):
    model = network()
    base = BASE(model.parameters())
    for step in range(STEPS):
        base.zero_grad()
        inputs, labels = batch(step, 2)
        nn.functional.cross_entropy(model(inputs), labels).backward()
        base.step()
    expected = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    torch.testing.assert_close(two_ranks[0][name], expected, atol=1e-12, rtol=0)


def test_groups_of_processes_share_a_perturbation(tmp_path):
    results = launch(4, ["grouped"], tmp_path)
    assert all(torch.equal(result["grouped"], results[0]["grouped"]) for result in results)

    def pairs(step):
        inputs, labels = batch(step, 4)
        return list(zip(inputs.chunk(2), labels.chunk(2)))

    torch.testing.assert_close(results[0]["grouped"], single_process("local", pairs), atol=1e-12, rtol=0)
    ungrouped = single_process("local", partial(per_rank, world=4))
    assert not torch.allclose(results[0]["grouped"], ungrouped, atol=1e-4)
