"""Remove a model's thinking from its reply, whatever markers its family uses."""

from __future__ import annotations

import re

__all__ = ["without_thinking"]

# Qwen, DeepSeek and most others; Seed-OSS; Magistral; Kimi-VL; Sky-T1; Command A; MedGemma; Gemma; LongCat; Apertus;
# EXAONE. A chat template may open the thinking in the prompt, so that only its end is in the reply.
_OPEN, _CLOSE = (
    re.compile("|".join(markers), re.IGNORECASE)
    for markers in (
        (
            r"<\s*(?:seed:|longcat_|mm:)?think(?:ing)?\s*>",
            r"<\s*thought\s*>",
            r"\[THINK\]",
            r"◁\s*think\s*▷",
            r"<\|begin_of_thought\|>",
            r"<\|START_THINKING\|>",
            r"<\|(?:think|thinking)\|>",
            r"<unused94>(?:thought\b)?",
            r"<\|channel>\s*thought\b",
            r"<\|inner_prefix\|>",
        ),
        (
            r"<\s*/\s*(?:seed:|longcat_|mm:)?think(?:ing)?\s*>",
            r"<\s*/\s*thought\s*>",
            r"\[/THINK\]",
            r"◁\s*/\s*think\s*▷",
            r"<\|end_of_thought\|>",
            r"<\|END_THINKING\|>",
            r"<\|/(?:think|thinking)\|>",
            r"<unused95>",
            r"<channel\|>",
            r"<\|inner_suffix\|>",
        ),
    )
)
# Words that a reply may also use in another sense: thinking only if the reply begins with them.
_LEADING = re.compile(r"\s*<(reasoning|reason|analysis|reflection|scratchpad)>", re.IGNORECASE)
_GRANITE = re.compile(r"\s*Here(?:['’]s| is) my thought process:", re.IGNORECASE)
_GRANITE_END = re.compile(r"Here(?:['’]s| is) my response:", re.IGNORECASE)

# Harmony (gpt-oss), with its special tokens or as a server leaves it that drops them.
_CHANNEL = re.compile(r"<\|channel\|>\s?(\w{1,20})[^<]{0,200}(?:<\|[^<>|]{1,40}\|>[^<]{0,50})?<\|message\|>")
_DROPPED = re.compile(
    r"\s*(?:assistant)?(?:analysis|commentary)(?=[A-Z\"'(\[{\\$\d*\s])(?!\s+(?:of|is|and|to|the|[^A-Z])\b)"
)
_FINAL = re.compile(r"assistant\s*final(?=\W|[A-Z]|$)|(?<=[.!?])assistantfinal")
_ONLY_FINAL = re.compile(r"\s*(?:assistant)?final(?=[A-Z\\$*(])")

_SPECIAL = re.compile(r"(?:<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|</s>|<end_of_turn>|<eos>)$")
_WRAPPER = re.compile(r"\s*<\|(?:begin_of_solution|START_RESPONSE)\|>")
_QUOTES = "`'\"“”‘’"


def without_thinking(text: str, *, unfinished: bool = False) -> str:
    """`text` without its thinking and without special tokens at its end.

    What follows the last end of thinking counts, up to thinking that is opened again. Thinking that never ended
    (`unfinished`, or opened in the text) leaves what was said before it. Markers in quotation marks are words.
    """
    harmony = _harmony(text)
    if harmony is not None:
        return _plain(harmony)
    closes = [match for match in _CLOSE.finditer(text) if not _quoted(text, match)]
    end = len(text)
    while closes:
        close = closes.pop()
        tail = _before_opening(text[close.end() : end])
        # A marker after the answer ends nothing, if thinking had ended before.
        if tail or not closes:
            return _plain(_led(tail))
        end = close.start()
    if unfinished:
        return ""
    return _plain(_led(_before_opening(text)))


def _quoted(text: str, match: re.Match[str]) -> bool:
    before, after = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    return bool(before and after and before in _QUOTES and after in _QUOTES)


def _before_opening(text: str) -> str:
    opening = next((match for match in _OPEN.finditer(text) if not _quoted(text, match)), None)
    return (text if opening is None else text[: opening.start()]).strip()


def _led(text: str) -> str:
    """The text without a thought that it begins with."""
    leading = _LEADING.match(text)
    if leading is not None:
        _, end, tail = text.partition(f"</{leading[1]}>")
        return tail if end else ""
    if _GRANITE.match(text):
        end_of_thought = _GRANITE_END.search(text)
        return text[end_of_thought.end() :] if end_of_thought else ""
    return text


def _harmony(text: str) -> str | None:
    """The final message of a reply in channels; empty if there is none, None for another format."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        last = channels[-1]
        if last[1] != "final":
            return ""
        return re.split(r"<\|(?:return|end|start)\|>", text[last.end() :], maxsplit=1)[0]
    if _DROPPED.match(text):
        final = list(_FINAL.finditer(text))
        return text[final[-1].end() :] if final else ""
    only = _ONLY_FINAL.match(text)
    return text[only.end() :] if only else None


def _plain(text: str) -> str:
    wrapper = _WRAPPER.match(text)
    text = (text[wrapper.end() :] if wrapper else text).strip()
    end = len(text)
    while special := _SPECIAL.search(text, max(0, end - 50), end):
        end = special.start()
        while end and text[end - 1].isspace():
            end -= 1
    return text[:end]
