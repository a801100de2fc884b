"""Extractive question answering: articles in the layout of SQuAD v1.1, from files or generated."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from curvature.data.generated_questions import FACTS, SPECIAL, generated_articles, generated_vocabulary
from curvature.data.order import Batch, InOrder, SeededBatchSampler, check_batch_size, permutation
from curvature.data.seeds import derive
from curvature.data.stream import StreamedDataModule
from curvature.data.windows import Inputs, Question, Windows, tokenise
from curvature.errors import ConfigError

Examples = tuple[Inputs, torch.Tensor]

FILES = {"train": "train-v1.1.json", "test": "dev-v1.1.json"}


class QuestionAnsweringDataModule(StreamedDataModule):
    """``<root>/<name>/{train,dev}-v1.1.json``: questions whose answers are spans of their paragraphs.

    Batches are (inputs, labels): a mapping of ``input_ids``, ``token_type_ids`` and ``attention_mask``, each (B, T)
    int64 with T the longest window of the batch, and first and last token of the answer (B, 2) int64; both are 0, the
    position of ``[CLS]``, where the window has no answer. Batches of validation and test hold all windows of their
    questions, and (B,) positions of these windows, which :meth:`curvature.data.windows.Windows.answers` takes.

    Articles for validation are held out of training whole, so that no paragraph is in both. The order of training
    windows is a function of (``seed``, ``order_seed``, epoch).

    Args:
        root: where data lies.
        name: of the folder.
        vocabulary: WordPiece vocabulary, one piece a line, or a folder that holds a fast tokenizer of ``transformers``,
            below ``<root>/<name>``.
        lowercase: whether a vocabulary file is of lower-case text, without accents; a folder knows itself.
        max_length: longest window in tokens, with the question and three special ones.
        stride: tokens that a window shares with the next one of its question.
        batch_size: global training batch, in windows.
        eval_batch_size: batch of validation and test, per process, in questions.
        val_share: share of the training articles that are held out for validation, in (0, 1).
        train_articles, test_articles: use only so many articles, the first of the file; None is all.
        seed: of the choice of articles for validation.
        order_seed: of the order of training batches.
        num_workers: processes that load data.

    Raises:
        ConfigError: a number out of range; from ``setup``, a file that is missing or of another kind, a vocabulary
            without special tokens, or a ``max_length`` that leaves a question no room for its paragraph.
    """

    def __init__(
        self,
        root: str | None,
        batch_size: int,
        name: str = "squad",
        vocabulary: str = "vocab.txt",
        lowercase: bool = True,
        max_length: int = 384,
        stride: int = 128,
        eval_batch_size: int = 16,
        val_share: float = 0.05,
        train_articles: int | None = None,
        test_articles: int | None = None,
        seed: int = 0,
        order_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(num_workers)
        lower = {"max_length": (max_length, 5), "stride": (stride, 0), "eval_batch_size": (eval_batch_size, 1)}
        lower |= {"batch_size": (batch_size, 1), "seed": (seed, 0), "order_seed": (order_seed, 0)}
        if train_articles is not None:
            lower["train_articles"] = (train_articles, 2)
        if test_articles is not None:
            lower["test_articles"] = (test_articles, 1)
        for key, (value, least) in lower.items():
            if value < least:
                raise ConfigError(f"data.{key}", value, f"an integer >= {least}")
        if not 0.0 < val_share < 1.0:
            raise ConfigError("data.val_share", val_share, "a share between 0 and 1")
        self.folder = None if root is None else Path(root) / name
        self.vocabulary, self.lowercase = vocabulary, lowercase
        self.max_length, self.stride, self.val_share = max_length, stride, val_share
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.articles = {"train": train_articles, "test": test_articles}
        self.seed, self.order_seed = seed, order_seed
        self.splits: dict[str, Windows] = {}
        self.num_tokens = 0

    def load(self) -> dict[str, Any]:
        """Contents of the files of ``train`` and ``test``.

        Raises:
            ConfigError: a file that is missing or no JSON.
        """
        return {split: self._json(name) for split, name in FILES.items()}

    def tokenizer(self) -> Any:
        """The fast tokenizer of ``transformers``.

        Raises:
            ConfigError: there is none where ``vocabulary`` says.
        """
        from transformers import AutoTokenizer, BertTokenizer

        path = self._path(self.vocabulary)
        try:
            if path.is_dir():
                return AutoTokenizer.from_pretrained(str(path), local_files_only=True, use_fast=True)
            pieces = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            allowed = f"a WordPiece vocabulary or a folder with a tokenizer ({error})"
            raise ConfigError("data.vocabulary", str(path), allowed) from error
        if missing := [token for token in SPECIAL if token not in pieces]:
            raise ConfigError(
                "data.vocabulary", str(path), f"a WordPiece vocabulary; {', '.join(missing)} is not in it"
            )
        numbers = {piece: number for number, piece in enumerate(pieces)}
        return BertTokenizer(vocab=numbers, do_lower_case=self.lowercase)

    def setup(self, stage: str | None = None) -> None:
        if self.splits:
            return
        questions = {split: _questions(content, split, self.articles[split]) for split, content in self.load().items()}
        order = permutation(len(questions["train"]), derive("val", self.seed))
        held = max(1, round(self.val_share * len(order)))
        if held >= len(order):
            raise ConfigError("data.val_share", self.val_share, f"a share that leaves some of {len(order)} articles")
        out = set(order[:held].tolist())
        chosen = {
            "train": [article for row, article in enumerate(questions["train"]) if row not in out],
            "val": [questions["train"][row] for row in sorted(out)],
            "test": questions["test"],
        }
        tokenizer = self.tokenizer()
        if not tokenizer.is_fast or tokenizer("a", "b").sequence_ids() != [None, 0, None, 1, None]:
            raise ConfigError("data.vocabulary", self.vocabulary, "a fast tokenizer that joins two texts as BERT does")
        self.num_tokens = len(tokenizer)
        splits = {
            split: tokenise(tokenizer, [item for article in articles for item in article], self.max_length, self.stride)
            for split, articles in chosen.items()
        }
        check_batch_size(self.batch_size, len(splits["train"]))
        self.splits = splits

    @property
    def train_size(self) -> int:
        return len(self.splits["train"])

    @property
    def val_size(self) -> int:
        return len(self.splits["val"].questions)

    @property
    def test_size(self) -> int:
        return len(self.splits["test"].questions)

    def train_loader(self) -> DataLoader[Any]:
        train, seed = self.splits["train"], derive("run", self.seed, self.order_seed)
        sampler = SeededBatchSampler(len(train), self.batch_size, seed, *self._process())
        return self._loader(_TrainingWindows(train), sampler, persistent_workers=self.num_workers > 0)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._evaluation("val")

    def test_dataloader(self) -> DataLoader[Any]:
        return self._evaluation("test")

    def measurement_batches(self, count: int, split: str = "train", batch_size: int = 512) -> list[Examples]:
        """The first ``count`` windows of a split in fixed order, as (inputs, labels).

        Raises:
            ConfigError: the split is unknown or smaller than ``count``.
        """
        if split not in self.splits:
            raise ConfigError("split", split, f"one of {', '.join(self.splits)}")
        windows = self.splits[split]
        if not 1 <= count <= len(windows):
            raise ConfigError("images", count, f"from 1 to the {len(windows)} windows of the {split} split")
        return [windows.examples(batch.indices) for batch in InOrder(count, batch_size)]

    def _path(self, name: str) -> Path:
        if self.folder is None:
            raise ConfigError("data_root", None, "a directory with the folder of the data")
        return self.folder / name

    def _json(self, name: str) -> Any:
        path = self._path(name)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError("data_root", str(path), f"a file of SQuAD v1.1 ({error})") from error

    def _evaluation(self, split: str) -> DataLoader[Any]:
        windows = self.splits[split]
        sampler = InOrder(len(windows.questions), self.eval_batch_size, *self._process())
        return self._loader(_QuestionBatches(windows), sampler)


class GeneratedQuestionsDataModule(QuestionAnsweringDataModule):
    """The corpus of :mod:`curvature.data.generated_questions`, with its own vocabulary; nothing is read from disk.

    Args:
        train_articles, test_articles: regions of the training and of the test corpus. Paragraphs and
            combinations are drawn anew, but names of towns may occur in both.
        facts: sentences of a paragraph.
        paragraphs: of an article.
        seed: of the corpus and of the articles for validation.
        **options: see :class:`QuestionAnsweringDataModule`.

    Raises:
        ConfigError: ``facts`` or ``paragraphs`` out of range.
    """

    def __init__(
        self,
        batch_size: int,
        train_articles: int = 200,
        test_articles: int = 40,
        facts: int = 4,
        paragraphs: int = 2,
        seed: int = 0,
        **options: Any,
    ) -> None:
        options = {"max_length": 48, "stride": 12, **options}
        super().__init__(
            None, batch_size, train_articles=train_articles, test_articles=test_articles, seed=seed, **options
        )
        for key, value, most in (("facts", facts, len(FACTS)), ("paragraphs", paragraphs, 1000)):
            if not 1 <= value <= most:
                raise ConfigError(f"data.{key}", value, f"an integer from 1 to {most}")
        self.facts, self.paragraphs = facts, paragraphs

    def load(self) -> dict[str, Any]:
        return {
            split: generated_articles(self.articles[split] or 1, derive(split, self.seed), self.facts, self.paragraphs)
            for split in ("train", "test")
        }

    def tokenizer(self) -> Any:
        from transformers import BertTokenizer

        return BertTokenizer(vocab=dict(generated_vocabulary()), do_lower_case=True)


class _TrainingWindows(Dataset[Examples]):
    """Hands out whole batches of windows."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitems__(self, batch: Batch) -> Examples:
        return self.windows.examples(batch.indices)


