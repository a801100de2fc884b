"""Alignment of head gradients and Hessians across domains: closed forms, penalties and measures."""

from curvature.alignment.coral import CORAL
from curvature.alignment.domain import Domain, observe
from curvature.alignment.erm import ERM
from curvature.alignment.fish import Fish
from curvature.alignment.fishr import Fishr
from curvature.alignment.frobenius import Frobenius
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
    "observe",
]
