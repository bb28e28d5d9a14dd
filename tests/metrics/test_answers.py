"""Each way to mark a written answer, beside the package it is made of or beside counting by hand."""

from __future__ import annotations

import unicodedata
from decimal import Decimal

import numpy as np
import pytest

from bottega.metrics.answers import Metric, applicable_metrics
from bottega.metrics.answers.bleu import Bleu
from bottega.metrics.answers.chrf import Chrf
from bottega.metrics.answers.exact import Exact
from bottega.metrics.answers.fields import Fields
from bottega.metrics.answers.numeric import Numeric, final_number
from bottega.metrics.answers.rouge import Rouge
from bottega.tokenization.unicode_words import count_words

RIGHT = [
    "the quick brown fox jumps over the lazy dog today",
    "a stitch in time saves nine, they always say",
    "we show that the method works well in practice for many tasks",
]
SAID = ["the quick fox jumped over a lazy dog", "a stitch in time saves nine always", "works the method, we xyz"]


def test_bleu_and_chrf_equal_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    for said, right in ((SAID, RIGHT), (SAID[2:], RIGHT[2:]), (["", "x"], RIGHT[:2]), (RIGHT, RIGHT)):
        bleu = Bleu().scores(said, [[one] for one in right])
        assert float(bleu.statistic(bleu.sums.sum(0))) == pytest.approx(
            sacrebleu.BLEU().corpus_score(said, [right]).score
        )
        chrf = Chrf().scores(said, [[one] for one in right])
        assert float(chrf.statistic(chrf.sums.sum(0))) == pytest.approx(
            sacrebleu.CHRF().corpus_score(said, [right]).score
        )
        for text, one, found in zip(said, right, chrf.each, strict=True):
            assert found == pytest.approx(sacrebleu.CHRF().sentence_score(text, [one]).score)


def test_rouge_equals_that_of_rouge_score_for_the_best_reference() -> None:
    rouge = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    scores = Rouge().scores(SAID, [[one] for one in RIGHT])
    assert scores.each == pytest.approx([
        rouge.score(one, said)["rougeL"].fmeasure for one, said in zip(RIGHT, SAID, strict=True)
    ])  # fmt: skip
    assert Rouge().sums(RIGHT[0], [RIGHT[1], RIGHT[0]]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("text", "found"),
    [("so 3 + 4 = 7\n#### 7", "7"), ("about 1,234.50 euros", "1234.5"), ("#### -12", "-12"), ("none", None),
     ("it is 5. Or 6.", "6"), ("7 of them ####", "7"),
     # A dash between two numbers is no sign, and a sign need not be ASCII.
     ("10-12", "12"), ("pages 10–12", "12"), ("x-5", "5"), ("minus: \u22125", "-5"), ("－５", "-5"), ("=-3", "-3"),
     ("-$5", "-5"), ("+7", "7"), ("(2)-1", "1"), ("10 – 12", "12"),
     # Groups of three, and decimals, as they are written elsewhere.
     ("1,234,567.5", "1234567.5"), ("1.234.567", "1234567"), ("1.234,56 €", "1234.56"), ("3,5", "3.5"),
     ("0,125", "0.125"), ("1\u202f234,5", "1234.5"), ("12’345.60", "12345.6"), ("12,34,567", "1234567"),
     ("1 000", "1000"), ("il y en a 1 234,5", "1234.5"), ("12 345 678", "12345678"), ("2 4 123", "123"),
     ("2 45", "45"), ("1 0000", "0"),
     ("1,2,3", "3"), ("1, 2", "2"), ("1.234", "1.234"), (".5", "0.5"), ("1e3", "1000"), ("2.5E-1", "0.25"),
     # Digits of other scripts.
     ("١٢", "12"), ("१२,३४५", "12345"), ("１２．５", "12.5"), ("٣٫٥", "3.5"), ("๑๒๓", "123"), ("答えは42です", "42")],
)  # fmt: skip
def test_the_number_of_an_answer(text: str, found: str | None) -> None:
    assert final_number(text) == (None if found is None else Decimal(found))


