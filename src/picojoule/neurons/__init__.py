"""Spiking neurons: one family a file, each a pure equation with a thin module around it."""

from picojoule.neurons.alif import ALIF
from picojoule.neurons.base import Fired, Membrane, Neuron
from picojoule.neurons.conventions import CONVENTIONS, convention
from picojoule.neurons.cuba import CUBA
from picojoule.neurons.elastic import ElasticTernary
from picojoule.neurons.expand import Expansion, expansion, run_virtual
from picojoule.neurons.fire import FireRule
from picojoule.neurons.ilif import IELIF, ILIF, NILIF, SFA
from picojoule.neurons.integrate import IF
from picojoule.neurons.klif import KLIF
from picojoule.neurons.leaky_native import saved_state
from picojoule.neurons.lif import LIF
from picojoule.neurons.norm_native import norm_neuron
from picojoule.neurons.plif import PLIF
from picojoule.neurons.psn import PSN, MaskedPSN, SlidingPSN
from picojoule.neurons.quadratic import EIF, QIF
from picojoule.neurons.recurrent import Recurrent, RecurrentLIF
from picojoule.neurons.resonate import BRF, RF
from picojoule.neurons.snntorch import Leaky
from picojoule.neurons.step import from_step
from picojoule.neurons.surrogate import SURROGATES, Surrogate
from picojoule.neurons.ternary import TernaryLIF

__all__ = [
    "ALIF",
    "BRF",
    "CONVENTIONS",
    "CUBA",
    "EIF",
    "IELIF",
    "IF",
    "ILIF",
    "KLIF",
    "LIF",
    "NILIF",
    "PLIF",
    "PSN",
    "QIF",
    "RF",
    "SFA",
    "SURROGATES",
    "ElasticTernary",
    "Expansion",
    "FireRule",
    "Fired",
    "Leaky",
    "MaskedPSN",
    "Membrane",
    "Neuron",
    "Recurrent",
    "RecurrentLIF",
    "SlidingPSN",
    "Surrogate",
    "TernaryLIF",
    "convention",
    "expansion",
    "from_step",
    "norm_neuron",
    "run_virtual",
    "saved_state",
]
