"""Compare our evaluation with evalscope's on one endpoint: the same prompts, and the same grade for each question.

The endpoint answers every question in one of many forms (boxed, marked, bare, hedged, cut, with thinking …; see
parity_answers.py) chosen by the prompt's digest, so both harnesses get the same answer to the same prompt. With
`--endpoint URL --model NAME` it is a real one, asked with greedy sampling, once per prompt. evalscope gets our prompt
templates and runs in a separate environment; DATA is a folder of benchmark data. GPQA's questions must not be published
as plain text, so a file of the same format with 198 questions of MMLU replaces it. IFEval needs NLTK's `punkt_tab` in
the folder NLTK_DATA.

    python -m venv V && V/bin/pip install 'evalscope[ifeval]==1.14.1'
    PYTHONPATH=pipeline python benchmarks/evalscope_parity.py --evalscope V/bin/python --data DATA [BENCHMARK …]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from parity_answers import Said, answered, instructed, scored
from parity_data import BENCHMARKS, Asked, Compared, Row, asked, data_set, lay_out

from flagrelease.evaluation.harnesses.own import OwnHarness
from flagrelease.evaluation.question import Question, Task
from flagrelease.evaluation.request import Endpoint, Evaluation, EvaluationRequest
from flagrelease.evaluation.spec import asks
from flagrelease.evaluation.tasks import TASKS
from flagrelease.verdict.samples import read_samples

TAIL = 20
RUN = """
import json, sys
from evalscope import TaskConfig, run_task
run_task(TaskConfig(**json.loads(sys.argv[1])))
"""


class Book:
    """Answers by prompt. evalscope's own prompt of the letter task is recognised by the options at its end."""

    def __init__(self, task: str, asked: Asked) -> None:
        texts = [question.messages[-1]["content"] for question in asked.questions]
        self.said: dict[str, Said] = {}
        self.ends: dict[str, list[tuple[str, Question]]] = defaultdict(list)
        for (question, _, row), prompt in zip(asked.pairs, texts, strict=True):
            self.said[prompt] = instructed(question, texts) if task == "ifeval" else answered(task, question)
            if task == "multiple-choice":
                options = [f"{letter}) {choice}" for letter, choice in zip("ABCD", row["choices"], strict=True)]
                end = "\n".join([row["question"], "", *options])
                self.ends[end[-TAIL:]].append((end, question))

    def ours(self, prompt: str) -> str:
        """The prompt, or our prompt of the question that another harness words differently."""
        if prompt in self.said:
            return prompt
        for end, question in self.ends.get(prompt[-TAIL:], ()):
            if prompt.endswith(end):
                return question.messages[-1]["content"]
        raise KeyError(f"unknown prompt: …{prompt[-300:]!r}")


@dataclass(frozen=True)
class Real:
    """An existing endpoint, sent one request at a time."""

    url: str
    model: str


