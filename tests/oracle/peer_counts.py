"""The same network as counted by SpikingJelly and NeuroBench, on one forward pass of the real module."""

import torch
from neurobench.metrics.utils.layers import single_layer_MACs
from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter
from torch import nn


def spikingjelly(call):
    """SynOps that its dispatch counter sees while `call()` runs."""
    counter = SynOpCounter()
    with torch.no_grad(), DispatchCounterMode([counter]):
        call()
    return float(counter.get_total())


def neurobench(model, x):
    """(AC, MAC) of its layer hooks: effective operations by what it takes for spikes."""
    seen = []

    def hook(module, inputs, _):
        seen.append((module, inputs[0]))

    handles = [m.register_forward_hook(hook) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    found = {True: 0.0, False: 0.0}
    with torch.no_grad():
        for module, rows in seen:  # after the hooks are gone, because it runs a copy of each layer
            macs, spiking = single_layer_MACs(rows, module)
            found[bool(spiking)] += macs
    return found[True], found[False]
