"""Let torchvision import on a CPU-only torch.

PyPI's torchvision wheel is built against CUDA torch. On a CPU-only torch its compiled operators do not load, and
``import torchvision`` then fails while it registers fake kernels for ``torchvision::nms`` and ``torchvision::qnms``.
Declaring those two schemas before the first import is enough: nothing in this project calls them.

``install`` only registers an import hook, so importing :mod:`curvature` stays free of torch.
"""

import importlib.abc
import importlib.machinery
import importlib.metadata
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[Any] = []


def declare() -> None:
    """Declare the two operator schemas if this torch is CPU-only and torchvision's own operators cannot load."""
    import torch

    has_matching_build = torch.version.cuda is not None or "+" in importlib.metadata.version("torchvision")
    if has_matching_build or _libraries:
        return
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(operator + _SCHEMA)
    _libraries.append(library)


class _DeclareBeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            declare()
        return None


def install() -> None:
    """Arrange that :func:`declare` runs right before torchvision is first imported. Idempotent."""
    hooked = any(isinstance(finder, _DeclareBeforeTorchvision) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not hooked:
        sys.meta_path.insert(0, _DeclareBeforeTorchvision())
