"""Load flagkernels at interpreter start in an engine and its workers, then run the sitecustomize that it hides."""

import importlib.machinery
import importlib.util
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 -- pathlib would slow every start


if packages := os.environ.get("FLAGKERNELS_PACKAGES"):
    sys.path.append(packages)  # last: packages of the base image take precedence, as in the released image


def _next() -> None:
    others = [path for path in sys.path if os.path.abspath(path or ".") != HERE]  # noqa: PTH100
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if os.environ.get("FLAGKERNELS_BUNDLE", "none") != "none" or os.environ.get("FLAGKERNELS_CALLS"):
    from flagkernels.engine.plugin import on_torch

    on_torch()
_next()
