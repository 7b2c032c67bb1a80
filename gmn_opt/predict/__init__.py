"""Predict what a network will do from its weights."""

from gmn_opt.predict.calibration import CalibratedPredictor, Estimate, calibrate
from gmn_opt.predict.dataset import NetworkDataset
from gmn_opt.predict.fitting import fit_predictor
from gmn_opt.predict.metrics import accuracy, kendall_tau, r2_score
from gmn_opt.predict.model import ModelConfig
from gmn_opt.predict.networks import Network, NetworkError, as_networks
from gmn_opt.predict.predictor import Predictor
from gmn_opt.predict.public import read_model_zoo, read_small_cnn_zoo
from gmn_opt.predict.shipped import predict_accuracy
from gmn_opt.predict.store import Store
from gmn_opt.predict.training import Recipe
from gmn_opt.predict.transformer_zoo import read_transformer_zoo
from gmn_opt.predict.trees import TreePredictor

__all__ = [
    "CalibratedPredictor",
    "Estimate",
    "ModelConfig",
    "Network",
    "NetworkDataset",
    "NetworkError",
    "Predictor",
    "Recipe",
    "Store",
    "TreePredictor",
    "accuracy",
    "as_networks",
    "calibrate",
    "fit_predictor",
    "kendall_tau",
    "predict_accuracy",
    "r2_score",
    "read_model_zoo",
    "read_small_cnn_zoo",
    "read_transformer_zoo",
]
