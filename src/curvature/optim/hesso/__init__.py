"""Optimisers that train and prune at once: HESSO, HESSO-CRIC and DHSPG."""

from curvature.optim.hesso.cric import HESSOCRIC
from curvature.optim.hesso.dhspg import DHSPG
from curvature.optim.hesso.hesso import HESSO
from curvature.optim.hesso.pruner import GroupPruner

__all__ = ["DHSPG", "HESSO", "HESSOCRIC", "GroupPruner"]
