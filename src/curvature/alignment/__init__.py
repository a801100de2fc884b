"""Alignment of head gradients and Hessians across domains: closed forms, penalties and measures."""

from curvature.alignment.coral import CORAL
from curvature.alignment.distance import head_hessian_gram_distance, spectral_distance
from curvature.alignment.domain import Domain, observe
from curvature.alignment.erm import ERM
from curvature.alignment.fish import Fish
from curvature.alignment.fishr import Fishr
from curvature.alignment.frobenius import Frobenius
from curvature.alignment.head import head_gradient, head_hessian_diag, head_hvp
from curvature.alignment.hgp import HGP
from curvature.alignment.hutchinson import Hutchinson
from curvature.alignment.iga import IGA
from curvature.alignment.irm import IRMv1
from curvature.alignment.method import Method, Progress
from curvature.alignment.vrex import VREx

__all__ = [
    "CORAL",
    "ERM",
    "HGP",
    "IGA",
    "Domain",
    "Fish",
    "Fishr",
    "Frobenius",
    "Hutchinson",
    "IRMv1",
    "Method",
    "Progress",
    "VREx",
    "head_gradient",
    "head_hessian_diag",
    "head_hessian_gram_distance",
    "head_hvp",
    "observe",
    "spectral_distance",
]
