"""The zoo: every neuron of the library in its variants; a test that takes `make` runs on all of them."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from picojoule import neurons as pn
from picojoule.neurons.fire import heaviside
from picojoule.neurons.surrogate import ATan


class UserState(NamedTuple):
    v: Tensor


def user_step(x: Tensor, state: UserState):
    h = 0.7 * state.v + x
    s = heaviside(h - 0.8, ATan())
    return s, UserState(h - 0.8 * s), h


def user_neuron(T: int) -> pn.Neuron:
    return pn.from_step(user_step, lambda x0: UserState(torch.zeros_like(x0)), T=T)


ZOO = {
    "if": lambda T: pn.IF(T),
    "if_soft": lambda T: pn.IF(T, v_reset=None),
    "if_half": lambda T: pn.IF.half_threshold(T),
    "lif": lambda T: pn.LIF(T),
    "lif_soft": lambda T: pn.LIF(T, v_reset=None, decay_input=False),
    "lif_none": lambda T: pn.LIF(T, reset="none", strict=True),
    "lif_reset": lambda T: pn.LIF(T, v_reset=-0.2),
    "plif": lambda T: pn.PLIF(T, v_reset=0.1),
    "leaky": lambda T: pn.Leaky(T),
    "ternary": lambda T: pn.TernaryLIF(T, surrogate="sigmoid"),
    "ternary_soft": lambda T: pn.TernaryLIF(T, reset="soft", surrogate="sigmoid"),
    "ilif": lambda T: pn.ILIF(T),
    "ilif_through": lambda T: pn.ILIF(T, D=2, detach_reset=False, rounding="half_up"),
    "nilif": lambda T: pn.NILIF(T),
    "sfa": lambda T: pn.SFA(T, D=8, open_window=True),
    "ielif": lambda T: pn.IELIF(T, N=2),
    "elastic": lambda T: pn.ElasticTernary(T).eval(),
    "elastic_shared": lambda T: pn.ElasticTernary(T, shared=True).eval(),
    "qif": lambda T: pn.QIF(T),
    "eif": lambda T: pn.EIF(T),
    "klif": lambda T: pn.KLIF(T, scale_reset=True),
    "cuba": lambda T: pn.CUBA(T, surrogate="sigmoid"),
    "alif": lambda T: pn.ALIF(T),
    "psn": lambda T: pn.PSN(T),
    "masked_psn": lambda T: pn.MaskedPSN(T, k=min(3, T), lam=1.0),
    "blended_psn": lambda T: pn.MaskedPSN(T, k=min(2, T), lam=0.5),
    "sliding_psn": lambda T: pn.SlidingPSN(T, k=3),
    "rf": lambda T: pn.RF(T, gamma=0.8, surrogate="sigmoid"),
    "brf": lambda T: pn.BRF(T, dt=0.05, v_th=0.05, surrogate="sigmoid"),
    "user": user_neuron,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "make" in metafunc.fixturenames:
        metafunc.parametrize("make", list(ZOO.values()), ids=list(ZOO))
