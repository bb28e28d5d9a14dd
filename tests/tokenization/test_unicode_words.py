"""What a word is in twenty languages, and that the quick way says the same as the thorough one."""

from __future__ import annotations

import unicodedata

import pytest

from bottega.tokenization import unicode_words
from bottega.tokenization.unicode_words import count_words, fold_text, search_terms, split_words, word_offsets

SENTENCES = {
    "Italian": ("Perché non è più qui la città?", ["Perché", "non", "è", "più", "qui", "la", "città"]),
    "German": ("Die Straße heißt „Süd“.", ["Die", "Straße", "heißt", "Süd"]),
    "Russian": ("Где моя посылка?", ["Где", "моя", "посылка"]),
    "Greek": ("Πού είναι το δέμα;", ["Πού", "είναι", "το", "δέμα"]),
    "Hindi": ("दिल्ली में हूँ।", ["दिल्ली", "में", "हूँ"]),
    "Tamil": ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
    "Arabic": ("السَّلَامُ عَلَيْكُمْ،", ["السَّلَامُ", "عَلَيْكُمْ"]),
    "Persian": ("می‌خواهم بروم", ["می‌خواهم", "بروم"]),
    "Hebrew": ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
    "Korean": ("제 소포는 어디에 있나요?", ["제", "소포는", "어디에", "있나요"]),
    "Chinese": ("我的包裹在哪里？", ["我", "的", "包", "裹", "在", "哪", "里"]),
    "Japanese": ("コーヒーを2杯", ["コ", "ー", "ヒ", "ー", "を", "2", "杯"]),
    "Thai": ("น้ำแข็ง", ["น้", "ำ", "แ", "ข็", "ง"]),
    "Khmer": ("ភាសា", ["ភា", "សា"]),
    "Burmese": ("မြန်မာ", ["မြ", "န်", "မာ"]),
    "Lao": ("ລາວ", ["ລ", "າ", "ວ"]),
}


@pytest.mark.parametrize("language", SENTENCES)
def test_words_keep_their_marks_and_lose_only_signs(language: str) -> None:
    text, wanted = SENTENCES[language]
    assert split_words(text) == wanted
    decomposed = unicodedata.normalize("NFD", text)
    assert [unicode_words.to_nfc(word) for word in split_words(decomposed)] == [
        unicode_words.to_nfc(word) for word in wanted
    ]
    everything = [text[start:stop] for start, stop in word_offsets(text, signs=True)]
    assert "".join(everything) == "".join(text.split()), "every sign stands in one place"


def test_the_quick_way_is_the_thorough_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["Don't 3.14 (a_b) – naïve “x” Привет! ½ €5", *(text for text, _ in SENTENCES.values()), "", " \t\n"]
    quick = [(word_offsets(text), word_offsets(text, signs=True)) for text in texts]
    monkeypatch.setattr(unicode_words, "PLAIN_TEXT", unicode_words.re.compile(r"(?!)"))
    assert quick == [(word_offsets(text), word_offsets(text, signs=True)) for text in texts]


def test_words_are_counted_in_any_script() -> None:
    assert count_words("two words") == 2
    assert count_words("我的包裹在哪里") == 7
    assert count_words("กรุงเทพ") == 6
    assert count_words("제 소포") == 2
    assert count_words("") == 0


def test_what_is_looked_up() -> None:
    assert search_terms("No, in as 5 a") == ["no", "in", "as", "5", "a"]
    assert search_terms("佐藤は a 猫") == ["佐藤", "藤は", "a", "猫"]
    assert search_terms("İstanbul IŞIK") == search_terms("istanbul ışık")
    assert search_terms("ＡＢ１ STRASSE") == search_terms("ab1 straße")
    assert search_terms("cafe\u0301") == search_terms("café") != search_terms("cafe")
    assert search_terms("السَّلَامُ") == search_terms("السلام")
    assert search_terms("שָׁלוֹם") == search_terms("שלום")
    assert search_terms("👍 ?") == []
    assert fold_text("ΟΔΟΣ") == fold_text("οδος")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("दिल्ली में", ["दिल्ली", "में"]),
        ("cafe\u0301 now", ["cafe\u0301", "now"]),
        ("e\u0301tat!", ["e\u0301tat", "!"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("สี่ มือ", ["สี่", "มื", "อ"]),
        ("مُحَمَّد", ["مُحَمَّد"]),
        ("a!\u0301b", ["a", "!\u0301", "b"]),
        ("l'état, c'est", ["l", "'", "état", ",", "c", "'", "est"]),
    ],
)
def test_marks_stay_with_their_letter(text: str, parts: list[str]) -> None:
    assert [text[start:stop] for start, stop in unicode_words.word_offsets(text, signs=True)] == parts
