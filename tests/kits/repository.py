"""Where things of the repository are, for tests that read its files."""

import json
from pathlib import Path

KITS = Path(__file__).resolve().parent
TESTS = KITS.parent
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"


def golden(name):
    """A golden file; a missing one is an error."""
    return json.loads((GOLDEN / name).read_text())
