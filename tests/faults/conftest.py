"""The sweep that nothing disturbs, made once."""

import pytest
from kills_kit import PATIENCE, sweep


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """Its folder: to read, never to change."""
    root = tmp_path_factory.mktemp("undisturbed")
    started = sweep(root)
    _, errors = started.communicate(timeout=PATIENCE)
    assert started.returncode == 0, errors
    return root
