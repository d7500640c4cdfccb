"""Encoders: values and signals into spikes, and back where an inverse exists.

Functions return time apart, [T, B, ...]; modules return rows [T*B, ...] for the layers of a model. Values lie
in [0, 1], scaled by statistics of the training split.
"""

from picojoule.encode.base import Encoder
from picojoule.encode.burst import Burst, burst, burst_steps, decode_burst
from picojoule.encode.counter import uniform
from picojoule.encode.delta import (
    Delta,
    DeltaState,
    MovingWindow,
    decode_delta,
    delta,
    event_camera,
    level_crossing,
    moving_window,
)
from picojoule.encode.direct import Direct, Inject, direct, inject
from picojoule.encode.latency import (
    Latency,
    at_steps,
    decode_steps,
    first_steps,
    latency,
    spike_steps,
    spike_times,
)
from picojoule.encode.phase import Phase, decode_phase, phase, phase_lock, phase_weights
from picojoule.encode.population import (
    Population,
    centres,
    decode_population,
    population,
    response_steps,
    responses,
    width,
)
from picojoule.encode.rate import Poisson, Rate, poisson, rate

__all__ = [
    "Burst",
    "Delta",
    "DeltaState",
    "Direct",
    "Encoder",
    "Inject",
    "Latency",
    "MovingWindow",
    "Phase",
    "Poisson",
    "Population",
    "Rate",
    "at_steps",
    "burst",
    "burst_steps",
    "centres",
    "decode_burst",
    "decode_delta",
    "decode_phase",
    "decode_population",
    "decode_steps",
    "delta",
    "direct",
    "event_camera",
    "first_steps",
    "inject",
    "latency",
    "level_crossing",
    "moving_window",
    "phase",
    "phase_lock",
    "phase_weights",
    "poisson",
    "population",
    "rate",
    "response_steps",
    "responses",
    "spike_steps",
    "spike_times",
    "uniform",
    "width",
]
