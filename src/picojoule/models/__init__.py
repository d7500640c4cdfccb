"""Published spiking networks by name, one family a file, in their published sizes and in small ones."""

from picojoule.models import sdt_v3, spiking_vgg  # noqa: F401  (importing a family registers its models)
from picojoule.models._registry import create_model, list_models, model_info, register_model
from picojoule.models.config import NeuronConfig, neuron_config

__all__ = ["NeuronConfig", "create_model", "list_models", "model_info", "neuron_config", "register_model"]
