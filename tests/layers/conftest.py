"""A test that takes `instructions` runs on every instruction set of the event-driven kernels that is here."""

from collections.abc import Iterator

import pytest

from picojoule.layers.event_bits import AVAILABLE, native


@pytest.fixture(params=native.event_sets() if AVAILABLE else [])
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.use_event_set(request.param)
    yield request.param
    native.use_event_set(before)
