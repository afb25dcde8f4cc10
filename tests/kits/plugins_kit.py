"""The templates of docs/extending.md, as files outside of the package."""

import re
from pathlib import Path

from repository import ROOT
from runs_kit import SUITE, write_suite

TEMPLATES = dict(
    re.findall(r"<!-- template: (\S+) -->\n```\w+\n(.*?)```", (ROOT / "docs" / "extending.md").read_text(), re.S)
)
SPACE = {"ft": {"lr": [1e-4 * k for k in range(1, 10)]}}


def write_templates(folder, *names):
    """These templates, or all, below a folder; `digits.yaml` there is digits in seconds, which mine.yaml extends."""
    for name in names or TEMPLATES:
        Path(folder, name).write_text(TEMPLATES[name])
    quick = write_suite(folder, methods=["zero_shot", "ft"], tuning={"trials": 9, "seeds": [100], "space": SPACE})
    Path(quick).rename(Path(folder, "digits.yaml"))
    return Path(folder)


OF_MY_DATA = {
    **SUITE,
    "name": "squares",
    "dataset": "my_data",
    "version": "my_data-v1",
    "backbones": ["my-vit"],
    "methods": ["zero_shot", "ft"],
    "include": ["my_data.py", "my_backbone.py"],
}
"""A suite of the dataset and the backbone of the templates."""
del OF_MY_DATA["tuning"], OF_MY_DATA["methods_settings"]
