"""What mkdocs makes beside the written pages: a page a method, the house in one picture, the reference's pictures,
what a GPU gave, and what the whole study costs.

Nothing of it is committed, so nothing of it can be out of date. A public name without a docstring is a warning here,
which `make docs` fails at, as it does at a dead link.
"""

import inspect
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from robustft import methods
from robustft.methods import registry

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs takes it away again
import cost_page  # noqa: E402
import gpu_page  # noqa: E402
import house  # noqa: E402

LOG = logging.getLogger("mkdocs.hooks.robustft")
assert methods  # importing the package registers its methods


def on_config(config: Any) -> Any:
    """Each method's page stands below Methods."""
    pages = ["methods.md", *({name: f"methods/{name}.md"} for name in registry.names())]
    config.nav = [{"Methods": pages} if "Methods" in entry else entry for entry in config.nav]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pictures that pages show and a page a method."""
    for picture in sorted((house.ROOT / "results" / "reference").glob("*/*.png")):
        where = picture.relative_to(house.ROOT / "results").as_posix()
        files.append(File.generated(config, where, abs_src_path=str(picture)))
    files.append(
        File.generated(config, "index.md", content=index((house.ROOT / "README.md").read_text(encoding="utf-8")))
    )
    for name in registry.names():
        files.append(File.generated(config, f"methods/{name}.md", content=method_page(name)))
    return files


def index(readme: str) -> str:
    """The README as first page of the site, where a file that is no page of it is a name without a link."""
    text = readme.replace("](results/reference/", "](reference/")
    text = re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|docs/)[^)]*\)", r"\1", text)
    return text.replace("](docs/", "](")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fills in what is made from the code. Pictures are one folder up in the repository, and here beside the pages."""
    if page.file.src_uri == "methods.md":
        lines = [f"- [`{name}`](methods/{name}.md)" for name in registry.names()]
        markdown += "\n" + "\n".join(lines) + "\n"
    if page.file.src_uri == "architecture.md":
        shown = f'<div class="scroll">{house.picture()}</div>'
        markdown = markdown.replace("<!-- house: picture -->", shown).replace("<!-- house: rooms -->", house.table())
    if page.file.src_uri == "cost.md":
        markdown = cost_page.fill(markdown)
    if page.file.src_uri == "speed.md":
        markdown = markdown.replace("<!-- speed: gpu -->", gpu_page.page())
    if page.file.src_uri == "python.md":
        for name in re.findall(r"^::: (robustft[\w.]*)$", markdown, re.M):
            for lacking in undocumented(name):
                LOG.warning("%s is public and has no docstring", lacking)
    return re.sub(r"\]\(\.\./results/reference/", "](reference/", markdown)


def undocumented(name: str) -> Iterator[str]:
    """The public names of a module that say nothing of themselves; of a function, itself."""
    try:
        module = import_module(name)
        names = getattr(module, "__all__", [*vars(module)])
    except ModuleNotFoundError:
        module, names = import_module(name.rpartition(".")[0]), [name.rpartition(".")[2]]
    for key in names:
        member = getattr(module, key)
        if key.startswith("_") or getattr(member, "__module__", None) != module.__name__:
            continue
        inner = vars(member).items() if inspect.isclass(member) else ()
        methods_of = [(f"{key}.{k}", v) for k, v in inner if inspect.isfunction(v) and not k.startswith("_")]
        yield from (f"{module.__name__}.{k}" for k, v in [(key, member), *methods_of] if not inspect.getdoc(v))


def method_page(name: str) -> str:
    """Markdown: what the method's file says of it, and its hyperparameters with defaults, units and sources."""
    method = registry.get(name)
    about = inspect.cleandoc(sys.modules[method.__module__].__doc__ or "")
    lines = [f"# {name}", "", about, ""]
    known: Any = method.Hyper
    if fields(known):
        lines += ["| hyperparameter | default | meaning, unit, range, source |", "| --- | --- | --- |"]
        for field in fields(known):
            meaning = " ".join((known.__pydantic_fields__[field.name].description or "").split())
            lines.append(f"| `{field.name}` | `{field.default}` | {meaning} |".replace("||", "\\|\\|"))
    else:
        lines.append("It has no hyperparameters of its own.")
    if sigmoid := getattr(method, "sigmoid", ""):
        lines += ["", f"Of a backbone with a sigmoid loss it takes {sigmoid}."]
    moved = f"`{method.strength}`, beside the learning rate" if method.strength else "the learning rate"
    if method.trained:
        lines += ["", f"Tuning moves {moved}. Version {method.version}."]
    return "\n".join(lines) + "\n"