def test_numbers_are_compared_as_numbers() -> None:
    assert Numeric().sums("it makes 1,000.0", ["#### 1000"]) == (1.0, 1.0)
    assert Numeric().sums("I do not know", ["#### 1000"]) == (0.0, 1.0)
    assert Numeric().applies_to(["2 + 2\n#### 4", "#### 5"])
    assert Numeric().applies_to(["4", "-5.5", "\u22125", "１２", "1.234,5"])
    assert not Numeric().applies_to(["4", "10-12"])
    assert Numeric().sums("10-12", ["-12"]) == (0.0, 1.0)
    assert Numeric().sums("it is \u22125", ["5"]) == (0.0, 1.0)
    assert Numeric().sums("3,5", ["3.5"]) == Numeric().sums("９", ["9"]) == (1.0, 1.0)
    assert Numeric().sums("9" * 400, ["8" * 400]) == (0.0, 1.0), "as floats both would be infinite"
    assert not Numeric().applies_to(["4", "about 5"])


def test_fields_f1_against_values_computed_by_hand() -> None:
    right = '{"name": "Ada", "age": 36, "tags": ["a", "b"]}'
    assert Fields().applies_to([right, "[1, 2]"])
    assert not Fields().applies_to([right, "3", "no JSON"])
    assert Fields().sums(right, [right]) == (4, 8)
    assert Fields().sums('{"tags": ["b", "c"], "name": "Ada", "age": 37}', [right]) == (2, 8)
    assert Fields().sums("no JSON", [right]) == (0, 4), "nothing was written that could be read"
    assert Fields().sums('{"name": "Eve"}', ['{"name": "Ada"}', '{"name": "Eve"}']) == (2 / 2, 2)
    scores = Fields().scores([right, "no JSON"], [[right], [right]])
    assert float(scores.statistic(scores.sums.sum(0))) == pytest.approx(2 * 4 / 12)


def test_applicable_metrics() -> None:
    assert [one.name for one in applicable_metrics(["red", "blue"])[0]] == ["exact_match"]
    assert {one.name for one in applicable_metrics(RIGHT)[0]} == {"exact_match", "bleu", "chrf", "rouge_l"}
    assert {one.name for one in applicable_metrics(['{"a": 1}'])[0]} == {"exact_match", "fields_f1"}


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bottega.metrics.answers.is_installed", lambda metric: metric.requires != "sacrebleu")
    found, absent = applicable_metrics(RIGHT)
    assert {one.name for one in found} == {"exact_match", "rouge_l"}
    assert absent == ["bleu", "chrf"]


ANSWERS = {
    # right, and the same with a word that is wrong
    "Italian": ("perché la città è già così lontana da noi", "perché la città è già così vicina da noi"),
    "German": (
        "die Maße der Straße sind größer als gedacht worden",
        "die Masse der Straße sind größer als gedacht worden",
    ),
    "Russian": ("ваша посылка придёт завтра утром в десять часов", "ваша посылка придёт завтра утром в девять часов"),
    "Greek": ("το δέμα σας θα έρθει αύριο το πρωί", "το δέμα σας θα έρθει σήμερα το πρωί"),
    "Arabic": ("ستصل الطرود غدا في الساعة العاشرة صباحا تماما", "ستصل الطرود غدا في الساعة التاسعة صباحا تماما"),
    "vowelled Arabic": ("كَتَبَ الوَلَدُ الدَّرْسَ فِي البَيْتِ", "كُتِبَ الوَلَدُ الدَّرْسَ فِي البَيْتِ"),
    "Hebrew": ("החבילה שלך תגיע מחר בבוקר בשעה עשר", "החבילה שלך תגיע מחר בבוקר בשעה תשע"),
    "Hindi": ("आपका पार्सल कल सुबह दस बजे दिल्ली आएगा", "आपका पार्सल कल सुबह दस बजे दिल्ला आएगा"),
    "Korean": ("고객님의 소포는 내일 아침 열 시에 도착합니다", "고객님의 소포는 내일 아침 아홉 시에 도착합니다"),
    "Chinese": ("您的包裹明天上午到。", "您的包裹今天上午到。"),
    "Japanese": ("お荷物は明日の朝に届きます。", "お荷物は今日の朝に届きます。"),
    "Thai": ("พัสดุของคุณจะมาถึงพรุ่งนี้เช้า", "พัสดุของคุณจะมาถึงวันนี้เช้า"),
    "Khmer": ("កញ្ចប់របស់អ្នកនឹងមកដល់ថ្ងៃស្អែក", "កញ្ចប់របស់អ្នកនឹងមកដល់ថ្ងៃនេះ"),
    "Tibetan": ("ལྷ་ས་ནི་བོད་ཀྱི་རྒྱལ་ས་ཡིན།", "ལྷ་ས་ནི་བོད་ཀྱི་གྲོང་ས་ཡིན།"),
    "Burmese": ("သင့်အထုပ်သည် မနက်ဖြန် ရောက်မည်", "သင့်အထုပ်သည် ယနေ့ ရောက်မည်"),
    "Tamil": ("உங்கள் பொதி நாளை காலை பத்து மணிக்கு வரும்", "உங்கள் பொதி நாளை காலை எட்டு மணிக்கு வரும்"),
    "Georgian": ("თქვენი ამანათი ხვალ დილით ათ საათზე მოვა აქ", "თქვენი ამანათი ხვალ დილით ცხრა საათზე მოვა აქ"),
    "Amharic": ("ጥቅልዎ ነገ ጠዋት በአስር ሰዓት ወደ ቤት ይመጣል", "ጥቅልዎ ነገ ጠዋት በዘጠኝ ሰዓት ወደ ቤት ይመጣል"),
    "Persian": ("بستهٔ شما فردا صبح ساعت ده می‌رسد به خانه", "بستهٔ شما فردا صبح ساعت نه می‌رسد به خانه"),
    "Vietnamese": ("gói hàng của bạn sẽ đến vào sáng mai", "gói hàng của bạn sẽ đến vào tối mai"),
    "Turkish": ("kargonuz yarın sabah saat onda kapıda olacak", "kargonuz yarin sabah saat onda kapıda olacak"),
}


