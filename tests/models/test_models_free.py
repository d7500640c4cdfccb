"""Tests that every registered family gets for free, on its tiny entry."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.utils.fusion import fuse_conv_bn_eval

import picojoule
from picojoule import timeline
from picojoule.core.errors import ConfigError
from picojoule.layers import merge_repconv_
from picojoule.models import create_model, list_models, model_info

TINY = list_models(tiny=True)


@pytest.mark.parametrize("name", TINY)
def test_each_family_has_one_small_entry(name: str) -> None:
    model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) < 100_000
    families = {model_info(n)["family"] for n in list_models()}
    assert families == {model_info(n)["family"] for n in TINY}


@pytest.mark.parametrize("name", TINY)
def test_forward_and_backward(name: str, build, example) -> None:
    model = build(name)
    logits = model(example(name, 4))
    assert logits.shape == (4, 10)
    torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, f"{key} takes no part"
        assert torch.isfinite(p.grad).all(), key
    assert sum(float(p.grad.abs().sum()) > 0 for p in model.parameters()) > 0.8 * len(
        list(model.parameters())
    )


@pytest.mark.parametrize("name", TINY)
def test_spikes_reach_the_logits(name: str, build, example) -> None:
    model = build(name).eval()
    logits = model(example(name, 6))
    assert logits.std(0).max() > 1e-2, "all images get the same logits: no spikes arrive"


@pytest.mark.parametrize("name", TINY)
def test_samples_do_not_touch_each_other(name: str, build, example) -> None:
    model = build(name).double().eval()
    x = example(name, 4).double()
    y = x.clone()
    y[1] = -y[1] + 0.3
    before, after = model(x), model(y)
    keep = [0, 2, 3]
    assert torch.allclose(before[keep], after[keep], atol=1e-12, rtol=0)
    assert not torch.allclose(before[1], after[1], atol=1e-12, rtol=0)
    assert torch.allclose(model(x[2:3])[0], before[2], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_stream_in_chunks_equals_the_whole(name: str, build, example) -> None:
    model = timeline.set_steps(build(name), 5).double().eval()
    x = example(name, 2).double()
    whole = model(x)
    stream = picojoule.stream(model)
    for chunk in (2, 1, 2):
        y = stream(x, T=chunk)
    assert torch.allclose(y, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_set_steps_equals_a_model_built_so(name: str, build, example) -> None:
    first, second = build(name).eval(), build(name, T=3).eval()
    second.load_state_dict(first.state_dict())
    x = example(name, 2)
    assert torch.equal(timeline.set_steps(first, 3)(x), second(x))


@pytest.mark.parametrize("name", TINY)
def test_state_dict_round_trip(name: str, tmp_path, build, example) -> None:
    model = build(name).eval()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    torch.manual_seed(99)
    other = create_model(name).eval()
    other.load_state_dict(torch.load(tmp_path / "m.pt", weights_only=True))
    x = example(name)
    assert torch.equal(model(x), other(x))


@pytest.mark.parametrize("name", TINY)
def test_batchnorm_folds_into_the_convolution_before_it(name: str, build, example) -> None:
    model = build(name).double().eval()
    folded = merge_repconv_(copy.deepcopy(model))
    pairs = [m for m in folded.modules() if hasattr(m, "conv") and hasattr(m, "norm")]
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert len(pairs) == norms > 0
    for block in pairs:
        block.conv = fuse_conv_bn_eval(block.conv, block.norm)
        block.norm = torch.nn.Identity()
    x = example(name, 10).double()
    assert torch.allclose(model(x), folded(x), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", TINY)
def test_frames_and_steps(name: str, build, example) -> None:
    model = build(name).eval()
    frames = create_model(name, T=3, mode="frames", readout="steps").eval()
    frames.load_state_dict(model.state_dict())
    x = example(name, 2)
    out = frames(x[:, None].expand(-1, 3, -1, -1, -1))
    assert out.shape == (2, 3, 10)
    assert torch.allclose(out.mean(1), timeline.set_steps(model, 3)(x), atol=1e-6)


@pytest.mark.parametrize("name", TINY)
def test_arguments_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'num_classes'"):
        create_model(name, num_clases=3)
    with pytest.raises(ConfigError, match="unknown neuron 'lifs'; did you mean 'lif'"):
        create_model(name, neuron="lifs")
    with pytest.raises(ConfigError, match="no option 'taus'; did you mean 'tau'"):
        create_model(name, neuron={"name": "lif", "taus": 3})


def test_unknown_model_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'spiking_vgg_tiny'"):
        create_model("spiking_vgg_tny")
