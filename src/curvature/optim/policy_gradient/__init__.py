"""Stochastic policy-gradient methods as ``torch.optim.Optimizer`` subclasses; they ascend."""

from curvature.optim.policy_gradient.ascent import Ascent, Oracle
from curvature.optim.policy_gradient.harpg import HARPG, SHARP
from curvature.optim.policy_gradient.igt import NPGIGT
from curvature.optim.policy_gradient.momentum import MomentumPG, NormalizedPG, VanillaPG
from curvature.optim.policy_gradient.storm import StormPG

__all__ = ["HARPG", "NPGIGT", "SHARP", "Ascent", "MomentumPG", "NormalizedPG", "Oracle", "StormPG", "VanillaPG"]
