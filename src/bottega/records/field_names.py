"""Names of fields that row formats share, the canonical name of each first."""

from __future__ import annotations

import re

# The field of a row with further variables of the chat template; TRL's name for it.
VARIABLES_FIELD = "chat_template_kwargs"

# Prompts and answers

MESSAGE_FIELDS = ("messages", "conversations", "conversation")
QUESTION_FIELDS = ("question", "problem", "query", "input", "inputs")
PROMPT_FIELDS = ("prompt", *QUESTION_FIELDS, "instruction")

COMPLETION_FIELDS = ("completion", "response", "output", "answer")
ANSWER_FIELDS = ("answer", "answers", "solution", "response", "output", "completion", "target", "targets")
# Of the reference answer of a prompt.
REFERENCE_FIELDS = (
    *ANSWER_FIELDS, "ground_truth", "final_answer", "expected_answer", "reference_answer", "gold",
)  # fmt: skip

# Fields that turn a plain prompt into a conversation.
CONVERSATION_FIELDS = ("system", "history", "tools", "functions", VARIABLES_FIELD)
# Fields that are put before a prompt.
CONTEXT_FIELDS = (*CONVERSATION_FIELDS, "input", "context")

CHOSEN_FIELDS = ("chosen", "chosen_response", "response_chosen", "preferred", "accepted", "response_j")
REJECTED_FIELDS = ("rejected", "rejected_response", "response_rejected", "dispreferred", "response_k")
# Whether an answer is desirable.
FLAG_FIELDS = ("label", "kto_tag", "desirable")

CHOICE_FIELDS = ("choices", "options")
CORRECT_CHOICE_FIELDS = ("gold", "answer", "answerKey", "answerkey")

# Labelled texts

TEXT_FIELDS = ("text", "sentence", "utterance", "content", "document")
LABEL_FIELDS = ("label", "category", "intent", "labels")
# Names that count as a label only if no field is named like one.
WEAK_LABEL_FIELDS = ("class", "sentiment", "topic", "rating", "stars", "score")
LABEL_LIST_FIELDS = ("labels", "categories", "intents")
SPAN_FIELDS = ("spans", "entities", "ents", "ner", "annotations")
TOKEN_FIELDS, TAG_FIELDS = ("tokens", "words"), ("tags", "ner_tags", "ner", "labels")
FIRST_TEXT_FIELDS = ("sentence1", "text1", "sentence_a", "text_a", "question1")
SECOND_TEXT_FIELDS = ("sentence2", "text2", "sentence_b", "text_b", "question2")
# `negatives`, `neg`, `hard_negative_1` …
NEGATIVE_FIELD = re.compile(r"(?:hard_)?neg(?:ative)?s?(?:_?\d+)?")
