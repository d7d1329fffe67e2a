#!/usr/bin/env python3
"""llama-server: serve a GGUF model over HTTP by llama.cpp's own server, which the package xllamacpp carries.

FlagScale starts a program of this name for its engine `llama_cpp` and does not ship it. This one takes the
options that FlagScale passes on; it is not llama.cpp's own command line.
"""

import argparse
import socket
import sys
import threading
from pathlib import Path

import xllamacpp  # type: ignore[import-not-found, unused-ignore]  # lives in the image


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="llama-server", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a GGUF file, or a folder that holds one")
    parser.add_argument("--alias", required=True, help="the name that clients ask for")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ctx-size", type=int, default=4096, help="tokens of one request and of all at once")
    parser.add_argument("--parallel", type=int, default=1, help="requests at once")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log-verbosity", type=int, default=1)
    return parser.parse_args()


def gguf(path: Path) -> Path:
    """The model file at `path`. Of a split model the first part, which names the others."""
    if path.is_file():
        return path
    found = sorted(path.rglob("*.gguf")) if path.is_dir() else []
    if not found:
        sys.exit(f"llama-server: no GGUF file at {path}; is the model folder mounted?")
    return found[0]


def check_port(host: str, port: int) -> None:
    """The engine says no more than that it failed."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            sys.exit(f"llama-server: cannot listen at {host}:{port}: {error.strerror}")


def main() -> int:
    wanted = options()
    check_port(wanted.host, wanted.port)
    model = gguf(wanted.model)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {wanted.alias}
    parameters.hostnames = [wanted.host]
    parameters.port = wanted.port
    parameters.n_ctx = wanted.ctx_size
    parameters.n_parallel = wanted.parallel
    parameters.kv_unified = True  # else each of the parallel requests gets only its share of ctx-size
    parameters.cpuparams.n_threads = wanted.threads
    parameters.cpuparams_batch.n_threads = wanted.threads
    parameters.verbosity = wanted.log_verbosity
    parameters.endpoint_metrics = True
    parameters.use_jinja = True
    server = xllamacpp.Server(parameters)
    sys.stderr.write(f"llama-server: {wanted.alias} at {server.listening_address}\n")
    # SIGTERM keeps its default action and ends us at once, also while the model loads; there is nothing to save.
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
