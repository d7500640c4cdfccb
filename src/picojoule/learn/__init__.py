"""Training: recipes, the loop, losses, optimizers, learning rules, checkpoints."""

from picojoule.learn.anomaly import named_anomalies
from picojoule.learn.batchnorm import SharedBatchNorm, share_batchnorm_
from picojoule.learn.checkpoint import load_checkpoint, load_weights, save_checkpoint
from picojoule.learn.config import Recipe, load_recipe, make_recipe, recipe_names
from picojoule.learn.ema import EMA
from picojoule.learn.loop import Result, Trainer, train
from picojoule.learn.losses import TET, CrossEntropy
from picojoule.learn.optim import LAMB, make_optimizer, parameter_groups
from picojoule.learn.recompute import blocks_of, checkpoint_
from picojoule.learn.rules import RULES

__all__ = [
    "EMA",
    "LAMB",
    "RULES",
    "TET",
    "CrossEntropy",
    "Recipe",
    "Result",
    "SharedBatchNorm",
    "Trainer",
    "blocks_of",
    "checkpoint_",
    "load_checkpoint",
    "load_recipe",
    "load_weights",
    "make_optimizer",
    "make_recipe",
    "named_anomalies",
    "parameter_groups",
    "recipe_names",
    "save_checkpoint",
    "share_batchnorm_",
    "train",
]
