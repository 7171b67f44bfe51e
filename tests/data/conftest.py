"""The embedded model's processor, loaded once."""

from __future__ import annotations

import pytest

from neuroglot.models.load import load_processor


@pytest.fixture(scope="session")
def processor():
    return load_processor("embedded")
