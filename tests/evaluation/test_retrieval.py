"""Search for the nearest of known texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import bottega
from bottega.evaluation.retrieval import Bm25Retriever, DenseRetriever
from making import make_model


@pytest.mark.parametrize(
    ("asked", "known"),
    [
        ("我的包裹在哪里", ["今天天气很好", "包裹什么时候到", "谢谢您的帮助"]),
        ("พัสดุของฉันอยู่ที่ไหน", ["วันนี้อากาศดี", "พัสดุจะมาเมื่อไร", "ขอบคุณมาก"]),
        ("お荷物はどこ", ["天気がいい", "お荷物を待つ", "ありがとう"]),
        ("где моя посылка", ["сегодня солнечно", "ПОСЫЛКА пришла", "спасибо"]),
        ("il caffe\u0300 no", ["oggi piove", "Caffè no", "grazie"]),
        ("में दिल्ली", ["धन्यवाद", "दिल्ली", "आज"]),
        ("كتب الولد", ["شكرا", "كَتَبَ", "اليوم"]),
        ("istanbul", ["ankara", "İSTANBUL", "izmir"]),
        ("in a no 5", ["out", "5 as", "be"]),
    ],
)
def test_words_are_found_in_every_script(asked: str, known: list[str]) -> None:
    numbers, nearness = Bm25Retriever(known).nearest([asked], 3)
    assert numbers[0, 0] == 1
    assert sorted(numbers[0].tolist()) == [0, 1, 2], "nothing is shown twice"
    assert nearness[0, 0] > nearness[0, 1]
    assert nearness[0, 2] == 0


def test_a_query_without_a_match_gets_random_rows() -> None:
    index = Bm25Retriever([f"word{number}" for number in range(50)])
    asked = ["unknown", "another", "?", "", "third"]
    numbers, nearness = index.nearest(asked, 5)
    assert not nearness.any()
    assert all(len(set(row)) == 5 for row in numbers.tolist())
    assert len({tuple(row) for row in numbers.tolist()}) == len(asked)
    assert (numbers == index.nearest(asked, 5)[0]).all(), "the same every time"
    assert Bm25Retriever(["", "?"]).nearest(["x"], 9)[0].shape == (1, 2)
    assert Bm25Retriever([]).nearest(["x"], 3)[0].shape == (1, 0)


def test_bm25_and_dense_retrieval_find_the_nearest_texts(tmp_path: Path) -> None:
    texts = ["the cat sat on the mat", "a dog ran under the tree", "one two three"]
    index = Bm25Retriever(texts)
    numbers, nearness = index.nearest(["where is the dog", "three!", "nothing known xyz"], 2)
    assert numbers[:2, 0].tolist() == [1, 2]
    assert nearness[2].tolist() == [0, 0]
    embedder = bottega.load_embedder(make_model(tmp_path / "m", "bert"))
    vectors = embedder.embed(texts)
    numbers, nearness = DenseRetriever(texts, embedder).nearest(["dog", texts[2]], 3)
    want = np.argsort(-(embedder.embed(["dog", texts[2]]) @ vectors.T), axis=1)
    assert numbers.tolist() == want.tolist()
    assert nearness[1, 0] == pytest.approx(1, abs=1e-5)
