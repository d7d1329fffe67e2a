"""IFEval: an answer is right if it follows every instruction of its prompt (the authors' prompt-level strict)."""

from __future__ import annotations

from flagrelease.errors import ConfigError, did_you_mean
from flagrelease.evaluation.datasets import DataSet
from flagrelease.evaluation.grading.instructions import CHECKS, followed
from flagrelease.evaluation.question import Grade, Question, Reply, Task

__all__ = ["IFEVAL"]


def read_ifeval(data: DataSet, shots: int) -> list[Question]:
    if shots:
        raise ConfigError(f"benchmark {data.benchmark} is asked without examples", hint="set shots: 0")
    questions = []
    for file in data.files:
        for number, row in enumerate(file.rows(), start=1):
            try:
                prompt, names, arguments = row["prompt"], row["instruction_id_list"], row["kwargs"]
                pairs = tuple(zip(names, arguments, strict=True))
            except (KeyError, TypeError, ValueError) as error:
                raise ConfigError(f"{file.name}, row {number}: not an IFEval prompt", why=repr(error)) from None
            for name in names:
                if name not in CHECKS:
                    where = f"{file.name}, row {number}: unknown instruction {name!r}"
                    raise ConfigError(where, hint=did_you_mean(name, CHECKS))
            message = {"role": "user", "content": prompt}
            questions.append(Question(subset="all", id=str(row["key"]), messages=(message,), reference=pairs))
    return questions


def grade_ifeval(question: Question, reply: Reply) -> Grade:
    results = [followed(name, arguments, reply.text) for name, arguments in question.reference]
    return Grade(all(results), f"{sum(results)} of {len(results)} instructions")


IFEVAL = Task(name="ifeval", read=read_ifeval, grade=grade_ifeval, slow=True, needs=("langdetect",))
