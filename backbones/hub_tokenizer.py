"""Tokenizers of Hugging Face's transformers, as open_clip wraps them: cleaned, cut and padded in its way.

They are read from files on this machine, of the hub's cache or of a folder of one's own; no code of theirs is run.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BackboneError

if TYPE_CHECKING:
    from open_clip.tokenizer import HFTokenizer
    from torch import Tensor

FILES = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.model", "config.json")
"""Of a repository, those that a tokenizer is made of."""
NEEDED = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""A repository or folder with a tokenizer has one of these."""


class HubTokenizer:
    """Texts -> (N, context) token ids; reads its files when it is called first.

    Args:
        name: of the backbone, for sentences.
        source: a repository of the hub, or a folder of files.
        context: tokens of a text; longer ones are cut, shorter ones padded with the tokenizer's own token.
        settings: open_clip's `tokenizer_kwargs`: how a text is cleaned, and whether separators are no tokens.
    """

    def __init__(self, name: str, source: str | Path, context: int, settings: Mapping[str, Any]):
        self.name, self.source, self.context, self.settings = name, source, context, dict(settings)
        self._made: HFTokenizer | None = None

    def __call__(self, texts: list[str]) -> "Tensor":
        tokens: Tensor = self.made()(texts)
        return tokens

    def made(self) -> "HFTokenizer":
        """open_clip's own, made once.

        Raises:
            BackboneError: its files or Hugging Face's transformers are not there, or the files cannot be read.
        """
        if self._made is None:
            from open_clip.tokenizer import HFTokenizer

            if importlib.util.find_spec("transformers") is None:
                raise BackboneError(
                    f"backbone {self.name}: its tokenizer needs Hugging Face's transformers, which is not installed; "
                    "pip install 'robustft[tokenizers]'."
                )
            folder = self.folder()
            if folder is None:
                raise BackboneError(
                    f"backbone {self.name}: its tokenizer ({self.source}) is not on this machine; on one with network "
                    "run `robustft doctor --prefetch SUITE` for a suite with this backbone."
                )
            try:
                self._made = HFTokenizer(
                    str(folder), self.context, **self.settings, trust_remote_code=False, local_files_only=True
                )
            except Exception as error:  # of whichever file is damaged
                reason = " ".join(str(error).split())[:200]
                raise BackboneError(
                    f"backbone {self.name}: its tokenizer at {folder} cannot be read ({reason}); fetch it again."
                ) from None
        return self._made

    def folder(self) -> Path | None:
        """Where its files are on this machine; None where they are not."""
        if isinstance(self.source, Path):
            there = self.source if any((self.source / file).is_file() for file in NEEDED) else None
            return there
        from huggingface_hub import try_to_load_from_cache

        for file in NEEDED:
            found = try_to_load_from_cache(self.source, file)
            if isinstance(found, str):
                return Path(found).parent
        return None

    def fetch(self) -> None:
        """Downloads its files where they are not on this machine.

        Raises:
            BackboneError: they cannot be downloaded; its cause is what the hub's library raised.
        """
        if self.folder() is not None or isinstance(self.source, Path):
            return
        from huggingface_hub import snapshot_download

        try:
            snapshot_download(self.source, allow_patterns=list(FILES))
        except Exception as error:  # one of several network libraries
            reason = " ".join(str(error).split())[:200]
            raise BackboneError(
                f"backbone {self.name}: its tokenizer ({self.source}) cannot be downloaded ({reason})."
            ) from error

    def save(self, folder: Path) -> None:
        """Its files, as transformers writes them."""
        self.made().save_pretrained(folder)
