"""Networks on symmetric positive definite matrices, in float64."""

from curvature.models.spdnet.batch_norm import SPDMBN, AIMBatchNorm, LieBatchNorm, RiemannianBatchNorm
from curvature.models.spdnet.gbw_batch_norm import GBWBatchNorm
from curvature.models.spdnet.layers import BiMap, Covariance, LogEig, ReEig, Vech
from curvature.models.spdnet.networks import EEGSPDNet, SPDNet
from curvature.models.spdnet.residual import SPDResNet

__all__ = [
    "SPDMBN",
    "AIMBatchNorm",
    "BiMap",
    "Covariance",
    "EEGSPDNet",
    "GBWBatchNorm",
    "LieBatchNorm",
    "LogEig",
    "ReEig",
    "RiemannianBatchNorm",
    "SPDNet",
    "SPDResNet",
    "Vech",
]
