"""Questions with their paragraphs as windows of tokens, and spans of tokens as answers (Devlin et al. 2019, 4.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curvature.errors import ConfigError

Inputs = dict[str, Tensor]

CHUNK = 1000
"""Questions that are tokenised at a time."""


class Question(NamedTuple):
    """``answers``: (first character, text) of every reference; the first is trained on."""

    identity: str
    context: str
    text: str
    answers: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Windows:
    """Windows of ``questions``, those of a question side by side: ``[CLS] question [SEP] part of its context [SEP]``.

    Attributes:
        questions: Q questions.
        input_ids: (N, T) int32, padded at the end.
        context: (N, 2) int64, first token of the context and the first behind it, a ``[SEP]``.
        labels: (N, 2) int64, first and last token of the answer, 0 and 0 where it is not in the window as a whole.
        offsets: (N, T, 2) int32, first character of every token of the context and the first behind it.
        question: (N,) int64, the question of every window, ascending.
    """

    questions: Sequence[Question]
    input_ids: NDArray[np.int32]
    context: Tensor
    labels: Tensor
    offsets: NDArray[np.int32]
    question: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.input_ids)

    def examples(self, rows: NDArray[np.int64]) -> tuple[Inputs, Tensor]:
        """Inputs of BERT, each (B, T) int64 without columns that are padding in all, and labels (B, 2)."""
        context, places = self.context[rows], torch.arange(self.input_ids.shape[1])
        length = int(context[:, 1].max()) + 1
        first, behind = (side[:, None] for side in context.unbind(1))
        places = places[:length]
        inputs = {
            "input_ids": torch.from_numpy(self.input_ids[rows, :length].astype(np.int64)),
            "token_type_ids": ((places >= first) & (places <= behind)).long(),
            "attention_mask": (places <= behind).long(),
        }
        return inputs, self.labels[rows]

    def of_questions(self, questions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of all windows of these questions."""
        first, behind = (np.searchsorted(self.question, questions, side) for side in ("left", "right"))
        return np.concatenate([np.arange(a, b) for a, b in zip(first, behind, strict=True)])

    def answers(self, rows: Tensor, logits: Tensor, longest: int = 30) -> tuple[list[Any], list[Any]]:
        """Predictions and references of the questions that windows ``rows`` belong to, for ``torchmetrics.text.SQuAD``.

        A prediction is the text of the best span of all the windows of a question among ``rows``.

        Args:
            rows: (B,) positions of windows.
            logits: (B, T', 2) of first and last token.
            longest: tokens of an answer.
        """
        positions = rows.cpu().numpy()
        scores, spans = (part.cpu().numpy() for part in best_spans(logits, self.context[positions], longest))
        predictions, references = [], []
        asked = self.question[positions]
        for number in np.unique(asked):
            mine = np.flatnonzero(asked == number)
            best = mine[scores[mine].argmax()]
            start, end = self.offsets[positions[best], spans[best], (0, 1)]
            question = self.questions[number]
            predictions.append({"id": question.identity, "prediction_text": question.context[start:end]})
            texts = {"text": [text for _, text in question.answers], "answer_start": [at for at, _ in question.answers]}
            references.append({"id": question.identity, "answers": texts})
        return predictions, references


def best_spans(logits: Tensor, context: Tensor, longest: int = 30) -> tuple[Tensor, Tensor]:
    """The span of the context with the largest sum of the logits of its first and last token, window by window.

    Args:
        logits: (B, T, 2) of first and last token.
        context: (B, 2), first token of the context and the first behind it.
        longest: most tokens of a span.

    Returns:
        sums (B,), and first and last token (B, 2); of equal sums the shortest span, then the first.
    """
    length = logits.shape[1]
    places = torch.arange(length, device=logits.device)
    first, behind = (side[:, None].to(logits.device) for side in context.unbind(1))
    outside = (places < first) | (places >= behind)
    start, end = (part.masked_fill(outside, -torch.inf) for part in logits.float().unbind(-1))
    sums = torch.full((len(logits), min(longest, length), length), -torch.inf, device=logits.device)
    for more in range(sums.shape[1]):
        sums[:, more, : length - more] = start[:, : length - more] + end[:, more:]
    index = sums.flatten(1).argmax(1)
    begin = index % length
    return sums.flatten(1).gather(1, index[:, None])[:, 0], torch.stack([begin, begin + index // length], 1)


def tokenise(tokenizer: Any, questions: Sequence[Question], max_length: int, stride: int) -> Windows:
    """Windows of ``questions``.

    Args:
        tokenizer: a fast tokenizer of ``transformers`` for BERT.
        questions: at least one.
        max_length: tokens of a window, T.
        stride: tokens of the context that a window shares with the next one of its question.

    Raises:
        ConfigError: the longest question leaves no room for more than ``stride`` tokens of its context.
    """
    parts: list[list[Any]] = [[], [], [], [], []]
    for begin in range(0, len(questions), CHUNK):
        chunk = questions[begin : begin + CHUNK]
        asked = [question.text for question in chunk]
        needed = max(map(len, tokenizer(asked, add_special_tokens=False)["input_ids"])) + 3 + stride + 1
        if max_length < needed:
            reason = f"the longest question, three special tokens, data.stride = {stride} and one more"
            raise ConfigError("data.max_length", max_length, f"at least {needed}: {reason}")
        encoded = tokenizer(
            asked,
            [question.context for question in chunk],
            truncation="only_second",
            padding="max_length",
            max_length=max_length,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        owners = np.array(encoded["overflow_to_sample_mapping"])
        offsets = np.array(encoded["offset_mapping"], dtype=np.int32)
        inside = np.array([[part == 1 for part in window.sequence_ids] for window in encoded.encodings])
        context = np.stack([inside.argmax(1), inside.argmax(1) + inside.sum(1)], 1)
        answers = [
            _label(chunk[owner].answers[0], offsets[row, slice(*context[row])], int(context[row, 0]))
            for row, owner in enumerate(owners)
        ]
        ids = np.array(encoded["input_ids"], dtype=np.int32)
        for part, found in zip(parts, (ids, context, answers, offsets, owners + begin), strict=True):
            part.append(found)
    ids, context, labels, offsets, owners = (np.concatenate(part) for part in parts)
    return Windows(questions, ids, torch.from_numpy(context), torch.from_numpy(labels), offsets, owners)


def _label(answer: tuple[int, str], offsets: NDArray[np.int32], first: int) -> tuple[int, int]:
    """First and last token that overlap the answer, or twice 0; ``offsets`` are those of the context alone."""
    at, text = answer
    begin, end = at + len(text) - len(text.lstrip()), at + len(text.rstrip())
    inside = np.flatnonzero((offsets[:, 1] > begin) & (offsets[:, 0] < end))
    if not len(inside) or offsets[0, 0] > begin or offsets[-1, 1] < end:
        return 0, 0
    return first + int(inside[0]), first + int(inside[-1])
