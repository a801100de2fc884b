"""Optimisers that papers introduce, as ``torch.optim.Optimizer`` subclasses around or beside torch's own."""

from curvature.optim.averaging import consecutive_ranks
from curvature.optim.batch_norm import frozen_batch_norm
from curvature.optim.gsam import GSAM
from curvature.optim.hesso import DHSPG, HESSO, HESSOCRIC
from curvature.optim.hybrid import Hybrid
from curvature.optim.passes import Pass
from curvature.optim.riemannian_sgd import RiemannianSGD
from curvature.optim.sam import SAM

__all__ = [
    "DHSPG",
    "GSAM",
    "HESSO",
    "HESSOCRIC",
    "SAM",
    "Hybrid",
    "Pass",
    "RiemannianSGD",
    "consecutive_ranks",
    "frozen_batch_norm",
]