class Between:
    """The endpoint of both harnesses, each under a separate path; records every prompt and its answer."""

    def __init__(self, book: Book, real: Real | None) -> None:
        self.book = book
        self.real = real
        self.heard: dict[str, dict[str, str]] = {"ours": {}, "theirs": {}}
        self._one = threading.Lock()
        self._given: dict[str, bytes] = {}
        between = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    status, body = 200, between.answer(self.path.split("/")[1], request)
                except (KeyError, OSError) as error:
                    status, body = 400, json.dumps({"error": {"message": str(error)}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, side: str) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/{side}/v1"

    def answer(self, side: str, request: dict[str, Any]) -> bytes:
        content = request["messages"][-1]["content"]
        prompt = content if isinstance(content, str) else content[0]["text"]
        body = self.forwarded(prompt, request) if self.real else self.made_up(prompt, request)
        self.heard[side][prompt] = str(json.loads(body)["choices"][0]["message"].get("content"))
        return body

    def made_up(self, prompt: str, request: dict[str, Any]) -> bytes:
        said = self.book.said[self.book.ours(prompt)]
        message = {"role": "assistant", "content": said.text}
        if said.reasoning is not None:
            message["reasoning_content"] = said.reasoning
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": said.finish}
        if request.get("logprobs"):
            choice["logprobs"] = {"content": [{"token": said.top[0], "logprob": -0.5, "top_logprobs": scored(said)}]}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        completion = {"id": "1", "object": "chat.completion", "created": 1, "model": "stub", "choices": [choice]}
        return json.dumps({**completion, "usage": usage}).encode()

    def forwarded(self, prompt: str, request: dict[str, Any]) -> bytes:
        """The endpoint's answer, cached since servers need not be deterministic."""
        assert self.real is not None
        with self._one:
            if prompt not in self._given:
                self._given[prompt] = self.generated(prompt, request)
            return self._given[prompt]

    def generated(self, prompt: str, request: dict[str, Any]) -> bytes:
        assert self.real is not None
        sent = {
            "model": self.real.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": request["temperature"],
            "max_tokens": request["max_tokens"],
        }
        wanted = urllib.request.Request(  # noqa: S310  the user's own endpoint
            f"{self.real.url}/chat/completions", json.dumps(sent).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(wanted, timeout=600) as response:  # noqa: S310
            body: bytes = response.read()
        return body


def ask_ourselves(task: Task, questions: Sequence[Question], url: str, work: Path, tokens: int) -> dict[str, bool]:
    """Our grades by prompt digest."""
    parameters: dict[str, Any] = {"temperature": 0, "max_tokens": tokens}
    if task.scoring == "letter":
        parameters = {"temperature": 0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20}
    evaluation = Evaluation(
        benchmark="parity", task=task, asks=asks(questions, range(1)), parameters=parameters, concurrency=8
    )
    path = work / "samples.jsonl"
    OwnHarness().evaluate(
        EvaluationRequest(endpoint=Endpoint(base_url=url, model="stub"), evaluation=evaluation, into=path)
    )
    return {sample.prompt_sha256: bool(sample.correct) for sample in read_samples(path)}


def ask_evalscope(python: Path, benchmark: Compared, url: str, work: Path, tokens: int) -> Iterator[tuple[str, Row]]:
    """evalscope's reviews by prompt."""
    options: dict[str, Any] = {"local_path": str(work / "data" / benchmark.name), **benchmark.options}
    if benchmark.split_is_subset:
        options["subset_list"] = [path.stem for path in sorted((work / "data" / benchmark.name).glob("*.jsonl"))]
    if benchmark.task != "ifeval":
        options["few_shot_num"] = benchmark.shots
    if benchmark.template:
        options["prompt_template"] = benchmark.template
        if benchmark.shots:
            options["few_shot_prompt_template"] = "{fewshot}\n\n" + benchmark.template
    config = {
        "model": "stub",
        "api_url": url,
        "eval_type": "openai_api",
        "datasets": [benchmark.name],
        "dataset_args": {benchmark.name: options},
        "eval_batch_size": 8,
        "generation_config": {"temperature": 0.0, "max_tokens": tokens},
        "work_dir": str(work / "out"),
        "no_timestamp": True,
    }
    # Data sets are cached by name: without a separate cache, a run may get the questions of an earlier one.
    caches = {name: str(work / "cache") for name in ("HF_HOME", "MODELSCOPE_CACHE", "EVALSCOPE_CACHE")}
    done = subprocess.run(
        [str(python), "-c", RUN, json.dumps(config)], capture_output=True, text=True, cwd=work, env=os.environ | caches
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    for path in sorted((work / "out" / "reviews").rglob("*.jsonl")):
        for line in path.open():
            review = json.loads(line)
            asked = [one for one in review["messages"] if one["role"] == "user"][-1]["content"]
            yield asked if isinstance(asked, str) else asked[0]["text"], review["sample_score"]["score"]


@dataclass
class Result:
    """Counts; `forms`: answers and differences of each form; `shown`: an example difference of each."""

    counts: Counter[str] = field(default_factory=Counter)
    forms: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    shown: dict[str, str] = field(default_factory=dict)


def compare(ours: Mapping[str, bool], theirs: Iterable[tuple[str, Row]], between: Between) -> Result:
    result = Result()
    for prompt, score in theirs:
        mine = between.book.ours(prompt)
        said = between.book.said[mine]
        form = "real" if between.real else said.form
        result.counts["same prompt"] += prompt in between.heard["ours"]
        result.counts["same answer"] += between.heard["theirs"][prompt] == between.heard["ours"][mine]
        value, grade = score["value"], ours[digest(mine)]
        if not value:
            result.counts["ungraded"] += 1
            result.shown["ungraded"] = f"evalscope excludes it: {score.get('metadata')}"
            continue
        result.counts["right"] += grade
        result.counts["compared"] += 1
        result.forms[form]["compared"] += 1
        read = score["extracted_prediction"]
        their_grade = bool(value.get("prompt_level_strict", next(iter(value.values()))))
        if their_grade != grade:
            result.counts["differ"] += 1
            result.forms[form]["differ"] += 1
            answer = between.heard["theirs"][prompt]
            result.shown[form] = (
                f"{answer[-200:]!r}: ours {grade}, evalscope {their_grade}, which read {str(read)[-60:]!r}"
            )
    return result


def digest(prompt: str) -> str:
    return Question(subset="", id="", messages=({"role": "user", "content": prompt},), reference=None).prompt_sha256


def both(name: str, arguments: argparse.Namespace, work: Path) -> Result:
    benchmark = BENCHMARKS[name]
    real = Real(arguments.endpoint, arguments.model) if arguments.endpoint else None
    chosen = asked(name, data_set(name, arguments.data, work), arguments.limit)
    between = Between(Book(benchmark.task, chosen), real)
    lay_out(benchmark, chosen, work / "data" / benchmark.name)
    task = TASKS[benchmark.task]
    ours = ask_ourselves(task, chosen.questions, between.url("ours"), work, arguments.tokens)
    theirs = list(
        ask_evalscope(arguments.evalscope.absolute(), benchmark, between.url("theirs"), work, arguments.tokens)
    )
    between.server.shutdown()
    result = compare(ours, theirs, between)
    result.counts["asked"] = len(chosen.pairs)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare our prompts and grades with evalscope's.")
    parser.add_argument("--evalscope", type=Path, required=True, help="path of a Python with evalscope")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--endpoint", help="a real endpoint, ending in /v1, instead of generated answers")
    parser.add_argument("--model", default="stub", help="the model's name at the endpoint")
    parser.add_argument("--tokens", type=int, default=256, help="maximum tokens of an answer")
    parser.add_argument("--limit", type=int, help="number of questions of each benchmark")
    parser.add_argument("benchmarks", nargs="*", default=list(BENCHMARKS), metavar="BENCHMARK")
    arguments = parser.parse_args()
    heads = ("asked", "compared", "same prompt", "same answer", "right", "differ", "ungraded")
    print(f"{'':12}" + "".join(f"{head:>13}" for head in heads))
    for name in arguments.benchmarks:
        with tempfile.TemporaryDirectory() as folder:
            result = both(name, arguments, Path(folder))
        print(f"{name:12}" + "".join(f"{result.counts[head]:13,}" for head in heads), flush=True)
        for form, shown in result.shown.items():
            print(f"    {result.forms[form]['differ']:5} of {result.forms[form]['compared']:5} {form}: {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
