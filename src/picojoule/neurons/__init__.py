"""Spiking neurons: one family a file, each a pure equation with a thin module around it."""

from picojoule.neurons.base import Fired, Membrane, Neuron
from picojoule.neurons.lif import LIF

__all__ = ["LIF", "Fired", "Membrane", "Neuron"]
