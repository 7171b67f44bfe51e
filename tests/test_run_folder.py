"""The lock of a run's folder: what keeps it from being taken is said as it is."""

from __future__ import annotations

import errno
import os

import pytest

from neuroglot.errors import UserError
from neuroglot.pipeline.folder import locked


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def test_a_folder_in_use(tmp_path):
    with locked(tmp_path), pytest.raises(UserError, match=f"is in use by process {os.getpid()}; wait for it"):
        locked(tmp_path).__enter__()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks(tmp_path, monkeypatch, code):
    def refuse(file):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("neuroglot.pipeline.folder._take", refuse)
    expected = rf"cannot be locked \({os.strerror(code)}\): its file system has no locks, .* another with --runs"
    with pytest.raises(UserError, match=expected):
        locked(tmp_path).__enter__()


def test_several_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(UserError, match="WORLD_SIZE is 2 and RANK is 1, .* torchrun .* not supported yet"):
        locked(tmp_path).__enter__()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with locked(tmp_path):
        pass
