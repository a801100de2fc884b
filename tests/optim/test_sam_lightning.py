"""SAM inside a LightningModule with manual optimisation, on one process and under Lightning's DDP."""

import os
import socket
from functools import partial

import curvature  # noqa: F401  (in spawned processes too, its import hook must precede torchvision's first import)

# isort: split
import pytest
import pytorch_lightning as pl
import torch
import torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from curvature.optim import SAM

STEPS, BATCH = 3, 4
BASE = partial(torch.optim.SGD, lr=0.5, momentum=0.9)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).double()


def data():
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(STEPS * BATCH, 6, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(3, (STEPS * BATCH,), generator=generator)


class Module(pl.LightningModule):
    def __init__(self, path, chunks=1):
        super().__init__()
        self.automatic_optimization = False
        self.model, self.path, self.chunks = network(), path, chunks

    def configure_optimizers(self):
        return SAM(self.model.named_parameters(), BASE, rho=0.5)

    def train_dataloader(self):
        inputs, labels = data()
        size = BATCH // self.trainer.world_size
        rank = self.trainer.global_rank
        rows = torch.arange(len(inputs)).view(STEPS, -1, size)[:, rank].reshape(-1)
        return DataLoader(TensorDataset(inputs[rows], labels[rows]), batch_size=size)

    def training_step(self, batch, index):
        optimizer = self.optimizers()
        inputs, labels = (part.chunk(self.chunks) for part in batch)

        def closure():
            chunk = optimizer.current_pass.chunk
            with optimizer.scope(self.trainer.strategy.model):
                loss = nn.functional.cross_entropy(self.model(inputs[chunk]), labels[chunk])
                self.manual_backward(loss)
            return loss

        optimizer.step(closure, weights=[len(part) for part in inputs])

    def on_train_end(self):
        torch.save((self.model.state_dict(), self.trainer.global_step), f"{self.path}/{self.global_rank}.pt")


def fitted(path, chunks=1, **options):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=str(path),
        **options,
    )
    trainer.fit(Module(str(path), chunks))
    return torch.load(f"{path}/{trainer.global_rank}.pt")


def worker(rank, port, path):
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0", WORLD_SIZE="2"
    )
    torch.set_num_threads(1)
    fitted(path, devices=2, strategy="ddp")


def reference(parts):
    """The same training without Lightning, each batch in ``parts`` chunks with their own perturbations."""
    model, (inputs, labels) = network(), data()
    optimizer = SAM(model.named_parameters(), BASE, rho=0.5)
    for step in range(STEPS):
        rows = torch.arange(step * BATCH, (step + 1) * BATCH).chunk(parts)

        def closure(rows=rows):
            with optimizer.scope(model):
                chunk = rows[optimizer.current_pass.chunk]
                loss = nn.functional.cross_entropy(model(inputs[chunk]), labels[chunk])
                loss.backward()
            return loss

        optimizer.step(closure, weights=[len(part) for part in rows])
    return model.state_dict()


def assert_same(found, expected, but=(), **tolerance):
    for name, value in expected.items():
        if not any(word in name for word in but):
            torch.testing.assert_close(found[name], value, **tolerance)


@pytest.mark.parametrize("chunks", [1, 2])
def test_one_process(tmp_path, chunks):
    state, steps = fitted(tmp_path, chunks, devices=1)
    assert steps == STEPS
    assert_same(state, reference(chunks), atol=0, rtol=0)


def test_two_processes_perturb_locally(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, args=(port, str(tmp_path)), nprocs=2)
    (first, steps), (second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert steps == STEPS
    assert_same(first, second, but=["running"], atol=0, rtol=0)
    assert_same(first, reference(2), but=["running", "tracked"], atol=1e-12, rtol=0)
    assert first["1.num_batches_tracked"] == STEPS
    assert not torch.allclose(first["0.weight"], reference(1)["0.weight"], atol=1e-4)
