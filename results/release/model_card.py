"""README.md of a model that is handed out: what the hub's pages read at its top, and what a person asks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..records.records import Record


@dataclass(frozen=True)
class Model:
    """What is said of a model beside its record."""

    title: str
    library: str
    """"open_clip" or "transformers"."""
    licence: tuple[str, str]
    """Identifier of the hub, and the sentence behind it."""
    text: str
    """What its text tower is: one sentence."""
    load: str
    """Python that loads it."""
    tokenize: str = ""
    """How texts become tokens, where that is not as the library does it."""
    reads_text: bool = True
    """Whether the head is what the text tower builds."""
    base_model: str = ""
    """Repository of the hub that has the pretrained weights."""
    classes: Sequence[str] = ()
    at: tuple[str, float] | None = None
    """(Parameter, value) of a point on the method's path that was asked for."""


def render(record: Record, model: Model, to_yaml: Callable[[Any], str]) -> str:
    """The whole file.

    Args:
        to_yaml: writes a value as YAML, in which the hub reads what stands at the top.
    """
    parts = [
        f"---\n{to_yaml(_front(record, model))}---",
        f"# {model.title}",
        _about(record, model),
        "## Load it",
        f"In a copy of this folder:\n\n```python\n{model.load}\n```",
        *([model.tokenize] if model.tokenize else []),
        "## Metrics",
        _metrics(record, model),
        "## How it was made",
        _made(record),
        "## Licence",
        model.licence[1],
    ]
    return "\n\n".join(parts) + "\n"


def _front(record: Record, model: Model) -> dict[str, Any]:
    kind = "zero-shot-image-classification" if model.reads_text else "image-classification"
    return {
        "library_name": model.library,
        "license": model.licence[0],
        **({"base_model": model.base_model} if model.base_model else {}),
        "pipeline_tag": kind,
        "tags": ["clip", "robust-finetuning", "robustft", record["method"]],
    }


def _about(record: Record, model: Model) -> str:
    spec = record["spec"]
    trained = "" if spec.get("steps") is None else f", {spec['steps']} steps of {spec['batch_size']} images"
    plugins = ", ".join(spec.get("plugins", ()))
    own = f" (with code that is not robustft's, by kind and sha256: {plugins})" if plugins else ""
    at = "" if model.at is None else f", at {model.at[0]} = {model.at[1]:g} of its path"
    names = ", ".join(model.classes[:10]) + (", ..." if len(model.classes) > 10 else "")
    return "\n".join(
        [
            f"- Method: {record['method']}{own}{at}",
            f"- Backbone: {record['backbone']}, from the weights {record['backbone_weights']}",
            f"- Data: {record['benchmark']} ({record['benchmark_version']}), recipe {record['recipe']}{trained}, seed "
            f"{record['seed']}",
            f"- Classes ({len(model.classes)}): {names}",
            f"- Text tower: {model.text}",
            "- Head: `head.safetensors`, weight (classes, dim) and bias; in its metadata, under `meta`, class names, "
            "prompts and whether it takes features of unit length (`normalise`)",
            f"- Run: {record['run_id']}",
        ]
    )


def _metrics(record: Record, model: Model) -> str:
    """A row a set; of a point on a path what the run has evaluated there, or that it has not."""
    sets: Mapping[str, Mapping[str, Any]] = record["sets"]
    results = sets
    if model.at is not None:
        points = record["path"]["points"] if "path" in record else []
        found = next((point for point in points if point["value"] == model.at[1]), None)
        if found is None:
            known = ", ".join(format(point["value"], "g") for point in points) or "no point"
            return f"Not measured: along {model.at[0]} the run evaluated {known}."
        results = found["sets"]
    lines = ["| set | role | images | accuracy | ECE | NLL |", "| --- | --- | ---: | ---: | ---: | ---: |"]
    for name, result in results.items():
        nll = "infinite" if result["nll"] is None else format(result["nll"], ".4f")
        row = [name, sets[name]["role"], str(sets[name]["n"])]
        row += [format(result["accuracy"], ".4f"), format(result["ece"], ".4f"), nll]
        lines.append(f"| {' | '.join(row)} |")
    spec = record["spec"]
    if spec.get("limit") or spec.get("train_limit") or spec.get("allow_partial"):
        lines += ["", "A rehearsal or a run on part of the images: these numbers stand for nothing."]
    return "\n".join(lines)


def _made(record: Record) -> str:
    """Every value of the run, where it came from, and the code."""
    spec, sources = record["spec"], record["sources"]
    values = {**{key: spec[key] for key in sources if key in spec}, **spec["hyper"]}
    lines = ["| key | value | source |", "| --- | --- | --- |"]
    lines += [f"| {key} | {_cell(value)} | {_cell(sources.get(key, ''))} |" for key, value in values.items()]
    environment: Mapping[str, Any] = record["environment"]
    code = ", ".join(map(str, record["info"].get("code", []))) or str(environment.get("commit"))
    plugins = "".join(f", with the plug-in {entry}" for entry in spec.get("plugins", ()))
    version = environment.get("packages", {}).get("robustft", "")
    lines += ["", f"Code: robustft {version}, commit {code}{plugins}. Data fingerprint: {spec['fingerprint']}."]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return "none" if value is None else str(value).replace("|", "\\|").replace("\n", " ")
