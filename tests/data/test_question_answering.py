"""Questions as windows of tokens: spans map back to their characters, windows cover, splits do not leak."""

import json

import numpy as np
import pytest
import torch

from curvature.data.generated_questions import generated_articles, generated_vocabulary
from curvature.data.question_answering import GeneratedQuestionsDataModule, QuestionAnsweringDataModule
from curvature.data.windows import Question, best_spans, tokenise
from curvature.errors import ConfigError


def generated(**options):
    options = {"batch_size": 8, "train_articles": 12, "test_articles": 3, "val_share": 0.25, **options}
    data = GeneratedQuestionsDataModule(**options)
    data.setup()
    return data


@pytest.fixture(scope="module")
def data():
    return generated()


def files(root, train=4, test=2, vocabulary=None):
    folder = root / "squad"
    folder.mkdir()
    for name, count, seed in (("train", train, 0), ("dev", test, 1)):
        (folder / f"{name}-v1.1.json").write_text(json.dumps(generated_articles(count, seed)))
    (folder / "vocab.txt").write_text("\n".join(generated_vocabulary() if vocabulary is None else vocabulary))
    return root


def read(root, **options):
    options = {"batch_size": 4, "max_length": 40, "stride": 8, "val_share": 0.25, **options}
    data = QuestionAnsweringDataModule(str(root), **options)
    data.setup()
    return data


def test_the_tokens_of_an_answer_are_exactly_its_characters(data):
    for windows in data.splits.values():
        found = set()
        for row, (first, last) in enumerate(windows.labels.tolist()):
            if (first, last) == (0, 0):
                continue
            question = windows.questions[windows.question[row]]
            start, end = windows.offsets[row, first, 0], windows.offsets[row, last, 1]
            assert (start, question.context[start:end]) == question.answers[0]
            found.add(windows.question[row])
        assert found == set(range(len(windows.questions)))


@pytest.mark.parametrize(("length", "stride"), [(32, 0), (32, 8), (48, 12), (36, 1)])
def test_windows_cover_every_token_and_share_stride_tokens(length, stride):
    data = generated(max_length=length, stride=stride)
    windows, tokenizer = data.splits["train"], data.tokenizer()
    assert len(windows) > len(windows.questions)
    for number, question in enumerate(windows.questions):
        rows = windows.of_questions(np.array([number]))
        expected = tokenizer(question.context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        parts = [[tuple(pair) for pair in windows.offsets[row, slice(*windows.context[row])].tolist()] for row in rows]
        joined = [pair for index, part in enumerate(parts) for pair in part[stride if index else 0 :]]
        assert joined == expected


def test_an_answer_that_a_window_cuts_points_at_cls(data):
    tokenizer = data.tokenizer()
    context = "The mayor is Ada Lamsen."
    question = Question("0", context, "Who is mayor?", ((13, "Ada Lamsen"),))
    windows = tokenise(tokenizer, [question], max_length=4 + 3 + 6, stride=2)
    texts = [
        tokenizer.convert_ids_to_tokens(ids[slice(*span)]) for ids, span in zip(windows.input_ids, windows.context)
    ]
    assert texts == [["the", "mayor", "is", "ada", "lam", "##sen"], ["lam", "##sen", "."]]
    assert windows.labels.tolist() == [[6 + 3, 6 + 5], [0, 0]]


def test_spaces_around_an_answer_belong_to_no_token(data):
    context = "The mayor is Ada Lamsen."
    question = Question("0", context, "Who is mayor?", ((12, " Ada Lamsen"),))
    windows = tokenise(data.tokenizer(), [question], max_length=40, stride=2)
    start, end = windows.labels[0].tolist()
    assert context[windows.offsets[0, start, 0] : windows.offsets[0, end, 1]] == "Ada Lamsen"


def test_inputs_are_what_the_tokenizer_makes_of_the_pair(data):
    windows, tokenizer = data.splits["test"], data.tokenizer()
    whole = [row for row in range(len(windows)) if (windows.question == windows.question[row]).sum() == 1]
    inputs, _ = windows.examples(np.array(whole))
    questions = [windows.questions[windows.question[row]] for row in whole]
    expected = tokenizer([q.text for q in questions], [q.context for q in questions], padding=True, return_tensors="pt")
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        assert torch.equal(inputs[name], expected[name])


def test_best_span_is_that_of_an_exhaustive_search():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 12, 2, generator=generator)
    context = torch.tensor([[1, 12], [3, 9], [5, 6], [0, 12], [4, 11], [2, 10]])
    for longest in (1, 3, 30):
        scores, spans = best_spans(logits, context, longest)
        for row, (first, behind) in enumerate(context.tolist()):
            candidates = {
                (i, j): float(logits[row, i, 0] + logits[row, j, 1])
                for i in range(first, behind)
                for j in range(i, min(behind, i + longest))
            }
            best = max(candidates, key=candidates.__getitem__)
            assert tuple(spans[row].tolist()) == best and float(scores[row]) == pytest.approx(candidates[best])


def test_a_prediction_is_the_best_span_over_all_windows_of_its_question(data):
    windows = data.splits["test"]
    row = next(
        row
        for row in range(1, len(windows))
        if windows.labels[row, 0] and windows.question[row - 1] == windows.question[row]
    )
    rows = torch.from_numpy(windows.of_questions(windows.question[[row]]))
    logits = torch.zeros(len(rows), windows.input_ids.shape[1], 2)
    logits[:, 0] = 100.0
    first, last = windows.labels[row].tolist()
    logits[rows == row, first, 0] = logits[rows == row, last, 1] = 1.0
    (prediction,), (reference,) = windows.answers(rows, logits)
    question = windows.questions[windows.question[row]]
    assert prediction == {"id": question.identity, "prediction_text": question.answers[0][1]}
    assert reference["answers"]["text"] == [text for _, text in question.answers]


