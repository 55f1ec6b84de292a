"""The kinds of models, made from their settings."""

import torch

from solver.hrm import HRM
from solver.model import Model
from solver.settings import ModelSettings
from solver.transformer import Transformer
from solver.trm import TRM


def new_model(settings: ModelSettings, seed: int = 0) -> Model:
    """Return a model of these settings with random weights drawn from ``seed``."""
    match settings.kind:
        case "trm":
            return TRM(settings, seed)
        case "hrm":
            return HRM(settings, seed)
        case "transformer":
            return Transformer(settings, seed)


def outline(settings: ModelSettings) -> Model:
    """Return a model of these settings without its numbers, which takes no memory."""
    with torch.device("meta"):
        return new_model(settings)
