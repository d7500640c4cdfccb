"""Spiking neurons: one family a file, each a pure equation with a thin module around it."""

from picojoule.neurons.base import Fired, Membrane, Neuron
from picojoule.neurons.fire import FireRule
from picojoule.neurons.ilif import IELIF, ILIF, NILIF, SFA
from picojoule.neurons.integrate import IF
from picojoule.neurons.lif import LIF
from picojoule.neurons.plif import PLIF
from picojoule.neurons.ternary import TernaryLIF

__all__ = [
    "IELIF",
    "IF",
    "ILIF",
    "LIF",
    "NILIF",
    "PLIF",
    "SFA",
    "FireRule",
    "Fired",
    "Membrane",
    "Neuron",
    "TernaryLIF",
]
