"""Prediction from exported models, without torch: numpy, Pillow, and onnxruntime or OpenVINO."""

from cflow_ad.runtime.detector import Detector

__all__ = ["Detector"]
