"""Prompts as token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sisbench.core.errors import UserError
from sisbench.methods.controlnet.folders import is_tokenizer
from sisbench.methods.controlnet.library import first_line, library


def token_ids(prompt: str, tokenizer: str | None, text_encoder: Any) -> Tensor:
    """A prompt as ids (1, length) int64, padded to the text encoder's length.

    Args:
        prompt: any text, also none.
        tokenizer: folder; None serves for the empty prompt alone, by CLIP's own vocabulary, whose
            last two words open and close a text.

    Raises:
        UserError: no such folder; a prompt that is too long, or that needs a tokenizer.
    """
    length = int(text_encoder.config.max_position_embeddings)
    words = int(text_encoder.config.vocab_size)
    if tokenizer is None:
        if prompt:
            raise UserError(
                f"controlnet: the prompt '{prompt[:40]}' needs a tokenizer",
                "name the base model's folder, or set tokenizer to one",
            )
        return torch.tensor([[words - 2, *[words - 1] * (length - 1)]])
    reader = _tokenizer(Path(tokenizer))
    found = list(reader(prompt)["input_ids"])
    if len(found) > length:
        raise UserError(
            f"controlnet: the prompt has {len(found)} tokens, at most {length} are read: "
            f"'{prompt[:40]}...'",
            "shorten it",
        )
    ids = found + [reader.pad_token_id] * (length - len(found))
    if max(ids) >= words:
        raise UserError(
            f"controlnet: {tokenizer} knows the token {max(ids)}, the text encoder {words} tokens",
            "take the tokenizer of the base model",
        )
    return torch.tensor([ids])


def _tokenizer(folder: Path) -> Any:
    if not is_tokenizer(folder):
        raise UserError(
            f"controlnet: no tokenizer in {folder}",
            "set tokenizer to a folder with vocab.json and merges.txt, or tokenizer.json",
        )
    try:
        return library("transformers").CLIPTokenizer.from_pretrained(
            str(folder), local_files_only=True
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder} is no tokenizer of CLIP: {first_line(error)}") from error
