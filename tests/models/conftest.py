"""Small models in a trained state, shared by the tests of all families."""

from __future__ import annotations

import functools

import pytest
import torch

from picojoule.models import create_model, model_info


def make_example(name: str, batch: int = 3, seed: int = 0) -> torch.Tensor:
    """Noisy class patterns of the size that the model is meant for; sample i is of class i % 10."""
    size = model_info(name)["image"]
    patterns = torch.randn(10, *size, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(batch, *size, generator=torch.Generator().manual_seed(seed))
    return patterns[torch.arange(batch) % 10] + 0.5 * noise


@functools.cache
def trained(name: str) -> dict[str, torch.Tensor]:
    """State of the model after a few training steps, so that spikes pass through every layer."""
    torch.manual_seed(0)
    model = create_model(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for seed in range(40):
        loss = torch.nn.functional.cross_entropy(model(make_example(name, 20, seed)), torch.arange(20) % 10)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


def make_model(name: str, **overrides):
    """The model in its trained state, other settings as given."""
    model = create_model(name, **overrides)
    model.load_state_dict(trained(name))
    return model


@pytest.fixture
def example():
    """Function (name, batch, seed) -> images."""
    return make_example


@pytest.fixture
def build():
    """Function (name, **overrides) -> trained model."""
    return make_model
