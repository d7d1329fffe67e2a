"""Read the letter chosen in a reply to a multiple-choice question, as a careful reader would."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from itertools import zip_longest

from flagrelease.evaluation.grading.text import boxes, marks, readable

__all__ = ["letter"]

_UNDECIDED = ""
"""A candidate that names several letters, or refuses: what was said before it does not count either."""

_LONGEST = 400
"""Characters of a box or line that are read."""

_WRAP = re.compile(
    r"</?[a-z]\w{0,9}>"
    r"|\\(?:text\w*|math\w+|operatorname|boldsymbol|bm|boxed|fbox|framebox|mbox|hbox|underline|ensuremath|bf|rm|it|sf"
    r"|bfseries|[lL]arge|LARGE|[hH]uge|normalsize|displaystyle|left|big|Big|quad|qquad)(?![A-Za-z])"
    r"|\\(?:text)?color\s*\{\w+\}|\\[,;:! (\[\"']"
    r"|[\s*_($\[{~`'\"“”‘’«»「」『』【】《》<>#:,;.…\-–—=|]"
)
_FILLER = re.compile(
    r"(?:i(?:\s+(?:would|will|do|am|'m))?\s+(?:\w+\s+)?(?:think|believe|guess|say|suppose|feel|confident|sure|certain"
    r"|choose|pick|select|go\s+with)|i'(?:d|ll)\s+(?:say|choose|pick|select|go\s+with)|we\s+(?:choose|pick|select|get|have)"
    r"|in\s+my\s+(?:opinion|view)"
    r"|the|is|are|be|it|it['’]s|its|that|this|must|should|would|will|has|to|have|can|only|therefore|thus|hence|so|then"
    r"|clearly|obviously|definitely|certainly|probably|likely|most|indeed|actually|simply|just|again|options?|choices?"
    r"|answers?|letter|statement|alternative|number|correct|right|best|final|closest|one|first|second|third|fourth"
    r"|fifth|last|labell?ed|marked|given|by|either|both|between|selected|chosen|respuesta|opción|réponse|option|la|die)"
    r"(?![A-Za-z'’])"
    r"|选项|選項|选择|选|選|答案|应该|應該|是|为|為|应|因此|所以|故",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"(?:neither|cannot|can['’]t|unknown|unclear|uncertain|undecided|undetermined|indeterminate|ambiguous|not\s+(?:sure"
    r"|clear|certain|known|determin|possible)|impossible|n/a\b|i\s+(?:do\s+not|don['’]t|cannot|can['’]t|am\s+not|am\s+unable)"
    r"|无法|不确定|不知道)",
    re.IGNORECASE,
)
_SIMILAR = str.maketrans("АВСЕНІΑΒΕΗΙ", "ABCEHIABEHI")
_ONE = re.compile(r"([A-Za-zАВСЕНІΑΒΕΗΙ])\1*")
_SEVERAL = re.compile(r"([A-Z]{2,10})[\s.)*}$\]]*$")
_INSIDE_A_WORD = re.compile(
    r"[A-Za-z0-9^°%#@]|_(?=[A-Za-z0-9{\\])|['’](?=[A-Za-z])|[-‐‑–](?=[A-Za-z0-9])|\.(?=\d|[A-Za-z]\.)|\+\+"
    r"|\((?=[^)\s]{1,3}\))"
)
_CLOSERS = re.compile(
    r"(?:[)\]}*_`'\"”’»」』】$]|>(?!=)|\\(?:[)\],;! \"']|right(?![A-Za-z])|q?quad(?![A-Za-z])|text\{\s*\}|\\)"
    r"|</\w{1,10}>|<\|[^|<>]{1,40}\|>|~)*"
)
_FORMULA = re.compile(
    r"\s*(?:[=^<>≤≥≈≠∝×·∩∪∈⊂→←⇒+]|\*\s|/\s*[\d(]"
    r"|\\(?!(?:text\w*|mbox|boxed|hspace|newline|implies|because|therefore|right|q?quad)(?![A-Za-z]))[A-Za-z])"
)
_NEXT_WORD = re.compile(r"\s+([A-Za-z]+)")
_REASON = re.compile(
    r"(?:because|since|as|is|was|are|seems|appears|would|must|should|given|due|based|which|the|and|or|nor|not|but|over"
    r"|rather|instead|here|only|both|all|with|correct|right)(?!\w)",
    re.IGNORECASE,
)
"""Words that may follow the letter A or I, or a small letter: others make it an article, a pronoun or a variable."""
_NOUN = re.compile(
    r"(?:cells?|lymphocytes?|minor|major|flat|sharp|strings?|section|corporation|orbitals?|shells?|vitamins?|waves?"
    r"|chords?|clef|day|minus|plus)(?!\w)",
    re.IGNORECASE,
)
"""Words with which a capital letter makes a name: B cells, C major."""
_DENIED = re.compile(
    r"\s*(?:(?:is|are|was|seems|looks)\s+(?:\w+\s+)?(?:not|wrong|incorrect|false|never|invalid|impossible)\b"
    r"|(?:is|are|does|was)n['’]t\b|cannot\b|can['’]t\b|does\s+not\b|(?:是)?(?:错|不))",
    re.IGNORECASE,
)
_ALSO = re.compile(
    r"\s*\(?\s*(?:\\text\w*\{\s*)?(?:(?P<sign>[,;、])|(?P<word>/|&|\||and\s*/\s*or\b|,?\s*(?:or|and|nor|und|oder|et|ou)\b|或者|或|和|与|與|及))"
    r"[\s}]*(?:(?:or|and|also|maybe|possibly|perhaps|even|probably|else|option|choice|answer)\b\s*)*"
    r"(?:\\text\w*\{|[(\[{*$\"'`\s])*([A-Za-z])(?P<rest>.{0,20})",
    re.IGNORECASE | re.DOTALL,
)
_ENDED = re.compile(r"\s*(?:[.,;:)*$\]}\"'`/&|、]|$|(?:and|or|are|both|nor|together|could|would|seem)\b)")
_REVISED = re.compile(
    r"(?:^|[\s.,;—–-])(?:wait|actually|correction|scratch\s+that|i\s+mean|oops|sorry|on\s+second\s+thought|no,)"
    r"(?![A-Za-z])(?P<then>.{0,150})",
    re.IGNORECASE,
)
_LONE = re.compile(r"(?<![A-Za-z0-9\\'’])([A-Z])(?![A-Za-z0-9_^'’=+-])")
_IN_BRACKETS = re.compile(r"(?<![A-Za-z0-9\\])\(([A-Z])\)")
_CLAIMED = re.compile(
    r"(?<![A-Za-z0-9\\'’])([A-Z])[)\]*\"'`]*\s+(?:is|seems|appears)\s+(?:to\s+be\s+)?(?:\w+ly\s+)?(?:therefore\s+|thus\s+)?"
    r"(?:the\s+)?(?:most\s+|only\s+)?(?:correct|right|best|answer)\b"
)
_PICKED = re.compile(
    r"\b(?:i|we)(?:['’](?:d|ll|m)|\s+would|\s+will|\s+am)?\s+(?:choose|chose|pick|picked|select|selected|go(?:ing)?\s+(?:with|for)"
    r"|opt(?:ing)?\s+for|vote\s+for|guess|answer)\s+",
    re.IGNORECASE,
)
_JOINED = re.compile(r"[\s$*,\\()\[\]]*(?:\b(?:or|and)\b|[/&,]|\\text\{\s*(?:or|and)\s*\})[\s$*,\\()\[\]]*")


def letter(text: str, choices: str) -> str | None:
    """The letter chosen, one of `choices` ("ABCD"); None if there is none.

    The last one that is boxed or marked ("Answer:", "the answer is") counts, as models repeat the requested form
    ("Answer: LETTER") and change their mind. Without any, a statement ("C is correct", "I choose C"), or a letter alone
    on the last or first line. Several letters at once ("A or B") and refusals are no answer.
    """
    text = readable(text)
    for candidate in _declared(text):
        chosen = _chosen(candidate, choices)
        if chosen is not None:
            return chosen or None
    lines = [line for line in text.split("\n") if line.strip()]
    ends = (*lines[-1:], *lines[:1])
    for line in ends:
        stated = _stated(line[-_LONGEST:], choices)
        if stated is not None:
            return stated or None
    listing = len({line.strip()[:1] for line in lines if re.match(r"\s*[*(]*[A-Z][).:]", line)}) > 1
    for line in ends:
        chosen = _chosen(line[:_LONGEST], choices, alone=True, listing=listing)
        if chosen is not None:
            return chosen or None
    return None


def _declared(text: str) -> Iterator[str]:
    r"""The content of each box and the text after each mark, the last first. `\boxed{A} or \boxed{B}` is one."""
    for _, candidate in heapq.merge(_joined(text), marks(text), key=lambda found: found[0], reverse=True):
        yield candidate


def _joined(text: str) -> Iterator[tuple[int, str]]:
    found = list(boxes(text))
    for box, earlier in zip_longest(found, found[1:]):
        content = box.content[:_LONGEST]
        if (
            earlier is not None
            and 0 <= box.start - earlier.end <= 40
            and _JOINED.fullmatch(text[earlier.end : box.start])
        ):
            content = f"{earlier.content[:_LONGEST]} or {content}"
        yield box.start, content


def _chosen(candidate: str, choices: str, *, alone: bool = False, listing: bool = False) -> str | None:
    """The letter that a candidate names; empty if it is undecided, None if it names none. With `alone`, nothing but
    the letter, or the letter as the label of its choice (which does not count in a listing of the choices)."""
    at, wrapped = _past_prefix(candidate)
    if _REFUSAL.match(candidate, at):
        return _UNDECIDED
    several = _SEVERAL.match(candidate, at)
    if several is not None and 1 < len(set(several[1])) == len(several[1]) and set(several[1]) <= set(choices):
        return _UNDECIDED
    match = _ONE.match(candidate, at)
    found, end = (match[1].translate(_SIMILAR), match.end()) if match is not None else ("", at)
    repeated = match is not None and len(match[0]) > 1 and not re.fullmatch(r"[\s.)*}$\]]*", candidate[end:])
    if not found or repeated or found.upper() not in choices or _INSIDE_A_WORD.match(candidate, end):
        return _at_end(candidate, choices)
    closers = _CLOSERS.match(candidate, end)
    after = closers.end() if closers else end
    rest = candidate[after:]
    closing = candidate[end:after]
    labelled = ")" in closing or "]" in closing or (wrapped and any(sign in closing for sign in "}*_\"'`”」』】>$"))
    if _FORMULA.match(rest) or not (labelled or _is_label(found, rest)) or _DENIED.match(rest):
        return _at_end(candidate, choices)
    if alone and not _stands_alone(closing, rest, listing=listing):
        return None
    return _decided(found.upper(), rest, choices)


def _past_prefix(candidate: str) -> tuple[int, bool]:
    """The position after wrappers and words such as "option", and whether the last of them was a wrapper."""
    at, wrapped = 0, False
    while at < len(candidate):
        match = _FILLER.match(candidate, at) if at == 0 or not candidate[at - 1].isalpha() else None
        filler = match is not None
        match = match or _WRAP.match(candidate, at)
        if match is None:
            break
        at, wrapped = match.end(), not filler and candidate[match.end() - 1] not in " \t:,;.-"
    return at, wrapped


def _is_label(found: str, rest: str) -> bool:
    """Whether the letter before `rest` names a choice, rather than being a word or a name."""
    word = _NEXT_WORD.match(rest)
    if word is None:
        return found.isupper() or not re.match(r"\s*\\|\s+\d", rest)
    if found in "AI" or found.islower():
        return bool(_REASON.match(word[1]))
    return not _NOUN.match(word[1])


def _stands_alone(closers: str, rest: str, *, listing: bool) -> bool:
    label = ")" in closers or re.match(r"\s*[.:)]", rest)
    return not re.search(r"\w", rest) or (bool(label) and not listing)


def _decided(found: str, rest: str, choices: str) -> str:
    """The letter `found`, unless what follows names another one as well, or takes it back."""
    also = _ALSO.match(rest)
    if also is not None and also[3].upper() in choices and also[3].upper() != found and also[3].isupper():
        following = also["rest"]
        joined = bool(_ENDED.match(following))
        if also["word"] and not joined:
            joined = not re.match(r"[A-Za-z0-9'’_]", following) and also[3] not in "AI"
        if joined:
            return _UNDECIDED
    revised = _REVISED.search(rest[:300])
    if revised is not None:
        named = {one[1] for one in _LONE.finditer(revised["then"]) if _is_label(one[1], revised["then"][one.end() :])}
        named &= set(choices)
        if named and "not" not in revised["then"].lower():
            return named.pop() if len(named) == 1 else _UNDECIDED
    return found


def _at_end(candidate: str, choices: str) -> str | None:
    """The only letter in brackets, where the candidate gives the answer's text first: "42 km (B)"."""
    named = _IN_BRACKETS.findall(candidate)
    if len(named) == 1 and named[0] in choices and re.search(r"\([A-Z]\)[\s.*$\]}]*$", candidate):
        return None if re.search(r"(?:\b(?:not|never|unlike|except)|n['’]t)\b", candidate) else str(named[0])
    return None


def _stated(line: str, choices: str) -> str | None:
    claimed = {name for name in _CLAIMED.findall(line) if name in choices}
    if claimed:
        return claimed.pop() if len(claimed) == 1 else _UNDECIDED
    picked = list(_PICKED.finditer(line))
    return _chosen(line[picked[-1].end() :], choices) if picked else None
