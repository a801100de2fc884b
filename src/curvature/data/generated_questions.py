"""A synthetic corpus in the layout of SQuAD v1.1: invented towns, a few facts each, questions answered by a span."""

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from curvature.data.seeds import derive

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
STEMS = ("ba", "dor", "fen", "gul", "ki", "lam", "mo", "nir", "pel", "ru", "sa", "tov", "ul", "vex", "wim", "zan")
ENDINGS = {"town": ("by", "ford", "ton", "wick"), "river": ("beck", "brook", "water"), "family": ("man", "sen", "well")}
GIVEN = ("Ada", "Boris", "Carla", "David", "Elena", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Karin", "Leo")
GOODS = ("amber", "barley", "cheese", "glass", "leather", "paper", "salt", "silk", "timber", "wool")
COLOURS = ("black", "blue", "green", "orange", "purple", "red", "white", "yellow")


class Fact(NamedTuple):
    """``{it}`` is the town and ``{}`` the answer; the second reference is the answer behind the words of ``lead``."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: Callable[[random.Random], str]
    lead: str = ""


def _name(kind: str, chance: random.Random) -> str:
    return (
        chance.choice(STEMS) + chance.choice(STEMS) * chance.randint(0, 1) + chance.choice(ENDINGS[kind])
    ).capitalize()


def _person(chance: random.Random) -> str:
    return f"{chance.choice(GIVEN)} {_name('family', chance)}"


FACTS = (
    Fact(
        ("{it} was founded in {}.", "The town was founded in {}."),
        ("When was {it} founded?", "In which year was {it} founded?"),
        lambda chance: str(chance.randint(1100, 1899)),
        "in ",
    ),
    Fact(
        ("The mayor is {}.", "The mayor of {it} is {}."),
        ("Who is the mayor of {it}?", "Who is mayor in {it}?"),
        _person,
    ),
    Fact(
        ("The town hall was designed by {}.", "Its hall was designed by {}."),
        ("Who designed the town hall?", "Who designed the hall of {it}?"),
        _person,
        "by ",
    ),
    Fact(
        ("It lies on the river {}.", "{it} lies on the river {}."),
        ("Which river does {it} lie on?", "On which river is {it}?"),
        lambda chance: _name("river", chance),
        "the river ",
    ),
    Fact(
        ("About {} people live there.", "About {} people live in {it}."),
        ("How many people live in {it}?", "How many people live there?"),
        lambda chance: f"{chance.randint(1, 99)},{chance.randint(0, 9)}00",
        "About ",
    ),
    Fact(
        ("It exports {}.", "{it} exports {}."),
        ("What does {it} export?", "What is exported from {it}?"),
        lambda chance: " and ".join(chance.sample(GOODS, 2)),
    ),
    Fact(
        ("Its flag is {}.", "The flag of {it} is {}."),
        ("What colour is the flag of {it}?", "Which colour is the flag?"),
        lambda chance: " and ".join(chance.sample(COLOURS, 2)),
    ),
)


def generated_articles(articles: int, seed: int, facts: int = 4, paragraphs: int = 2) -> dict[str, Any]:
    """``{"version": ..., "data": [...]}`` as in a file of SQuAD v1.1; every fact of a paragraph is asked for once.

    Article k is a function of ``seed`` and k, so that fewer articles are the first of more. Some answers have two
    references, e.g. "1834" and "in 1834".

    Args:
        articles: number of regions.
        seed: of the draw.
        facts: sentences of a paragraph, at most ``len(FACTS)``.
        paragraphs: towns of a region.

    Example:
        >>> article = generated_articles(1, seed=0)["data"][0]
        >>> paragraph = article["paragraphs"][0]
        >>> answer = paragraph["qas"][0]["answers"][0]
        >>> paragraph["context"][answer["answer_start"]:].startswith(answer["text"])
        True
    """
    return {"version": "generated", "data": [_article(seed, number, facts, paragraphs) for number in range(articles)]}


def _article(seed: int, number: int, facts: int, paragraphs: int) -> dict[str, Any]:
    chance = random.Random(derive("generated questions", seed, number))
    title = _name("town", chance)
    made = [_paragraph(chance, facts, f"{seed}-{number}-{part}") for part in range(paragraphs)]
    return {"title": title, "paragraphs": made}


def _paragraph(chance: random.Random, facts: int, identity: str) -> dict[str, Any]:
    town, context, qas = _name("town", chance), "", []
    for position, fact in enumerate(chance.sample(FACTS, facts)):
        before, after = chance.choice(fact.statements).replace("{it}", town).split("{}")
        answer = fact.answer(chance)
        context += " " * bool(context) + before
        answers = [{"text": answer, "answer_start": len(context)}]
        if fact.lead:
            answers.append({"text": fact.lead + answer, "answer_start": len(context) - len(fact.lead)})
        question = chance.choice(fact.questions).replace("{it}", town)
        qas.append({"id": f"{identity}-{position}", "question": question, "answers": answers})
        context += answer + after
    return {"context": context, "qas": qas}


def generated_vocabulary() -> Mapping[str, int]:
    """WordPiece vocabulary of every corpus of :func:`generated_articles`, whatever its seed: piece -> number.

    Whole words of templates and lists; names are made of stems and endings that are
    pieces, numbers of two digits each, so that new names are made of known pieces.
    """
    texts = [
        text.replace("{it}", " ").replace("{}", " ") for fact in FACTS for text in (*fact.statements, *fact.questions)
    ]
    words = {word for text in texts for word in text.lower().translate(str.maketrans(".?", "  ")).split()}
    words |= {*GOODS, *COLOURS, *map(str.lower, GIVEN), "and", ".", ",", "?"}
    pieces = {
        *STEMS,
        *(ending for endings in ENDINGS.values() for ending in endings),
        *map(str, range(10)),
        *(f"{number:02d}" for number in range(100)),
    }
    return {
        piece: number for number, piece in enumerate([*SPECIAL, *sorted(words | pieces | {f"##{p}" for p in pieces})])
    }
