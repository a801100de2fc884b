"""Digits with pixels in [0, 1]."""

from curvature.data.digits import DigitsDataModule
from curvature.data.sources import Source, TensorSource


class UnitDigitsDataModule(DigitsDataModule):
    """As :class:`curvature.data.digits.DigitsDataModule`, with pixels scaled from [0, 16] to [0, 1]."""

    def load(self) -> dict[str, Source]:
        source = super().load()["train"]
        assert isinstance(source, TensorSource)
        return {"train": TensorSource((source.tensor + 1.0) / 2.0, source.labels)}