@pytest.mark.parametrize("language", ANSWERS)
def test_a_correct_answer_scores_1_in_every_language_and_a_wrong_one_less(language: str) -> None:
    right, wrong = ANSWERS[language]
    found = {type(one): one for one in applicable_metrics([right])[0]}
    assert set(found) == ({Exact, Bleu, Chrf, Rouge} if count_words(right) >= 8 else {Exact})
    for metric, whole in ((Exact(), 1.0), (Rouge(), 1.0), (Bleu(), 100.0), (Chrf(), 100.0)):
        for written in (right, unicodedata.normalize("NFD", right)):
            for one, other in ((written, right), (right, written)):
                assert metric.statistic(np.array(metric.sums(one, [other]), float)) == pytest.approx(whole)
        less = float(metric.statistic(np.array(metric.sums(wrong, [right]), float)))
        assert less < 0.99 * whole
        if metric.name != "exact_match":
            assert less > 0.2 * whole, "the rest of it is right"


def test_lost_letters_lower_the_score() -> None:
    right = "perché la città è già così lontana da noi"
    (share, _) = Rouge().sums(right.encode("ascii", "ignore").decode(), [right])
    assert share < 0.6


def test_bleu_of_scripts_without_spaces_equals_that_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    said, right = "您的包裹今天上午到 OK，谢谢。", "您的包裹明天上午到 OK，谢谢。"
    bleu = Bleu().scores([said], [[right]])
    wanted = sacrebleu.BLEU(tokenize="zh").corpus_score([said], [[right]]).score
    assert float(bleu.statistic(bleu.sums.sum(0))) == pytest.approx(wanted)


def test_short_answers_have_a_nonzero_bleu() -> None:
    """BLEU uses only the n-gram orders that a short answer has."""
    sacrebleu = pytest.importorskip("sacrebleu")
    said, right = ["one two three"] * 10, ["one two three"] * 10
    for texts in (said, ["one two four"] * 10, ["one"] * 10):
        bleu = Bleu().scores(texts, [[one] for one in right])
        wanted = sacrebleu.BLEU(effective_order=True).corpus_score(texts, [right]).score
        assert float(bleu.statistic(bleu.sums.sum(0))) == pytest.approx(wanted)


@pytest.mark.parametrize("metric", [Exact(), Rouge(), Chrf()])
def test_answers_without_a_word(metric: Metric) -> None:
    """Emoji or signs: an equal answer scores 1, another one less."""
    whole = 100 if metric.name == "chrf" else 1
    assert metric.statistic(np.array(metric.sums("👍🏽", ["👍🏽"]), float)) == whole
    assert metric.statistic(np.array(metric.sums("👎", ["👍🏽"]), float)) == 0
    assert metric.statistic(np.array(metric.sums("", ["x"]), float)) == 0
