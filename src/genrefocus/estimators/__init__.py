"""Depth and in-focus mask of a photograph, behind two small protocols.

An estimator gets photographs with their (pseudo) all-in-focus images and answers at the
photograph's size. There are files beside the photographs (`sidecars`), networks of transformers
(`pretrained`) and in ONNX files (`onnx`), and detail retention, which compares the photograph with
its sharp image (`retention`). `scale` makes metres of what depth networks answer.
"""

from genrefocus.estimators.onnx import OnnxDepth, OnnxSaliency
from genrefocus.estimators.pretrained import BiRefNet, PretrainedDepth
from genrefocus.estimators.protocols import DepthEstimator, InFocus, MaskEstimator, Photo
from genrefocus.estimators.retention import (
    DetailRetention,
    RefinedMask,
    detail_retention,
    mask_agreement,
)
from genrefocus.estimators.scale import DepthKind, DepthScale
from genrefocus.estimators.sidecars import SidecarDepth, SidecarMask

__all__ = [
    "BiRefNet",
    "DepthEstimator",
    "DepthKind",
    "DepthScale",
    "DetailRetention",
    "InFocus",
    "MaskEstimator",
    "OnnxDepth",
    "OnnxSaliency",
    "Photo",
    "PretrainedDepth",
    "RefinedMask",
    "SidecarDepth",
    "SidecarMask",
    "detail_retention",
    "mask_agreement",
]
