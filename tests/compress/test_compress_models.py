"""Compression of registered models: presets train and strip, pruned models shrink; docstring examples."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch
from torch import Tensor, nn

from picojoule import compress, models

TINY = models.list_models("*_tiny")


def made(name: str) -> tuple[nn.Module, Tensor]:
    """A tiny model whose BatchNorms pass real activity, in eval mode, and an input."""
    torch.manual_seed(0)
    model = models.create_model(name)
    x = 3 * torch.randn(4, *models.model_info(name)["image"])
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 1.0, 3.0)
            nn.init.normal_(module.bias, std=0.3)
    return fitted(model, x), x


def fitted(model: nn.Module, x: Tensor) -> nn.Module:
    """The model in eval mode, its BatchNorm statistics taken anew from x."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None
    model.train()(x)
    return model.eval()


@pytest.mark.parametrize("name", TINY)
def test_presets_and_strip(name: str) -> None:
    for preset in ("w4", "subbit"):
        model, x = made(name)
        compress.compress_(model, compress.preset(preset))
        model.train()(x).square().sum().backward()
        assert all(
            p.grad is None or bool(torch.isfinite(p.grad).all()) for p in compress.quantizer_parameters(model)
        )
        out = model.eval()(x)
        assert torch.equal(compress.strip(model)(x), out)
        assert torch.equal(model(x), out)
        for path, codes in compress.codes_of(model).items():
            layer = model.get_submodule(path.removesuffix(".weight"))
            assert torch.equal(codes.decode(), layer.weight)


@pytest.mark.parametrize("name", TINY)
def test_pruned_quantized_and_shrunk(name: str) -> None:
    model, x = made(name)
    compress.compress_(model, compress.preset("w4"))
    compress.prune_(model, {"*": 0.3}, x)
    masked = fitted(model, x)(x)
    assert float((masked - masked[:1]).detach().abs().max()) > 1e-3  # the net is alive
    small = compress.shrink(model, x)
    assert torch.allclose(small(x), masked, atol=1e-6)
    assert sum(p.numel() for p in small.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())


def test_ratio_zero_is_the_identity() -> None:
    model, x = made("spiking_vgg_tiny")
    before = model(x)
    assert compress.prune_(model, {"*": 0.0}, x).kept == {}
    assert torch.equal(model(x), before)
    assert torch.equal(compress.shrink(model, x)(x), before)


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(compress.__path__)])
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(f"picojoule.compress.{name}")
    assert doctest.testmod(module).failed == 0
