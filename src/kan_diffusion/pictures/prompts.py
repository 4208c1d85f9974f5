r"""Prompts: words as tokens, embedded by a small CLIP text model that is a part of the denoiser.

A prompt of words :math:`w_1, \dots, w_n` becomes the tokens start, :math:`w_1, \dots, w_n`, end,
padded to a fixed length. transformers' ``CLIPTextModel`` maps them to the hidden states that a
denoiser attends to (Radford et al. 2021, arXiv:2103.00020), with zeros in place of the padding.
The empty prompt means no prompt: it replaces the prompts that training drops, and guidance leads
away from it.
"""

from __future__ import annotations

import difflib
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from kan_diffusion.errors import KanDiffusionError
from kan_diffusion.imports import from_extra

TEXT_WIDTH = 64
"""Width of an embedded prompt."""

_DEPTH, _HEADS = 2, 4
_PAD, _UNKNOWN, _START, _END = _SPECIAL = range(4)
_ROOM = 8
"""Number of tokens that a prompt may be longer than the longest caption."""
_SIGNS = re.escape(string.punctuation)
_WORD = re.compile(rf"[{_SIGNS}]|[^\s{_SIGNS}]+")


def _words(text: str) -> list[str]:
    """Splits a text into words and signs, whatever their case and form."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).lower())


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model knows, and the length of its prompts.

    Attributes:
        words: The words, the most frequent first, with one blank between two.
        length: Number L of tokens of a prompt, with its start, its end and the padding.
    """

    words: str
    length: int

    @classmethod
    def of(cls, captions: Iterable[str], others: Iterable[str] = ()) -> Vocabulary:
        """Takes the words of captions; prompts may be longer than these.

        Args:
            captions: The captions.
            others: Captions for which there is room, too, and whose words are not learned.
        """
        learned, more = ([_words(text) for text in texts] for texts in (captions, others))
        counts = Counter(word for words in learned for word in words)
        longest = max(map(len, learned)) + (_ROOM if counts else 0)
        known = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(" ".join(known), 2 + max([longest, *map(len, more)]))

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The token of each word."""
        return {word: len(_SPECIAL) + k for k, word in enumerate(self.words.split())}

    def tokens(self, prompts: Iterable[str]) -> Tensor:
        """Turns prompts into tokens.

        Args:
            prompts: The prompts; an empty one means no prompt.

        Returns:
            Tokens with shape (n, L) of n prompts, int64.

        Raises:
            KanDiffusionError: A prompt has more tokens than fit.
        """
        rows = []
        for prompt in prompts:
            row = [_START, *(self.numbers.get(word, _UNKNOWN) for word in _words(prompt)), _END]
            if len(row) > self.length:
                remedy = "say it in fewer words"
                if self.length <= len([_START, _END]):
                    remedy = "give no prompt, since no picture trained on has a caption"
                raise KanDiffusionError(
                    f"the prompt '{prompt}' has {len(row)} tokens and {self.length} fit; {remedy}"
                )
            rows.append(row + [_PAD] * (self.length - len(row)))
        return torch.tensor(rows)

    def unknown(self, prompts: Iterable[str]) -> list[str]:
        """Says which words of prompts were in no caption, a sentence each.

        Returns:
            Sentences such as ``'purple' was never seen; nearest known: purse``.
        """
        said = []
        for word in dict.fromkeys(word for prompt in prompts for word in _words(prompt)):
            if word not in self.numbers:
                near = difflib.get_close_matches(word, self.numbers, 3, 0.5)
                nearest = f"nearest known: {', '.join(near)}" if near else "no known word is near"
                said.append(f"'{word}' was never seen; {nearest}")
        return said


class TextEncoder(nn.Module):
    """Embeds prompts by a small CLIP text model.

    Args:
        vocabulary: The words.

    Raises:
        KanDiffusionError: A package that prompts need is not installed.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        with from_extra("text", "models of pictures"):
            from transformers import CLIPTextConfig, CLIPTextModel

        model = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(_SPECIAL) + len(vocabulary.numbers),
                hidden_size=TEXT_WIDTH,
                intermediate_size=4 * TEXT_WIDTH,
                num_hidden_layers=_DEPTH,
                num_attention_heads=_HEADS,
                max_position_embeddings=vocabulary.length,
                pad_token_id=_PAD,
                bos_token_id=_START,
                eos_token_id=_END,
            )
        )
        self.model = getattr(model, "text_model", model)  # a part of it before transformers 5

    def forward(self, tokens: Tensor) -> Tensor:
        """Embeds tokens (B, L) as (B, L, 64), with zeros after the end of each prompt."""
        states: Tensor = self.model(tokens).last_hidden_state
        return states * (tokens != _PAD)[..., None]
