"""A stream of batches can begin anywhere and yields what is left, epoch after epoch."""

import pytest
import torch

from curvature.data.stream import BatchStream, StreamedDataModule


class Epochs(torch.utils.data.Sampler):
    def __init__(self):
        self.epoch = self.start_batch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 3

    def __iter__(self):
        for batch in range(self.start_batch, 3):
            yield [10 * self.epoch + batch]


def loader(workers=0):
    numbers = list(range(100))
    return torch.utils.data.DataLoader(numbers, batch_sampler=Epochs(), collate_fn=list, num_workers=workers)


WHOLE = [[0], [1], [2], [10], [11], [12], [20], [21]]


@pytest.mark.parametrize("start", range(9))
def test_begins_anywhere(start):
    stream = BatchStream(loader(), 8, start)
    assert len(stream) == 8
    assert list(stream) == WHOLE[start:]


def test_workers_see_the_same_order():
    assert list(BatchStream(loader(workers=1), 8, 4)) == WHOLE[4:]


def test_data_module_streams_once_told_how_long():
    class Data(StreamedDataModule):
        def train_loader(self):
            return loader()

    data = Data()
    assert list(data.train_dataloader()) == [[0], [1], [2]]
    data.stream(5, 2)
    assert list(data.train_dataloader()) == WHOLE[2:5]
