"""Fixtures of this room; what they build is in `analysis_kit`."""

from __future__ import annotations

import analysis_kit
import pytest


@pytest.fixture(scope="module")
def setting(smoke_run):
    """The finished smoke run; nobody writes into its folder."""
    return analysis_kit.setting_of(smoke_run)


@pytest.fixture
def own_setting(own_run):
    """A copy of it to write in."""
    return analysis_kit.setting_of(own_run)
