"""Data modules whose examples are positive definite matrices (1, n, n), or signals from which a network makes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvature.data.classification import ClassificationDataModule
from curvature.data.covariances import NuisanceFamily, region_covariances
from curvature.data.seeds import derive
from curvature.data.sources import Source, TensorSource
from curvature.errors import ConfigError, CurvatureError

MAMEM_SPLITS = {"train": slice(0, 300), "val": slice(300, 400), "test": slice(400, 500)}
MAMEM_SHAPE = (500, 8, 125)
MAMEM_SUBJECTS = 11
UAV_VARIABLE = "temp_2"


class NuisanceDataModule(ClassificationDataModule):
    """Synthetic matrices of :class:`curvature.data.covariances.NuisanceFamily`.

    Args:
        exponents: range of the decimal logarithm of the nuisance eigenvalues.
        train_size, val_size, test_size: how many matrices to draw.
        seed: of family and draws.
        **options: see :class:`curvature.data.classification.ClassificationDataModule`.

    Raises:
        ConfigError: sizes that are not numbers, matrices too small, or an empty range.
    """

    def __init__(
        self, exponents: Sequence[float], train_size: int, val_size: int, test_size: int, **options: Any
    ) -> None:
        super().__init__(train_size=train_size, val_size=val_size, test_size=test_size, **options)
        if len(exponents) != 2 or not exponents[0] < exponents[1]:
            raise ConfigError("data.exponents", list(exponents), "two numbers, the smaller first")
        n = self.image_shape[-1]
        if self.image_shape != (1, n, n) or n < 5:
            raise ConfigError("data.image_shape", list(self.image_shape), "[1, n, n] with n >= 5")
        for name, size in self.sizes.items():
            if not isinstance(size, int):
                raise ConfigError(f"data.{name}_size", size, "an integer")
        self.exponents = float(exponents[0]), float(exponents[1])

    def load(self) -> dict[str, Source]:
        seed = derive("family", self.seed)
        family = NuisanceFamily(self.image_shape[-1], self.num_classes, self.exponents, seed)
        sources: dict[str, Source] = {}
        for name, size in self.sizes.items():
            assert isinstance(size, int)
            X, labels = family.sample(size, derive(f"{name} matrices", self.seed))
            sources[name] = TensorSource(X.unsqueeze(1), labels)
        return sources


class DigitCovariancesDataModule(ClassificationDataModule):
    """Region covariances, 17 x 17, of scikit-learn's digits, scaled to intensities in [0, 1].

    Args:
        ridge: added to the diagonal.
        **options: see :class:`curvature.data.classification.ClassificationDataModule`.
    """

    def __init__(self, ridge: float = 1e-7, **options: Any) -> None:
        super().__init__(**options)
        self.ridge = ridge

    def load(self) -> dict[str, Source]:
        from sklearn.datasets import load_digits

        source = load_digits()
        X = region_covariances(torch.from_numpy(source.images) / 16.0, self.ridge)
        return {"train": TensorSource(X.unsqueeze(1), torch.from_numpy(source.target).long())}


class MamemDataModule(ClassificationDataModule):
    """One subject of MAMEM-SSVEP-II: 500 trials of 8 electrodes x 125 samples (1 s), five stimulus frequencies.

    Labels 0 to 4 are 12, 10, 8.57, 7.5 and 6.66 Hz. Four consecutive trials come from one stimulus, so the split goes
    by position: 300 for training, 100 for validation, 100 for testing (Oikonomou et al. 2016).

    Args:
        root: folder that holds ``mamem_ssvep/U001.mat`` to ``U011.mat``.
        subject: 1 to 11; None takes the one that ``seed`` counts to, 1 + seed modulo 11, so that the seeds 0 to 54 are
            five runs of every subject.
        **options: see :class:`curvature.data.classification.ClassificationDataModule`.

    Raises:
        ConfigError: no root, no such subject, or a file that does not hold such trials.
    """

    def __init__(self, root: str | None, subject: int | None = 1, **options: Any) -> None:
        super().__init__(**options)
        if subject is None:
            subject = 1 + self.seed % MAMEM_SUBJECTS
        if not 1 <= subject <= MAMEM_SUBJECTS:
            allowed = f"an integer from 1 to {MAMEM_SUBJECTS}, or null for one that follows from data.seed"
            raise ConfigError("data.subject", subject, allowed)
        self.root, self.subject = root, subject

    def load(self) -> dict[str, Source]:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        path = folder(self.root, "mamem_ssvep") / f"U{self.subject:03d}.mat"
        if not path.is_file():
            raise ConfigError("data.subject", self.subject, f"a subject with a file; {path} does not exist")
        try:
            content = loadmat(path, variable_names=["x_test", "y_test"])
            signals, labels = content["x_test"], content["y_test"].ravel().astype(np.int64)
        except (ValueError, KeyError, MatReadError) as error:
            raise ConfigError("data_root", self.root, f"{path.name} with x_test and y_test ({error})") from error
        if signals.shape != MAMEM_SHAPE or len(labels) != len(signals):
            raise ConfigError("data_root", self.root, f"{path.name} with {MAMEM_SHAPE}, found {signals.shape}")
        x, y = torch.from_numpy(signals).float().unsqueeze(1), torch.from_numpy(labels)
        return {name: TensorSource(x[part], y[part]) for name, part in MAMEM_SPLITS.items()}


class HDM05DataModule(ClassificationDataModule):
    """HDM05: covariances 93 x 93 of 31 joints, one ``.npy`` a sample whose label follows the last underscore.

    Args:
        root: folder that holds ``hdm05/*.npy``.
        **options: see :class:`curvature.data.classification.ClassificationDataModule`; ``test_size: 0.5`` is the
            paper's split, here with a seed.

    Raises:
        ConfigError: no root, no files, or names without a label.
    """

    def __init__(self, root: str | None, **options: Any) -> None:
        super().__init__(**options)
        self.root = root

    def load(self) -> dict[str, Source]:
        place = folder(self.root, "hdm05")
        files = sorted(place.glob("*.npy"))
        if not files:
            raise ConfigError("data_root", self.root, f"a folder with {place.name}/*.npy, one covariance a file")
        names = [path.stem.rsplit("_", 1)[-1] for path in files]
        if not all(name.isdigit() for name in names):
            wrong = next(path.name for path, name in zip(files, names) if not name.isdigit())
            raise ConfigError("data_root", self.root, f"files <name>_<class number>.npy, not {wrong}")
        classes = {number: index for index, number in enumerate(sorted({int(name) for name in names}))}
        X = torch.stack([_matrix(path) for path in files])
        return {"train": TensorSource(X.unsqueeze(1), torch.tensor([classes[int(name)] for name in names]))}


class UAVHumanDataModule(ClassificationDataModule):
    """UAV-Human: covariances 51 x 51 of skeletons, as GitWR/U-SPDNet gives them, in 155 classes.

    They are regularised, with condition numbers below 1e3: real, but not ill-conditioned. Its ``val`` is the test
    split; classes count in the order of their folders' names.

    Args:
        root: folder that holds ``uav_human/{train,val}/<class>/<number>.mat`` (MAT 7.3, variable ``temp_2``).
        **options: see :class:`curvature.data.classification.ClassificationDataModule`.

    Raises:
        ConfigError: no root, no files, a class without training matrices, or a file that does not hold one.
        CurvatureError: h5py is not installed.
    """

    def __init__(self, root: str | None, **options: Any) -> None:
        super().__init__(**options)
        self.root = root

    def load(self) -> dict[str, Source]:
        files = {name: sorted(folder(self.root, f"uav_human/{name}").glob("*/*.mat")) for name in ("train", "val")}
        for name, paths in files.items():
            if not paths:
                raise ConfigError("data_root", self.root, f"a folder with uav_human/{name}/<class>/<number>.mat")
        classes = {name: index for index, name in enumerate(sorted({path.parent.name for path in files["train"]}))}
        if strange := {path.parent.name for path in files["val"]} - set(classes):
            allowed = f"classes of uav_human/val among those of train, not {min(strange)}"
            raise ConfigError("data_root", self.root, allowed)
        return {split: self._source(files[name], classes) for split, name in (("train", "train"), ("test", "val"))}

    def _source(self, files: list[Path], classes: dict[str, int]) -> TensorSource:
        X = torch.stack([self._matrix(path) for path in files])
        return TensorSource(X.unsqueeze(1), torch.tensor([classes[path.parent.name] for path in files]))

    def _matrix(self, path: Path) -> Tensor:
        try:
            import h5py
        except ImportError as error:
            raise CurvatureError("data=uav_human reads HDF5 files: pip install h5py") from error
        try:
            with h5py.File(path) as content:
                matrix = torch.from_numpy(np.asarray(content[UAV_VARIABLE], dtype=np.float64))
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigError("data_root", str(path), f"a MAT 7.3 file with {UAV_VARIABLE} ({error})") from error
        if tuple(matrix.shape) != self.image_shape[1:]:
            allowed = f"{UAV_VARIABLE} of shape {self.image_shape[1:]}, found {tuple(matrix.shape)}"
            raise ConfigError("data_root", str(path), allowed)
        return (matrix + matrix.mT) / 2


def folder(root: str | None, name: str) -> Path:
    """``root/name``. Raises ConfigError if it does not exist, saying what belongs there."""
    if root is None:
        raise ConfigError("data_root", None, f"a directory that holds {name}/ (or set CURVATURE_DATA)")
    place = Path(root) / name
    if not place.is_dir():
        raise ConfigError("data_root", root, f"a directory that holds {name}/")
    return place


def _matrix(path: Path) -> Tensor:
    try:
        matrix = torch.from_numpy(np.load(path, allow_pickle=False)).double()
    except ValueError as error:
        raise ConfigError("data_root", str(path), f"a plain array ({error})") from error
    return (matrix + matrix.mT) / 2
