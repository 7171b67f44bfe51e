"""Fixtures of this room; what they build is in `neuron_kit`."""

from __future__ import annotations

import neuron_kit
import pytest


@pytest.fixture(scope="session")
def kit():
    """The builders: a tiny random LLaVA, raw batches for it, brute force, made-up profiles."""
    return neuron_kit


@pytest.fixture(scope="module")
def llava():
    """A model that no test changes."""
    return neuron_kit.make_llava()
