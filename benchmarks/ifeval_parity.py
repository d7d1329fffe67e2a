"""Compare our IFEval checkers with those of if-verifiable (the authors' code), verdict by verdict.

Answers are generated so that about half of the instructions are followed. Needs if-verifiable, langdetect and NLTK's
`punkt_tab` (in the folder NLTK_DATA; without it, the instructions that need it are not compared):

    pip install if-verifiable==0.1.2
    PYTHONPATH=pipeline python benchmarks/ifeval_parity.py DATA

DATA is a folder of benchmark data. Texts are the prompts of IFEval, the stories of MuSR and the answers of GSM8K.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flagrelease.evaluation.grading.instructions import followed

ANSWERS = 6

# "This is an ordinary sentence in my language, and I wrote it this morning.", or similar.
SENTENCES = {
    "ar": "هذه جملة عادية باللغة العربية كتبتها هذا الصباح في البيت.",
    "bg": "Това е обикновено изречение на български език, което написах тази сутрин.",
    "bn": "এটি বাংলা ভাষায় একটি সাধারণ বাক্য যা আমি আজ সকালে লিখেছি।",
    "de": "Das ist ein ganz gewöhnlicher deutscher Satz, den ich heute Morgen geschrieben habe.",
    "fa": "این یک جمله معمولی به زبان فارسی است که امروز صبح نوشتم.",
    "fi": "Tämä on aivan tavallinen suomenkielinen lause, jonka kirjoitin tänä aamuna.",
    "gu": "આ ગુજરાતી ભાષામાં એક સામાન્ય વાક્ય છે જે મેં આજે સવારે લખ્યું છે.",
    "hi": "यह हिंदी भाषा में एक साधारण वाक्य है जो मैंने आज सुबह लिखा है।",
    "it": "Questa è una frase del tutto normale in italiano, che ho scritto questa mattina.",
    "kn": "ಇದು ಕನ್ನಡ ಭಾಷೆಯಲ್ಲಿ ಒಂದು ಸಾಮಾನ್ಯ ವಾಕ್ಯ.",
    "ko": "이것은 오늘 아침에 제가 쓴 평범한 한국어 문장입니다.",
    "mr": "हे मराठी भाषेतील एक साधे वाक्य आहे जे मी आज सकाळी लिहिले आहे.",
    "ne": "यो नेपाली भाषामा एउटा साधारण वाक्य हो जुन मैले आज बिहान लेखेको हुँ।",
    "pa": "ਇਹ ਪੰਜਾਬੀ ਭਾਸ਼ਾ ਵਿੱਚ ਇੱਕ ਆਮ ਵਾਕ ਹੈ।",
    "pt": "Esta é uma frase perfeitamente normal em português, que não escrevi ontem à noite.",
    "ru": "Это совершенно обычное предложение на русском языке, которое я написал сегодня утром.",
    "sw": "Hii ni sentensi ya kawaida katika lugha ya Kiswahili ambayo niliandika leo asubuhi.",
    "ta": "இது தமிழ் மொழியில் ஒரு சாதாரண வாக்கியம்.",
    "te": "ఇది తెలుగు భాషలో ఒక సాధారణ వాక్యం.",
    "th": "นี่คือประโยคธรรมดาในภาษาไทยที่ฉันเขียนเมื่อเช้านี้",
    "ur": "یہ اردو زبان میں ایک عام جملہ ہے جو میں نے آج صبح لکھا ہے۔",
    "vi": "Đây là một câu bình thường bằng tiếng Việt mà tôi đã viết sáng nay.",
}


def nth_paragraph(given: dict[str, Any]) -> str:
    words = ["other"] * given["num_paragraphs"]
    words[given["nth_paragraph"] - 1] = given["first_word"]
    return "\n\n".join(f"{word} text" for word in words)


def sections(given: dict[str, Any]) -> str:
    return "\n".join(f"{given['section_spliter']} {number + 1}\nx" for number in range(given["num_sections"]))


# Functions that change a text so that it follows the instruction.
OBEY: dict[str, Callable[[str, dict[str, Any]], str]] = {
    "existence": lambda text, given: " ".join([text, *given["keywords"]]),
    "postscript": lambda text, given: f"{text}\n{given['postscript_marker']} more",
    "end_checker": lambda text, given: f"{text} {given['end_phrase']}",
    "number_bullet_lists": lambda text, given: text + "\n* x" * given["num_bullets"],
    "number_highlighted_sections": lambda text, given: text + " *hi* **yo**" * given["num_highlights"],
    "number_paragraphs": lambda text, given: "\n***\n".join([text] * given["num_paragraphs"]),
    "nth_paragraph_first_word": lambda _text, given: nth_paragraph(given),
    "repeat_prompt": lambda text, given: f"{given['prompt_to_repeat']} {text}",
    "title": lambda text, _given: f"{text} <<t>>",
    "two_responses": lambda text, _given: f"{text}\n******\n{text} again",
    "json_format": lambda _text, _given: '```json\n{"a": [1, 2]}\n```',
    "quotation": lambda text, _given: f'"{text}"',
    "multiple_sections": lambda text, given: f"{text} {sections(given)}",
    "constrained_response": lambda _text, _given: "My answer is no.",
    "english_lowercase": lambda text, _given: text.lower(),
    "english_capital": lambda text, _given: text.upper(),
    "no_comma": lambda text, _given: text.replace(",", ""),
    "response_language": lambda _text, given: SENTENCES.get(given["language"], "A sentence in English."),
    "frequency": lambda text, given: text + f" {given['keyword']}" * given["frequency"],
    "letter_frequency": lambda text, given: text + f" {given['letter']}" * given["let_frequency"],
    "forbidden_words": lambda text, given: (
        f"{text} {given['forbidden_words'][0]}"
    ),  # violates the instruction, for variety
    "number_sentences": lambda text, given: text + " Dr. Who wrote it." * given["num_sentences"],
    "number_words": lambda text, given: text + " well-made words" * (given["num_words"] // 2),
    "capital_word_frequency": lambda text, given: text + " LOUD" * given["capital_frequency"],
    "number_placeholders": lambda text, given: text + " [a]" * given["num_placeholders"],
}


def made_up(row: dict[str, Any], texts: list[str], rng: random.Random) -> str:
    """A text that follows each instruction of the row with a probability of at least 0.6."""
    text = rng.choice(texts)
    for name, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
        if rng.random() < 0.6:
            text = OBEY.get(name.partition(":")[2], lambda same, _given: same)(text, given)
    return text


def natural(data: Path) -> list[str]:
    """Texts written by people and models."""
    stories = [json.loads(path.read_text()) for path in sorted(data.glob("musr*/*.json"))]
    answers = (data / "gsm8k/test.jsonl").read_text().splitlines()
    return [row["context"] for rows in stories for row in rows] + [json.loads(line)["answer"] for line in answers]


def counted(texts: list[str]) -> str:
    """In how many texts our counts of sentences and of words in capitals differ from those with NLTK's tokenizers."""
    import nltk  # type: ignore[import-not-found,import-untyped,unused-ignore]

    from flagrelease.evaluation.grading.instructions import capital_words, sentences

    try:
        parted = sum(len(nltk.sent_tokenize(text)) != len(sentences(text)) for text in texts)
        loud = sum(sum(map(str.isupper, nltk.word_tokenize(text))) != len(capital_words(text)) for text in texts)
    except LookupError:
        return "NLTK's data is missing"
    return f"{len(texts)} texts: the number of sentences differs in {parted}, of words in capitals in {loud}"


