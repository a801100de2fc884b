"""Train SamViT for a few steps, alone or in several processes, and save each process's final weights.

python sam_ddp_worker.py OUT DEVICES [m=M] [synchronize]
"""

import sys
from functools import partial
from pathlib import Path

import curvature  # noqa: F401  (before torchvision)

# isort: split
import pytorch_lightning as pl
import torch

from curvature.data.stream import StreamedDataModule
from curvature.optim import SAM
from curvature.optim.schedules import constant
from curvature.papers.sam_vit import SamViT

BATCH, STEPS = 8, 4


class Epoch(torch.utils.data.Sampler):
    """Consecutive global batches; each process takes its contiguous share."""

    start_batch = 0

    def __init__(self, rank, world):
        self.rank, self.size = rank, BATCH // world

    def set_epoch(self, epoch):
        pass

    def __len__(self):
        return STEPS

    def __iter__(self):
        for batch in range(self.start_batch, STEPS):
            first = batch * BATCH + self.rank * self.size
            yield list(range(first, first + self.size))


class Data(StreamedDataModule):
    batch_size = BATCH

    def train_loader(self):
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(BATCH * STEPS, 6, dtype=torch.float64, generator=generator)
        labels = torch.randint(0, 3, (BATCH * STEPS,), generator=generator)
        dataset = torch.utils.data.TensorDataset(inputs, labels)
        return torch.utils.data.DataLoader(
            dataset, batch_sampler=Epoch(self.trainer.global_rank, self.trainer.world_size)
        )


def main():
    out, devices = Path(sys.argv[1]), int(sys.argv[2])
    m = next((int(option[2:]) for option in sys.argv[3:] if option.startswith("m=")), None)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()
    base = partial(torch.optim.SGD, lr=0.1, momentum=0.9)
    optimizer = partial(SAM, base_optimizer=base, rho=0.3, max_grad_norm=0.5, synchronize="synchronize" in sys.argv)
    module = SamViT(m=m, model=model, optimizer=optimizer, schedule=constant, num_classes=3, max_steps=STEPS)
    datamodule = Data()
    datamodule.stream(STEPS)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=datamodule)
    torch.save(model.state_dict(), out / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    main()
