"""Our grades beside evalscope's, question by question, on one endpoint that gives both the same answers.

The endpoint finds the question in the prompt and answers in one of twelve ways (boxed, marked, bare, wrong, none …),
chosen by the question's id. evalscope asks it all questions of a benchmark; its reviews are then compared with
our task's grade of the same answer. evalscope has an environment of its own, and DATA is a folder of benchmark data:

    python -m venv V && V/bin/pip install evalscope==1.14.1
    PYTHONPATH=pipeline python benchmarks/evalscope_parity.py --evalscope V/bin/python --data DATA [BENCHMARK …]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from flagrelease.evaluation.data import DataFile, DataSet
from flagrelease.evaluation.question import Question, Reply, Task
from flagrelease.evaluation.tasks import TASKS

# Their name: our task, the file below DATA, their name for the columns, the options of evalscope's data set.
BENCHMARKS: dict[str, tuple[str, str, dict[str, str], dict[str, Any]]] = {
    "aime24": ("integer", "aime24/test.jsonl", {}, {}),
    "aime25": ("integer", "aime25/test.jsonl", {"question": "problem"}, {}),
    "gsm8k": ("integer", "gsm8k/test.jsonl", {}, {"few_shot_num": 0}),
    "math_500": ("math", "math500/test.jsonl", {"Question": "problem", "Answer": "answer"}, {}),
    "arc": ("multiple-choice-cot", "arc/ARC-Challenge-test.jsonl", {}, {"subset_list": ["ARC-Challenge"]}),
}
CONFIGS = {"gsm8k": "main", "arc": "ARC-Challenge"}
RUN = """
import json, sys
from evalscope import TaskConfig, run_task
run_task(TaskConfig(**json.loads(sys.argv[1])))
"""


@dataclass(frozen=True)
class Known:
    """A question with the answer that the endpoint gives to it."""

    task: Task
    question: Question
    answer: str
    options: tuple[str, ...]


def answer(task: str, question: Question) -> str:
    """One of twelve answers: right ones in several forms, wrong ones, and none."""
    which = int(hashlib.sha256(f"{question.subset}{question.id}".encode()).hexdigest(), 16) % 12
    if task == "multiple-choice-cot":
        letters, right = question.reference
        wrong = letters[(letters.index(right) + 1) % len(letters)]
        forms = (f"Let me think.\n\nANSWER: {right}", f"Thinking.\nAnswer: {right}", f"\\boxed{{{right}}}")
        forms += (f"The answer is ({right}).", right, f"**Answer: {right}**", f"ANSWER: {wrong}", "I cannot tell.")
        forms += (f"Answer: {right} because it fits", f"It might be {wrong}.\nANSWER: {right}")
        return (*forms, f"ANSWER: {right}.", f"ANSWER: ({right})")[which]
    right = str(question.reference)
    wrong = str(int(right) + 1) if task == "integer" else "q_{77}"
    forms = (f"So \\boxed{{{right}}}", f"**Answer:** {right}", f"The answer is {right}.", f"so $\\boxed{{{right}}}$")
    forms += (f"So \\boxed{{{wrong}}}", "I cannot tell.", f"\\boxed{{{wrong}}} but in fact \\boxed{{{right}}}", right)
    forms += (f"ANSWER: {right}", f"The final answer is $\\boxed{{{right}}}$.", f"we get {right}")
    return (*forms, f"\\boxed{{{int(right):,}}}" if task == "integer" else f"ANSWER: ${right}$")[which]


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


class Book:
    """Finds a question by its text inside a prompt, the longest text first."""

    def __init__(self, name: str, data: Path) -> None:
        task, path, _, _ = BENCHMARKS[name]
        file = DataFile(name=path, path=data / path)
        questions = TASKS[task].read(DataSet(benchmark=name, digest="0" * 64, files=(file,)), 0)
        self.known: dict[str, list[Known]] = {}
        for row, question in zip(file.rows(), questions, strict=True):
            text = plain(str(row.get("problem") or row.get("Question") or row.get("question")))
            options = tuple(plain(option) for option in row.get("choices", {}).get("text", ()))
            known = Known(TASKS[task], question, answer(task, question), options)
            self.known.setdefault(text, []).append(known)
        self.texts = sorted(self.known, key=len, reverse=True)

    def find(self, prompt: str) -> Known:
        prompt = plain(prompt)
        same = next(self.known[text] for text in self.texts if text in prompt)
        # A few questions have the same text and other choices.
        return max(same, key=lambda known: sum(option in prompt for option in known.options))


def serve(book: Book) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = request["messages"][-1]["content"]
            text = book.find(content if isinstance(content, str) else content[0]["text"]).answer
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            whole = {"id": "1", "object": "chat.completion", "created": 1, "model": "stub", "choices": [choice]}
            body = json.dumps({**whole, "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def lay_out(name: str, data: Path, folder: Path) -> None:
    """The data as evalscope wants it: a data set repository of the hub."""
    _, path, renamed, _ = BENCHMARKS[name]
    folder.mkdir(parents=True)
    rows = DataFile(name=path, path=data / path).rows()
    lines = [json.dumps({renamed.get(key, key): value for key, value in row.items()}) + "\n" for row in rows]
    for split in ("test", "train"):
        (folder / f"{split}.jsonl").write_text("".join(lines))
    if name in CONFIGS:
        files = "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in ("test", "train"))
        head = f"---\nconfigs:\n- config_name: {CONFIGS[name]}\n  data_files:\n{files}---\n"
        (folder / "README.md").write_text(head)


def compare(book: Book, reviews: Path) -> tuple[Counter[str], list[str]]:
    counts: Counter[str] = Counter()
    shown: list[str] = []
    for path in sorted(reviews.rglob("*.jsonl")):
        for line in path.read_text().splitlines():
            review = json.loads(line)
            known = book.find(review["messages"][-2]["content"])
            reply = Reply(text=known.answer, finish_reason="stop", completion_tokens=1)
            ours = bool(known.task.grade(known.question, reply).correct)
            score = review["sample_score"]["score"]
            if not score["value"]:  # their grader gave up
                counts["ungraded"] += 1
                shown.append(f"  {known.answer!r}: ours {ours}, theirs none: {score['explanation'] or score['status']}")
                continue
            theirs = bool(next(iter(score["value"].values())))
            counts["compared"] += 1
            counts["right"] += ours
            if ours != theirs:
                counts["differ"] += 1
                read = score["extracted_prediction"]
                shown.append(f"  {known.answer!r}: ours {ours}, theirs {theirs}, which read {read!r}")
    return counts, shown


def main() -> int:
    parser = argparse.ArgumentParser(description="Our grades beside evalscope's.")
    parser.add_argument("--evalscope", type=Path, required=True, help="a Python that has evalscope")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("benchmarks", nargs="*", default=list(BENCHMARKS))
    arguments = parser.parse_args()
    for name in arguments.benchmarks:
        book = Book(name, arguments.data)
        server = serve(book)
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            lay_out(name, arguments.data, work / "data" / name)
            config = {
                "model": "stub",
                "api_url": f"http://127.0.0.1:{server.server_address[1]}/v1",
                "eval_type": "openai_api",
                "datasets": [name],
                "dataset_args": {name: {"local_path": str(work / "data" / name), **BENCHMARKS[name][3]}},
                "eval_batch_size": 8,
                "generation_config": {"temperature": 0.0, "max_tokens": 256},
                "work_dir": str(work / "out"),
                "no_timestamp": True,
            }
            command = [str(arguments.evalscope), "-c", RUN, json.dumps(config)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=work)
            counts, shown = compare(book, work / "out" / "reviews")
        server.shutdown()
        print(f"{name:10} {counts['compared']:5} compared {counts['right']:5} right {counts['differ']:4} differ")
        print("\n".join(shown), end="\n" if shown else "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
