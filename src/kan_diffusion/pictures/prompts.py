r"""Prompts: words as tokens, embedded by a small CLIP text model trained with the denoiser.

A prompt of words :math:`w_1, \dots, w_n` becomes the tokens start, :math:`w_1, \dots, w_n`, end,
padded to a fixed length. transformers' ``CLIPTextModel`` maps them to the hidden states that a
denoiser attends to (Radford et al. 2021, arXiv:2103.00020), with zeros in place of the padding.
The empty prompt means no prompt: it replaces the prompts that training drops, and guidance leads
away from it. The tokenizer, made by the package tokenizers, knows the words of its captions.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kan_diffusion.denoisers.base import Denoiser, DenoiserOutput
from kan_diffusion.errors import DataError, KanDiffusionError, RunFolderError
from kan_diffusion.files import read_json
from kan_diffusion.imports import from_extra
from kan_diffusion.limits import LARGEST_SETTING
from kan_diffusion.pictures.denoisers import fresh_parameters
from kan_diffusion.weights import require_bounds, require_saved, saved_files

if TYPE_CHECKING:
    from transformers import CLIPTextModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

__all__ = [
    "PromptedDenoiser",
    "embed",
    "make_text_encoder",
    "make_tokenizer",
    "read_text_encoder",
    "require_fitting",
    "tokenize",
    "unknown_words",
]

_PAD, _UNKNOWN, _START, _END = _SPECIAL = "<pad>", "<unknown>", "<start>", "<end>"

_ROOM = 8
"""Number of tokens that a prompt may be longer than the longest caption."""

_PREFIX = "text_model."
"""What the names of a text model's tensors begin with in some versions of transformers."""


def make_tokenizer(captions: Sequence[str], others: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """Makes a tokenizer from the words of captions, in lower case.

    Args:
        captions: The captions, at least one with a word.
        others: Captions for which there is room, too, and whose words it does not learn.

    Returns:
        The tokenizer; its ``model_max_length`` leaves room for prompts longer than the captions.

    Raises:
        DataError: There is no word.
        KanDiffusionError: A package that prompts need is not installed.
    """
    with from_extra("text", "prompts"):
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
        from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel(unk_token=_UNKNOWN))
    words.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.WordLevelTrainer(
        vocab_size=LARGEST_SETTING, special_tokens=list(_SPECIAL), show_progress=False
    )  # 30,000 words unless said, without the rarest
    words.train_from_iterator(captions, trainer)
    if words.get_vocab_size() == len(_SPECIAL):
        raise DataError("the captions have no words; give each picture one word or more")
    words.post_processor = processors.TemplateProcessing(
        single=f"{_START} $A {_END}",
        special_tokens=[(token, words.token_to_id(token)) for token in (_START, _END)],
    )
    lengths = [len(encoded.ids) for encoded in words.encode_batch([*captions, *others])]
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        model_max_length=max(max(lengths[: len(captions)]) + _ROOM, *lengths),
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        bos_token=_START,
        eos_token=_END,
    )