def main(data: Path) -> int:
    from if_verifiable import IFEvalSample, evaluate_output_for_sample  # type: ignore[import-not-found]

    rows = [json.loads(line) for line in (data / "ifeval/input_data.jsonl").read_text().splitlines()]
    texts = [row["prompt"] for row in rows] + natural(data)
    rng = random.Random(1)
    random.seed(1)  # their code draws a random letter if none is given
    compared, kept, differ, lacking = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row in rows * ANSWERS:
        text = made_up(row, texts, rng)
        for name, given in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            sample = IFEvalSample(key=row["key"], prompt=row["prompt"], instruction_id_list=[name], kwargs=[given])
            try:
                (theirs,), _ = evaluate_output_for_sample("ifeval", sample, text)
            except LookupError:  # NLTK's tokenizer data is missing
                lacking[name] += 1
                continue
            compared[name] += 1
            kept[name] += theirs.strict_pass
            if theirs.strict_pass != followed(name, given, text):
                differ[name] += 1
    for name in sorted(compared):
        print(f"{name:45} {compared[name]:5} compared {kept[name]:5} followed {differ[name]:3} differ")
    print(f"{'all':45} {compared.total():5} compared {kept.total():5} followed {differ.total():3} differ")
    print(f"not compared, NLTK's data is missing: {dict(lacking)}")
    print(counted(texts))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