def test_no_paragraph_is_in_two_splits_and_articles_are_held_out_whole(data):
    contexts = {split: {question.context for question in windows.questions} for split, windows in data.splits.items()}
    assert not contexts["train"] & contexts["val"] and not contexts["train"] & contexts["test"]
    articles = {split: {q.identity.split("-")[1] for q in data.splits[split].questions} for split in ("train", "val")}
    assert len(articles["val"]) == 3 and len(articles["train"]) == 9 and not articles["val"] & articles["train"]
    assert {q.identity for q in generated(order_seed=5).splits["val"].questions} == {
        q.identity for q in data.splits["val"].questions
    }
    assert {q.identity for q in generated(seed=1).splits["val"].questions}.isdisjoint(
        q.identity for q in data.splits["val"].questions
    )


def test_order_is_a_function_of_seed_and_epoch_and_a_run_goes_on_in_the_middle():
    def batches(start=0, **options):
        data = generated(**options)
        data.stream(30, start)
        return [
            torch.cat([batch["input_ids"].flatten(), labels.flatten()]) for batch, labels in data.train_dataloader()
        ]

    whole, again, other = batches(), batches(), batches(order_seed=1)
    assert len(generated().train_loader()) < 30
    assert all(map(torch.equal, whole, again)) and not all(map(torch.equal, whole[:1], other[:1]))
    assert all(map(torch.equal, whole[17:], batches(start=17)))


def test_batches_of_evaluation_hold_all_windows_of_their_questions_once(data):
    for loader, split in ((data.val_dataloader(), "val"), (data.test_dataloader(), "test")):
        rows = [batch[2] for batch in loader]
        assert torch.equal(torch.cat(rows), torch.arange(len(data.splits[split])))
        asked = [set(data.splits[split].question[part.numpy()]) for part in rows]
        assert sum(map(len, asked)) == len(set.union(*asked))


def test_files_of_squad_and_a_folder_with_a_tokenizer_give_the_same_windows(tmp_path):
    data = read(files(tmp_path))
    assert data.num_tokens == len(generated_vocabulary()) and data.test_size == 2 * 2 * 4
    assert len({q.context for q in data.splits["val"].questions}) == 2
    data.tokenizer().save_pretrained(str(tmp_path / "squad" / "tokenizer"))
    other = read(tmp_path, vocabulary="tokenizer")
    assert np.array_equal(data.splits["train"].input_ids, other.splits["train"].input_ids)
    assert read(tmp_path, train_articles=3, test_articles=1).test_size == 8


def test_generated_articles_are_made_of_known_pieces_and_fewer_are_the_first_of_more():
    more = generated_articles(6, seed=3)["data"]
    assert more[:2] == generated_articles(2, seed=3)["data"] and more[:2] != generated_articles(2, seed=4)["data"]
    tokenizer = generated(train_articles=2).tokenizer()
    texts = [text for a in more for p in a["paragraphs"] for text in (p["context"], *(q["question"] for q in p["qas"]))]
    assert tokenizer.unk_token_id not in {token for ids in tokenizer(texts)["input_ids"] for token in ids}


def test_what_cannot_work_is_said(tmp_path):
    for key, value in {"max_length": 4, "stride": -1, "batch_size": 0, "val_share": 1.0, "train_articles": 0}.items():
        with pytest.raises(ConfigError, match=rf"data\.{key}"):
            QuestionAnsweringDataModule(str(tmp_path), **{"batch_size": 4, key: value})
    with pytest.raises(ConfigError, match=r"data\.facts"):
        generated(facts=8)
    for key, value in {"max_length": 20, "batch_size": 10**6}.items():
        with pytest.raises(ConfigError, match=rf"data\.{key}"):
            generated(**{key: value})
    for root in (None, tmp_path):
        with pytest.raises(ConfigError, match="data_root"):
            QuestionAnsweringDataModule(root, 4).setup()
    files(tmp_path, vocabulary=["[PAD]", "[UNK]", "[CLS]", "a"])
    with pytest.raises(ConfigError, match=r"data\.vocabulary.*\[SEP\]"):
        read(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.vocabulary"):
        read(tmp_path, vocabulary="missing.txt")
    with pytest.raises(ConfigError, match=r"data\.test_articles"):
        read(tmp_path, test_articles=9)
    with pytest.raises(ConfigError, match=r"data\.val_share"):
        read(tmp_path, train_articles=2, val_share=0.9)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        '{"data": []}',
        '{"data": [{"paragraphs": []}]}',
        '{"data": [{"paragraphs": [{"context": "a"}]}]}',
        '{"data": [{"paragraphs": [{"context": 1, "qas": [{"id": 0, "question": "", "answers": [{"text": "a", '
        '"answer_start": 0}]}]}]}]}',
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    files(tmp_path)
    (tmp_path / "squad" / "dev-v1.1.json").write_text(content)
    with pytest.raises(ConfigError, match=r"data_root.*dev-v1"):
        read(tmp_path)


def test_an_answer_that_is_not_in_its_place_is_refused(tmp_path):
    files(tmp_path)
    articles = generated_articles(2, 1)
    articles["data"][1]["paragraphs"][0]["qas"][2]["answers"][0]["answer_start"] += 1
    (tmp_path / "squad" / "dev-v1.1.json").write_text(json.dumps(articles))
    with pytest.raises(ConfigError, match="not as of question 1-1-0-2"):
        read(tmp_path)
