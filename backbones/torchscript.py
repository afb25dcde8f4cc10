"""Tensors of a TorchScript archive, as OpenAI gave CLIP out, read without running any of the code that it holds.

Such a file is a zip: `data.pkl` says in the opcodes of a pickle which module has which tensor, `data/` has their bytes.
The opcodes are walked here by hand: what they would call is never looked up, and only tensors come of it.
"""

import pickletools
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

DTYPES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DEPTH = 32
"""Modules inside of modules; CLIP has seven."""


def is_torchscript(path: Path) -> bool:
    """Whether a zip is one: a file of torch.save has no constants."""
    with ZipFile(path) as archive:
        return any(entry.endswith("/constants.pkl") for entry in archive.namelist())


def tensors_of(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of every module in the archive, parameters and buffers.

    Raises:
        ValueError, KeyError, OSError and others: the archive is damaged, or no pickle of modules.
    """
    with ZipFile(path) as archive:
        (place,) = (name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1)
        found: dict[str, Tensor] = {}
        _collect(_walk(archive, place), "", found, 0)
    return found


def activation(path: Path) -> bool | None:
    """Whether its code, which is only searched as text, has QuickGELU; None where it has neither activation."""
    with ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
        code = "".join(archive.read(name).decode(errors="replace") for name in names)
    if "QuickGELU" in code or "1.702" in code:
        return True
    return False if "torch.gelu(" in code else None


class _Global(str):
    """The name of a class or function, which is never looked up."""


def _walk(archive: ZipFile, place: str) -> Any:
    """What the pickle at `place` holds: modules as dicts, tensors, and plain values."""
    root = place.rpartition("/")[0]
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    storages: dict[str, Tensor] = {}

    def behind_mark() -> list[Any]:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    def storage(reference: tuple[Any, ...]) -> Tensor:
        kind, key = str(reference[1]).rpartition(" ")[2], str(reference[2])
        if key not in storages:
            storages[key] = torch.frombuffer(bytearray(archive.read(f"{root}/data/{key}")), dtype=DTYPES[kind])
        return storages[key]

    argument: Any
    for opcode, argument, _ in pickletools.genops(archive.read(place)):
        name = opcode.name
        if name in ("PROTO", "FRAME"):
            continue
        if name == "STOP":
            return stack.pop()
        if name == "MARK":
            marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(_Global(argument))
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}[name]())
        elif name == "TUPLE":
            stack.append(tuple(behind_mark()))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "SETITEMS":
            values = behind_mark()
            stack[-1].update(zip(values[::2], values[1::2], strict=True))
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "APPENDS":
            values = behind_mark()
            stack[-1].extend(values)
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "BINPERSID":
            stack.append(storage(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, called = stack.pop(), stack.pop()
            stack.append(_made(called, arguments))
        elif name == "BUILD":
            state = stack.pop()
            if isinstance(state, dict) and isinstance(stack[-1], dict):
                stack[-1].update(state)
        elif name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
        elif opcode.arg is not None:  # a number or a text
            stack.append(argument)
        else:
            raise ValueError(f"it has the opcode {name}, which no archive of modules has")
    raise ValueError("its pickle does not end")


def _made(called: Any, arguments: tuple[Any, ...]) -> Any:
    """What a call in the pickle stands for: a tensor of its storage, a tagged value, or an object yet without state."""
    if called == "torch._utils _rebuild_tensor_v2":
        storage, offset, size, stride = arguments[:4]
        return torch.as_strided(storage, size, stride, offset).clone()
    if str(called).startswith("torch.jit._pickle"):
        return arguments[0]
    return {}


def _collect(module: Any, prefix: str, found: dict[str, Tensor], depth: int) -> None:
    for name, value in module.items() if isinstance(module, dict) and depth < DEPTH else ():
        if isinstance(value, Tensor):
            found[f"{prefix}{name}"] = value
        elif isinstance(value, dict):
            _collect(value, f"{prefix}{name}.", found, depth + 1)
