"""Train GrassmannClassifier for a few steps, alone or in several processes, and save each process's final weights.

python grassmann_ddp_worker.py OUT DEVICES TRANSPORT
"""

import sys
from functools import partial
from pathlib import Path

import curvature  # noqa: F401  (before torchvision)

# isort: split
import pytorch_lightning as pl
import torch

from curvature.data.subspace_classes import SubspaceClassesDataModule
from curvature.models.heads import GrassmannHead
from curvature.models.mlp import MLP, HeadedNetwork
from curvature.optim.hybrid import Hybrid
from curvature.optim.riemannian_sgd import RiemannianSGD
from curvature.optim.schedules import warmup_cosine
from curvature.papers.grassmann_head import GrassmannClassifier

STEPS = 12


class Double(SubspaceClassesDataModule):
    def load(self):
        sources = super().load()
        for source in sources.values():
            source.tensor = source.tensor.double()
        return sources


def main():
    out, devices, transport = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.manual_seed(0)
    network = HeadedNetwork(
        MLP([32, 24, 16], batch_norm=False), partial(GrassmannHead, subspace_dim=3), in_features=16, num_classes=10
    ).double()
    subspaces = partial(RiemannianSGD, lr=0.1, transport=transport, reorth_every=5)
    optimizer = partial(
        Hybrid, default=partial(torch.optim.SGD, lr=0.1, momentum=0.9), special={"subspaces": subspaces}
    )
    module = GrassmannClassifier(
        model=network, optimizer=optimizer, schedule=warmup_cosine, num_classes=10, max_steps=STEPS, max_grad_norm=0.5
    )
    datamodule = Double(num_classes=10, image_shape=(1, 1, 32), batch_size=32, val_size=200)
    datamodule.setup("fit")
    datamodule.stream(STEPS)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=1,
        logger=False,
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=datamodule)
    torch.save(network.state_dict(), out / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
