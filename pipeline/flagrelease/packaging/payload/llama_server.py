#!/usr/bin/env python3
"""llama-server: serve a GGUF model over HTTP with llama.cpp's own server, from the package xllamacpp.

FlagScale starts a program of this name for its engine `llama_cpp` but does not ship it. This one accepts only the
options that FlagScale passes; its command line is not llama.cpp's.
"""

import argparse
import os
import socket
import sys
import threading
from pathlib import Path

# By default a thread of OpenMP that waits for another one keeps its core busy for a long time. If other programs need
# the cores, each of the hundreds of barriers of a token then costs a time slice. On a quiet machine the other thread
# arrives within a few thousand turns. libgomp reads this when it is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import xllamacpp  # type: ignore[import-not-found, unused-ignore]  # only in the image


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llama-server", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file, or a folder with one")
    parser.add_argument("--alias", required=True, help="the model name for clients")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ctx-size", type=int, default=4096, help="tokens of one request, and of all concurrent ones")
    parser.add_argument("--parallel", type=int, default=1, help="concurrent requests")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log-verbosity", type=int, default=1)
    return parser.parse_args()


def gguf(path: Path) -> Path:
    """The model file at `path`; of a split model the first part, which refers to the others."""
    if path.is_file():
        return path
    files = sorted(path.rglob("*.gguf")) if path.is_dir() else []
    if not files:
        sys.exit(f"llama-server: no GGUF file at {path}; is the model folder mounted?")
    return files[0]


def check_port(host: str, port: int) -> None:
    """Exit with the cause if the port is taken: the engine reports only that it failed."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            sys.exit(f"llama-server: cannot listen on {host}:{port}: {error.strerror}")


def main() -> int:
    arguments = options()
    check_port(arguments.host, arguments.port)
    model = gguf(arguments.model)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {arguments.alias}
    parameters.hostnames = [arguments.host]
    parameters.port = arguments.port
    parameters.n_ctx = arguments.ctx_size
    parameters.n_parallel = arguments.parallel
    parameters.kv_unified = True  # else each parallel request gets only an equal share of ctx-size
    parameters.cpuparams.n_threads = arguments.threads
    parameters.cpuparams_batch.n_threads = arguments.threads
    parameters.verbosity = arguments.log_verbosity
    parameters.endpoint_metrics = True
    parameters.use_jinja = True
    server = xllamacpp.Server(parameters)
    sys.stderr.write(f"llama-server: {arguments.alias} at {server.listening_address}\n")
    # SIGTERM keeps its default action and ends the process at once, even while loading; there is nothing to save.
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
