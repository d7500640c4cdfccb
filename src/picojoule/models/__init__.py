"""Published spiking networks by name, one family a file, in their published sizes and in small ones."""

# Importing a family registers its models.
from picojoule.models import ms_resnet, sdt_v1, sdt_v2, sdt_v3, sew_resnet, spiking_resnet, spiking_vgg  # noqa: F401
from picojoule.models._registry import create_model, list_models, model_info, register_model
from picojoule.models.config import NeuronConfig, neuron_config

__all__ = ["NeuronConfig", "create_model", "list_models", "model_info", "neuron_config", "register_model"]
