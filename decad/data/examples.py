"""Records -> token ids and what is to be predicted of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from io import StringIO
from typing import Any, NamedTuple, Protocol

from decad.core.batch import IGNORED
from decad.data.records import pieces
from decad.errors import first_line

PAIRS = (
    ("text", "text_pair"),
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question", "sentence"),
)
"""Columns of a classifier's two texts."""


class Tokenizer(Protocol):
    """What this package needs of a Hugging Face tokenizer."""

    eos_token_id: int | None
    pad_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]: ...


class BadRecordError(Exception):
    """What is wrong with a record, as the end of a sentence."""


class Example(NamedTuple):
    """One record on its own, before it is cut to length."""

    tokens: list[int]
    trained: list[bool] | None
    """Which tokens are to be predicted; None: the example has a class."""
    label: int = IGNORED


Encode = Callable[[Mapping[str, Any]], Example]


def encoder(columns: Collection[str], tokenizer: Any, task: str, labels: Sequence[str]) -> Encode | None:
    """How records with these columns, none of them null, become examples; None for plain text, which is packed.

    Raises BadRecordError when the columns do not serve the task.
    """
    if task == "classification":
        pair = next((pair for pair in PAIRS if set(pair) <= set(columns)), None)
        texts = pair or (("text",) if "text" in columns else None)
        if texts is None or "label" not in columns:
            raise BadRecordError(
                f"it has the columns {_listed(columns)}, and a classifier needs text and label"
            )
        return _Labelled(tokenizer, texts, labels)
    if "messages" in columns:
        return Messages(tokenizer)
    if {"prompt", "completion"} <= set(columns):
        return _Completion(tokenizer)
    if "text" in columns:
        return None
    raise BadRecordError(
        f"it has the columns {_listed(columns)}, and none of messages, prompt and completion, or text"
    )


def text_tokens(columns: Mapping[str, Any], tokenizer: Any) -> Iterator[list[int]]:
    """Plain text's tokens, piece by piece."""
    for piece in pieces(StringIO(_text(columns, "text"), newline="\n")):
        yield tokenizer.encode(piece, add_special_tokens=False)


class _Completion:
    """``prompt``, then ``completion`` and the end of the text, which are to be predicted."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        empty = tokenizer.encode("", add_special_tokens=True)
        begin = getattr(tokenizer, "bos_token_id", None)
        self._begin = [begin] if begin is not None and empty[:1] == [begin] else []

    def __call__(self, columns: Mapping[str, Any]) -> Example:
        prompt, completion = _text(columns, "prompt", empty=True), _text(columns, "completion")
        asked = self._begin + self._tokenizer.encode(prompt, add_special_tokens=False)
        answer = [*self._tokenizer.encode(completion, add_special_tokens=False), self._tokenizer.eos_token_id]
        return Example(asked + answer, [False] * len(asked) + [True] * len(answer))


class Messages:
    """``messages`` in the model's chat template; the assistant's turns are to be predicted."""

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            raise BadRecordError(
                "it has the column messages, and the model's tokenizer has no chat template to write them with. Use "
                "the model's chat variant, or write prompt and completion instead"
            )
        self._tokenizer = tokenizer
        # Of several named templates transformers takes that which is called default.
        template = tokenizer.chat_template
        text = template.get("default", "") if isinstance(template, dict) else template
        self._marked = "{% generation" in text or "{%- generation" in text

    def __call__(self, columns: Mapping[str, Any]) -> Example:
        messages = _without_nulls(columns["messages"])
        if (
            not isinstance(messages, list)
            or not messages
            or not all(
                isinstance(m, dict)
                and "role" in m
                and (isinstance(m.get("content"), str) or ("content" not in m and "tool_calls" in m))
                for m in messages
            )
        ):
            raise BadRecordError("messages is not a list of turns, each with role and content")
        if not any(message["role"] == "assistant" for message in messages):
            raise BadRecordError("no turn in messages is the assistant's, so there is nothing to learn")
        try:
            return self._by_marks(messages) if self._marked else self._by_length(messages)
        except (ValueError, TypeError, KeyError) as error:
            raise BadRecordError(
                f"the chat template does not take its messages ({first_line(error)})"
            ) from None
        except BadRecordError:
            raise
        except Exception as error:  # the template's own raise_exception: jinja2 has its error types
            if type(error).__module__.partition(".")[0] != "jinja2":
                raise
            raise BadRecordError(
                f"the chat template does not take its messages ({first_line(error)})"
            ) from None

    def _by_marks(self, messages: list[dict[str, str]]) -> Example:
        made = self._apply(messages, return_assistant_tokens_mask=True)
        return Example(list(made["input_ids"]), [bool(mark) for mark in made["assistant_masks"]])

    def _by_length(self, messages: list[dict[str, str]]) -> Example:
        """A turn's tokens are those by which the conversation grows with it, after the words that open it."""
        tokens: list[int] = list(self._apply(messages)["input_ids"])
        trained = [False] * len(tokens)
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            opened = (
                list(self._apply(messages[:place], add_generation_prompt=True)["input_ids"]) if place else []
            )
            closed = list(self._apply(messages[: place + 1])["input_ids"])
            if tokens[: len(closed)] != closed or closed[: len(opened)] != opened:
                raise BadRecordError(
                    "the model's chat template writes earlier turns in another way once later ones follow, so it "
                    "cannot be told which tokens are the assistant's. Use a template that marks them with "
                    "{% generation %}, or write prompt and completion instead"
                )
            trained[len(opened) : len(closed)] = [True] * (len(closed) - len(opened))
        return Example(tokens, trained)

    def _apply(self, messages: list[dict[str, str]], **options: Any) -> Any:
        return self._tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)


class _Labelled:
    """A text, or two, and its class."""

    def __init__(self, tokenizer: Any, texts: Sequence[str], labels: Sequence[str]) -> None:
        self._tokenizer, self._texts = tokenizer, texts
        self._classes = {label: index for index, label in enumerate(labels)}

    def __call__(self, columns: Mapping[str, Any]) -> Example:
        texts = [_text(columns, name) for name in self._texts]
        tokens = list(self._tokenizer(*texts)["input_ids"])
        return Example(tokens, None, self._class(columns["label"]))

    def _class(self, label: Any) -> int:
        if isinstance(label, str) and label in self._classes:
            return self._classes[label]
        number = str(label) if isinstance(label, int | str) and not isinstance(label, bool) else ""
        if number.isdecimal() and int(number) < len(self._classes):
            return int(number)
        raise BadRecordError(f"its label {label!r} is none of {', '.join(self._classes)}")


def _without_nulls(value: Any) -> Any:
    """Parquet gives every turn the fields of all: templates would take one that is null for one that is there."""
    if isinstance(value, dict):
        return {key: _without_nulls(field) for key, field in value.items() if field is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _text(columns: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    text = columns.get(name)
    if not isinstance(text, str):
        raise BadRecordError(f"its {name} is {'missing' if text is None else 'not text'}")
    if not text and not empty:
        raise BadRecordError(f"its {name} is empty")
    return text


def _listed(columns: Collection[str]) -> str:
    return ", ".join(columns) or "none"