def tokenize(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> Tensor:
    """Turns prompts into token ids, padded to the tokenizer's length.

    Args:
        tokenizer: The tokenizer.
        prompts: The prompts; an empty one means no prompt.

    Returns:
        Token ids with shape (len(prompts), L), int64.

    Raises:
        KanDiffusionError: A prompt has more tokens than fit.
    """
    length = int(tokenizer.model_max_length)
    lists = [list(ids) for ids in tokenizer(list(prompts), verbose=False)["input_ids"]]
    for prompt, ids in zip(prompts, lists, strict=True):
        if len(ids) > length:
            raise KanDiffusionError(
                f"the prompt '{_short(prompt)}' has {len(ids)} tokens and {length} fit; say it in "
                "fewer words"
            )
    pad = tokenizer.pad_token_id
    return torch.tensor([ids + [pad] * (length - len(ids)) for ids in lists])


def embed(
    text_encoder: CLIPTextModel, tokenizer: PreTrainedTokenizerBase, tokens: Tensor
) -> Tensor:
    """Embeds prompts for denoisers, with zeros after the end of each prompt.

    Args:
        text_encoder: The text encoder.
        tokenizer: The tokenizer that made the tokens.
        tokens: Token ids of :func:`tokenize`, with shape (B, L), int64.

    Returns:
        Embeddings with shape (B, L, width).
    """
    states: Tensor = text_encoder(tokens).last_hidden_state
    return states * (tokens != tokenizer.pad_token_id)[..., None]


def unknown_words(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    """Says which words of prompts were in no caption, a sentence each.

    Args:
        tokenizer: A tokenizer that :func:`make_tokenizer` made.
        prompts: The prompts.

    Returns:
        Sentences such as ``'purple' was never seen; nearest known: purse``.
    """
    known = [word for word in tokenizer.get_vocab() if word not in _SPECIAL]
    said: dict[str, str] = {}
    for prompt in prompts:
        encoded = tokenizer(prompt, return_offsets_mapping=True, verbose=False)
        places = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        for token, (start, end) in places:
            word = prompt[start:end]
            if token != tokenizer.unk_token_id or word in said:
                continue
            near = difflib.get_close_matches(word.lower(), known, 3, 0.5)
            nearest = f"nearest known: {', '.join(near)}" if near else "no known word is near"
            said[word] = f"'{_short(word)}' was never seen; {nearest}"
    return list(said.values())


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def require_fitting(
    denoiser: Denoiser, text_encoder: CLIPTextModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Checks that a denoiser, a text encoder and a tokenizer belong together.

    Raises:
        KanDiffusionError: The tokenizer makes longer prompts or has more words than the text
            encoder has room for, or the denoiser takes no prompts or those of another width.
    """
    config = text_encoder.config
    length, words = int(tokenizer.model_max_length), len(tokenizer)
    if length > config.max_position_embeddings or words > config.vocab_size:
        raise KanDiffusionError(
            f"the text encoder takes {config.max_position_embeddings:,} tokens of "
            f"{config.vocab_size:,} words, and the tokenizer makes {length:,} of {words:,}; give "
            "the two that belong together"
        )
    wanted = getattr(denoiser, "text_width", 0)
    if wanted != config.hidden_size:
        raise KanDiffusionError(
            f"the denoiser takes prompts of width {wanted}, not of the text encoder's "
            f"{config.hidden_size}; build it with that text_width"
        )


def make_text_encoder(
    tokenizer: PreTrainedTokenizerBase,
    *,
    width: int = 64,
    depth: int = 2,
    heads: int = 4,
    generator: torch.Generator | None = None,
) -> CLIPTextModel:
    """Makes a small CLIP text model for a tokenizer, with fresh parameters.

    Args:
        tokenizer: The tokenizer.
        width: Width of the hidden states; a multiple of ``heads``.
        depth: Number of layers.
        heads: Number of attention heads.
        generator: Source of the initial parameters; torch's default generator when None.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            projection_dim=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            max_position_embeddings=int(tokenizer.model_max_length),
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    fresh_parameters(encoder, generator)
    return encoder


def read_text_encoder(root: Path) -> tuple[CLIPTextModel, PreTrainedTokenizerBase]:
    """Reads the text encoder, in eval mode, and the tokenizer of a pipeline saved in a folder.

    Only JSON and safetensors are read, and both are checked first.

    Raises:
        RunFolderError: A file is missing, damaged or of another network.
        KanDiffusionError: A package that prompts need is not installed.
    """
    with from_extra("text", "prompts"):
        from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    folder, remedy = root / "text_encoder", "train it again"
    path = folder / "config.json"
    settings = read_json(path, "the configuration of a text encoder", remedy)
    require_bounds(settings, path)

    def made() -> nn.Module:
        return CLIPTextModel(CLIPTextConfig.from_dict(dict(settings)))

    require_saved(CLIPTextModel, made, folder, "model", remedy, _PREFIX)
    encoder = made()
    tensors = {
        name.removeprefix(_PREFIX): tensor
        for file in saved_files(folder, "model")
        for name, tensor in load_file(file).items()
    }
    encoder.load_state_dict({
        name: tensors[name.removeprefix(_PREFIX)] for name in encoder.state_dict()
    })  # fmt: skip
    words = root / "tokenizer"
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(words, local_files_only=True)
    except Exception as error:  # the package tokenizers raises no narrower class
        raise RunFolderError(
            f"the tokenizer in '{words}' cannot be read ({error}); {remedy}"
        ) from error
    if tokenizer.pad_token_id is None:
        raise RunFolderError(
            f"the tokenizer in '{words}' does not say what prompts are padded with; {remedy}"
        )
    return encoder.eval(), tokenizer


class PromptedDenoiser(Denoiser):
    """A denoiser that is trained together with its text encoder and takes prompts as tokens.

    Args:
        denoiser: A denoiser that takes ``encoder_hidden_states``.
        text_encoder: The text encoder.
        tokenizer: The tokenizer that made the tokens; its empty prompt means no prompt.

    Raises:
        KanDiffusionError: The denoiser takes no prompts of the encoder's width, or the tokenizer
            does not fit the encoder.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        text_encoder: CLIPTextModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        super().__init__()
        require_fitting(denoiser, text_encoder, tokenizer)
        self.denoiser = denoiser
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.register_buffer("empty", tokenize(tokenizer, [""])[0], persistent=False)

    @property
    def counted(self) -> Denoiser:
        """The denoiser without its text encoder."""
        return self.denoiser

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample, the denoiser's."""
        return self.denoiser.sample_shape

    @property
    def absent(self) -> dict[str, Tensor]:
        """``input_ids`` of the empty prompt."""
        empty = self.empty
        assert isinstance(empty, Tensor)
        return {"input_ids": empty}

    def require_conditions(self, conditions: Mapping[str, Tensor], num_samples: int) -> None:
        """Checks conditions before use: tokens must have the tokenizer's length."""
        super().require_conditions(conditions, num_samples)
        tokens = conditions.get("input_ids")
        length = len(self.absent["input_ids"])
        if tokens is not None and (tokens.ndim != 2 or tokens.shape[1] != length):
            raise KanDiffusionError(
                f"input_ids must have shape (B, {length}), not {tuple(tokens.shape)}; make them "
                "with tokenize"
            )

    @property
    def flops(self) -> int:
        """Floating-point operations of the denoiser's forward pass for one sample."""
        return self.denoiser.flops

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        class_labels: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        return_dict: bool = True,
        *,
        input_ids: Tensor | None = None,
    ) -> DenoiserOutput | tuple[Tensor, ...]:
        """Predicts for noised samples, as a :class:`.Denoiser` does, given prompts.

        They are the tokens ``input_ids`` with shape (B, L), or ``encoder_hidden_states`` with shape
        (B, L, width) if they are embedded already; without either, nothing is asked for.
        """
        if input_ids is not None:
            encoder_hidden_states = embed(self.text_encoder, self.tokenizer, input_ids)
        prediction: DenoiserOutput | tuple[Tensor, ...] = self.denoiser(
            sample, timestep, class_labels, encoder_hidden_states, return_dict
        )
        return prediction
