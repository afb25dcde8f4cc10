"""What else a finetuned model still knows: pictures of other classes than those that it was finetuned on.

    folder:<path>        <path>/<class>/..., with the class names in <path>/classes.txt or ../classes.txt, and templates
                         in <path>/prompts.txt or ../prompts.txt ("a photo of a {}." where there is none)
    huggingface:<name>   a dataset of the hub or a YAML file (`hub`); of its splits the one called `id` there
    <dataset>/<set>      a set of a registered dataset, asked for by that dataset's class names and prompts

Such a set has no training images, and no part in any mean or choice.
"""

import hashlib
import json
from functools import partial
from pathlib import Path

from .card import USUAL, DataError, EvalData, Resizing, RetentionSet
from .decoding import Decode
from .extra_shifts import OwnShift, load
from .folder import DEFAULT_PROMPTS, read_prompts
from .hub import Hub
from .image_folders import StrPath, own_place
from .image_sets import ImageSet


def of_own(
    name: str, source: str, root: StrPath | None, start: StrPath | None, size: int, decode: Decode, resizing: Resizing
) -> RetentionSet:
    """One's own images; DataError where there are none, or of one class alone."""
    prefix, _, rest = source.partition(":")
    if prefix == "huggingface":
        prompts = tuple(Hub(rest, root=root, start=start).columns.prompts)
    else:
        place = own_place(rest, root, start)
        listed = next((file for at in (place, place.parent) if (file := Path(at) / "prompts.txt").is_file()), None)
        prompts = read_prompts(listed, source) if listed else DEFAULT_PROMPTS
    shift = load(source, root, start)
    if len(set(shift.names)) < max(2, len(shift.names)):
        names = ", ".join(shift.names[:3])
        raise DataError(f"{source}: needs two classes or more, each with a name of its own, got {names}; correct them.")
    about = [shift.names, shift.labels.tolist(), shift.content, size, *([] if resizing == USUAL else resizing)]
    content = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    return RetentionSet(name, shift.names, prompts, content, partial(_images, name, shift, size, decode, resizing))


def _images(name: str, shift: OwnShift, size: int, decode: Decode, resizing: Resizing) -> EvalData:
    return ImageSet(name, shift.pictures, shift.labels, size, decode=decode, resizing=resizing)
