"""Check the instructions of IFEval (Zhou et al. 2023, arXiv 2311.07911).

Words are runs of letters, digits and underscores. A sentence ends at `.`, `!` or `?` before white space, but not at the
`.` of an initial or a common abbreviation, or before a small letter. The authors' program uses NLTK's tokenizers;
docs/evaluation.md reports how often they differ.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from flagrelease.errors import EnvironmentFault

__all__ = ["CHECKS", "capital_words", "followed", "sentences"]

Arguments = Mapping[str, Any]

_STOP = re.compile(r"([.!?])([\"'”’)\]]*)\s+(?=(\S))")
_TITLES = r"mr|mrs|ms|dr|prof|st|vs|inc|ltd|co|corp|jr|sr|gen|col|sen|rep|gov|[ap]\.m|u\.[ksn]"
_SHORT = re.compile(rf"(?<!\w)(?:[A-Z]|(?i:{_TITLES}))\.\Z")
_WORD = re.compile(r"\w(?:\.\w)+|[\w-]+")
_FENCE = re.compile(r"^```(?:json)?\s*|\s*```$", re.IGNORECASE)
_CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def followed(instruction: str, arguments: Arguments, text: str) -> bool:
    """Whether `text` follows the instruction; an empty text never does. Raises KeyError for an unknown instruction."""
    check = CHECKS[instruction]
    return bool(text.strip()) and check(text, arguments)


def _compare(count: int, wanted: int, relation: str) -> bool:
    return count < wanted if relation == "less than" else count >= wanted


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def sentences(text: str) -> list[str]:
    starts = [0]
    for match in _STOP.finditer(text):
        mark, closing, following = match.groups()
        abbreviated = _SHORT.search(text, max(starts[-1], match.end(1) - 8), match.end(1))
        continues = mark == "." and not closing and (following.islower() or abbreviated)
        if not continues:
            starts.append(match.end())
    parts = [text[begin:end] for begin, end in itertools.pairwise((*starts, len(text)))]
    return [part for part in parts if re.search(r"\w", part)]


def _keywords(text: str, arguments: Arguments) -> bool:
    return all(re.search(word, text, re.IGNORECASE) for word in arguments["keywords"])


def _keyword_frequency(text: str, arguments: Arguments) -> bool:
    count = len(re.findall(arguments["keyword"], text, re.IGNORECASE))
    return _compare(count, arguments["frequency"], arguments["relation"])


def _forbidden(text: str, arguments: Arguments) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in arguments["forbidden_words"])


def _letter_frequency(text: str, arguments: Arguments) -> bool:
    count = text.lower().count(arguments["letter"].lower())
    return _compare(count, arguments["let_frequency"], arguments["let_relation"])


def _language(text: str, arguments: Arguments) -> bool:
    return _detected(text) in (arguments["language"], "unknown")


def _detected(text: str) -> str:
    """The language's ISO 639-1 code; `unknown` if it cannot be detected, which passes."""
    try:
        import langdetect
    except ImportError:
        raise EnvironmentFault("language detection needs langdetect", hint="install flagrelease[eval]") from None
    # Its results are random unless seeded; the same text must get the same grade on both sides.
    langdetect.DetectorFactory.seed = 0
    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:
        return "unknown"


def _number_sentences(text: str, arguments: Arguments) -> bool:
    return _compare(len(sentences(text)), arguments["num_sentences"], arguments["relation"])


def _number_words(text: str, arguments: Arguments) -> bool:
    return _compare(len(_words(text)), arguments["num_words"], arguments["relation"])


def _number_paragraphs(text: str, arguments: Arguments) -> bool:
    """Paragraphs are separated by `***`; an empty one fails unless it is first or last."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    if any(not part for part in parts[1:-1]):
        return False
    return sum(bool(part) for part in parts) == int(arguments["num_paragraphs"])


def _nth_paragraph(text: str, arguments: Arguments) -> bool:
    """Paragraphs are separated by an empty line; punctuation around the first word is ignored."""
    parts = text.split("\n\n")
    nth = arguments["nth_paragraph"]
    count = sum(bool(part.strip()) for part in parts)
    if nth > len(parts) or not parts[nth - 1].strip():
        return False
    first = re.match(r"[\"']*([^\s.,?!'\"]*)", parts[nth - 1].strip())
    return count == arguments["num_paragraphs"] and bool(first) and _same_word(first, arguments["first_word"])


def _same_word(match: re.Match[str] | None, wanted: str) -> bool:
    return match is not None and match[1].lower() == wanted.lower()


def _placeholders(text: str, arguments: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= int(arguments["num_placeholders"])


def _postscript(text: str, arguments: Arguments) -> bool:
    marker = str(arguments["postscript_marker"]).lower()
    letters = [letter for letter in marker if letter.isalpha()]
    spaced = r"\.\s?".join(letters) if letters in (["p", "s"], ["p", "p", "s"]) else re.escape(marker)
    return re.search(spaced + (r"\." if marker == "p.s." else ""), text.lower()) is not None


def _bullets(text: str, arguments: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == int(arguments["num_bullets"])


def _constrained(text: str, _arguments: Arguments) -> bool:
    return any(choice in text for choice in _CHOICES)


def _highlights(text: str, arguments: Arguments) -> bool:
    single = [span for span in re.findall(r"\*([^\n*]*)\*", text) if span.strip()]
    double = [span for span in re.findall(r"\*\*([^\n*]*)\*\*", text) if span.strip()]
    return len(single) + len(double) >= int(arguments["num_highlights"])


def _sections(text: str, arguments: Arguments) -> bool:
    parts = re.split(rf"\s?{re.escape(arguments['section_spliter'])}\s?\d+\s?", text)
    return len(parts) - 1 >= int(arguments["num_sections"])


def _json(text: str, _arguments: Arguments) -> bool:
    try:
        json.loads(_FENCE.sub("", text.strip()))
    except ValueError:
        return False
    return True


def _title(text: str, _arguments: Arguments) -> bool:
    return any(title.strip("<>").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, _arguments: Arguments) -> bool:
    parts = [part.strip() for part in text.split("******")]
    responses = [part for part in parts if part]
    return all(parts[1:-1]) and len(responses) == 2 and responses[0] != responses[1]


def _repeat_prompt(text: str, arguments: Arguments) -> bool:
    return text.strip().lower().startswith(str(arguments["prompt_to_repeat"]).strip().lower())


def _end(text: str, arguments: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(str(arguments["end_phrase"]).strip().lower())


def capital_words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text) if word.isupper()]


def _capital_words(text: str, arguments: Arguments) -> bool:
    return _compare(len(capital_words(text)), arguments["capital_frequency"], arguments["capital_relation"])


def _capital(text: str, _arguments: Arguments) -> bool:
    return text.isupper() and _detected(text) in ("en", "unknown")


def _lowercase(text: str, _arguments: Arguments) -> bool:
    return text.islower() and _detected(text) in ("en", "unknown")


def _no_comma(text: str, _arguments: Arguments) -> bool:
    return "," not in text


def _quotation(text: str, _arguments: Arguments) -> bool:
    inner = text.strip()
    return len(inner) > 1 and inner[0] == inner[-1] == '"'


CHECKS: Mapping[str, Callable[[str, Arguments], bool]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat_prompt,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _capital,
    "change_case:english_lowercase": _lowercase,
    "punctuation:no_comma": _no_comma,
}
