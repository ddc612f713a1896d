"""What CoDiff's UNets attend to: one token a class from the label map, or tokens of a caption."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sisbench.core.errors import Unavailable, UserError
from sisbench.core.resize import resize_labels_pil
from sisbench.methods.layers.labels import one_hot

HEADS, HEAD = 8, 64
"""Of the text encoder, whatever its width."""
PAD, START, END = 0, 101, 102
"""Ids of [PAD], [CLS] and [SEP] in the vocabulary of bert-base-uncased."""


class MaskTokens(nn.Module):
    """One token a class: where the class is, on a small grid, through one linear layer.

    An absent class gives the bias. Nothing else tells the classes apart.

    Args:
        side: of the grid.
        context: numbers in a token.
    """

    def __init__(self, side: int = 32, context: int = 640) -> None:
        super().__init__()
        self.side = side
        self.linear = nn.Linear(side * side, context)

    def grid(self, label: Tensor) -> Tensor:
        """(B, H, W) int64 -> (B, side, side) by Pillow's NEAREST, each axis on its own."""
        return resize_labels_pil(label, (self.side, self.side))

    def forward(self, label: Tensor, num_classes: int) -> Tensor:
        """(B, H, W) int64, holes -1 -> (B, C, context)."""
        planes = one_hot(self.grid(label), num_classes, self.linear.weight.dtype)
        return self.linear(planes.flatten(2))


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (
            nn.Linear(width, HEADS * HEAD, bias=False) for _ in range(3)
        )
        self.to_out = nn.Linear(HEADS * HEAD, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> the same."""
        q, k, v = (
            f(x).unflatten(-1, (HEADS, HEAD)).transpose(1, 2)
            for f in (self.to_q, self.to_k, self.to_v)
        )  # (B, heads, T, d)
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        # item 1 was a dropout of rate 0: it keeps the official key of the last layer
        self.net = nn.Sequential(
            nn.Sequential(nn.Linear(width, 4 * width), nn.GELU()),
            nn.Identity(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> the same."""
        return self.net(x)


class _Layers(nn.Module):
    """Attention and feed-forward in turn, each behind its own layer norm."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(layers):
            for block in (_Attention(width), _FeedForward(width)):
                self.layers.append(nn.ModuleList([nn.LayerNorm(width), block]))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width) -> the same."""
        for layer in self.layers:
            norm, block = layer.children()
            x = x + block(norm(x))
        return x


class _Position(nn.Module):
    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(length, width)


class _Transformer(nn.Module):
    def __init__(self, words: int, length: int, width: int, layers: int) -> None:
        super().__init__()
        self.token_emb = nn.Embedding(words, width)
        self.pos_emb = _Position(length, width)
        self.attn_layers = _Layers(width, layers)
        self.norm = nn.LayerNorm(width)


class TextEncoder(nn.Module):
    """Transformer of the captions; padding takes part as any word does.

    Args:
        words: size of the vocabulary.
        length: ids of a caption, padded.
        width: of a token.
        layers: pairs of attention and feed-forward.
    """

    def __init__(self, words: int, length: int, width: int, layers: int) -> None:
        super().__init__()
        self.words, self.length, self.width = words, length, width
        self.transformer = _Transformer(words, length, width, layers)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, length) int64 -> (B, length, width)."""
        parts = self.transformer
        x = parts.token_emb(ids) + parts.pos_emb.emb.weight
        return parts.norm(parts.attn_layers(x))


def caption_ids(captions: list[str], vocabulary: str, words: int, length: int) -> Tensor:
    """Captions as ids (B, length) int64: lower case, word pieces, cut and padded.

    Args:
        captions: one a sample.
        vocabulary: path of bert-base-uncased's ``vocab.txt``.
        words: number of lines that it must have.
        length: ids of a caption.

    Raises:
        Unavailable: transformers is not installed.
        UserError: no such file, or another vocabulary.
    """
    path = Path(vocabulary)
    if not path.is_file():
        raise UserError(
            f"codiff: no vocabulary at '{vocabulary}'",
            "set vocabulary to the vocab.txt of bert-base-uncased",
        )
    try:
        from transformers import BertTokenizer
    except ImportError as error:
        raise Unavailable(
            "codiff: captions need transformers", "pip install 'sisbench[hf]'"
        ) from error
    lines = path.read_text(encoding="utf-8").splitlines()
    special = {"[PAD]": PAD, "[CLS]": START, "[SEP]": END}
    if len(lines) != words or any(lines[i : i + 1] != [word] for word, i in special.items()):
        raise UserError(
            f"{path} is not the vocabulary: {len(lines)} lines, expected {words} with "
            f"[PAD], [CLS], [SEP] in lines {PAD + 1}, {START + 1}, {END + 1}",
            "take the vocab.txt of bert-base-uncased",
        )
    tokenizer = BertTokenizer({line: i for i, line in enumerate(lines)}, do_lower_case=True)
    found = tokenizer(
        captions, truncation=True, max_length=length, padding="max_length", return_tensors="pt"
    )
    ids: Tensor = found["input_ids"]
    return ids.to(torch.int64)
