"""Implicit neural representations: networks that are images, and how to fit and render them."""

from gmn_opt.inr.base import Inr, InrConfig, Params, config_from_dict, stack, unstack
from gmn_opt.inr.canonical import canonical
from gmn_opt.inr.edit_training import EditTrainer, TrainConfig
from gmn_opt.inr.editor import EditorConfig, WeightEditor
from gmn_opt.inr.editor_files import load_editor, save_editor, shipped_editors
from gmn_opt.inr.feature_grid import FeatureGrid, GridConfig
from gmn_opt.inr.feature_pyramid import FeaturePyramid, PyramidConfig
from gmn_opt.inr.files import load_inr, read_inr, save_inr
from gmn_opt.inr.fitting import FitConfig, FittedInrs, fit_batch, supersampled
from gmn_opt.inr.foreign import siren_from_state_dict
from gmn_opt.inr.fourier import FourierConfig, FourierMLP
from gmn_opt.inr.rendering import coordinates, psnr, render
from gmn_opt.inr.sets import InrSet, fit_images, load_inr_set
from gmn_opt.inr.siren import Siren, SirenConfig
from gmn_opt.inr.tiled import TiledInr, load_tiled, save_tiled
from gmn_opt.inr.tiled_editing import edit_tiles
from gmn_opt.inr.tiled_fitting import fit_tiles, photo_config
from gmn_opt.inr.tiling import Tiling

__all__ = [
    "EditTrainer",
    "EditorConfig",
    "FeatureGrid",
    "FeaturePyramid",
    "FitConfig",
    "FittedInrs",
    "FourierConfig",
    "FourierMLP",
    "GridConfig",
    "Inr",
    "InrConfig",
    "InrSet",
    "Params",
    "PyramidConfig",
    "Siren",
    "SirenConfig",
    "TiledInr",
    "Tiling",
    "TrainConfig",
    "WeightEditor",
    "canonical",
    "config_from_dict",
    "coordinates",
    "edit_tiles",
    "fit_batch",
    "fit_images",
    "fit_tiles",
    "load_editor",
    "load_inr",
    "load_inr_set",
    "load_tiled",
    "photo_config",
    "psnr",
    "read_inr",
    "render",
    "save_editor",
    "save_inr",
    "save_tiled",
    "shipped_editors",
    "siren_from_state_dict",
    "stack",
    "supersampled",
    "unstack",
]
