"""Reinforcement learning for policy-gradient methods: policies, trajectories, unbiased estimators and environments."""

from curvature.rl.estimators import gpomdp_gradient, hessian_vector_product, weighted_gradient_pair
from curvature.rl.oracle import PolicyOracle
from curvature.rl.policies import GaussianMLP, LinearGaussian, Policy, SoftmaxMLP, TabularSoftmax
from curvature.rl.trajectories import Trajectories

__all__ = [
    "GaussianMLP",
    "LinearGaussian",
    "Policy",
    "PolicyOracle",
    "SoftmaxMLP",
    "TabularSoftmax",
    "Trajectories",
    "gpomdp_gradient",
    "hessian_vector_product",
    "weighted_gradient_pair",
]
