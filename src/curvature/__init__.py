"""Machine-checked reproduction of papers on second-order and geometric deep learning.

A paper is a set of claims; a claim is decided by runs; a run is a pure function of its resolved config.
"""

from curvature import torchvision_ops

__version__ = "0.1.0"

torchvision_ops.install()