class _QuestionBatches(_TrainingWindows):
    """Hands out all windows of a batch of questions, with their positions."""

    def __getitems__(self, batch: Batch) -> Any:
        rows = self.windows.of_questions(batch.indices)
        return *self.windows.examples(rows), torch.from_numpy(rows)


def _questions(content: Any, split: str, articles: int | None) -> list[Sequence[Question]]:
    """Questions of every article.

    Raises:
        ConfigError: another layout than that of SQuAD v1.1, too few articles, or an answer that is not in its place.
    """
    try:
        found: list[Sequence[Question]] = [
            [
                Question(
                    str(asked["id"]),
                    paragraph["context"],
                    asked["question"],
                    tuple((int(answer["answer_start"]), answer["text"]) for answer in asked["answers"]),
                )
                for paragraph in article["paragraphs"]
                for asked in paragraph["qas"]
            ]
            for article in content["data"][:articles]
        ]
        asked = [question for article in found for question in article]
        misplaced = [
            question.identity
            for question in asked
            if not question.answers or not all(question.context.startswith(text, at) for at, text in question.answers)
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError("data_root", FILES[split], f"the layout of SQuAD v1.1 ({error!r})") from error
    if articles is not None and len(found) < articles:
        raise ConfigError(f"data.{split}_articles", articles, f"at most {len(found)}, all there are")
    if misplaced or not asked:
        reason = f"answers in their places, not as of question {misplaced[0]}" if misplaced else "questions"
        raise ConfigError("data_root", FILES[split], reason)
    return [article for article in found if article]
