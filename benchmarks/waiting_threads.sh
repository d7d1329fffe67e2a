#!/usr/bin/env bash
# How long a request takes on a quiet machine and beside two busy loops, by how long llama.cpp's threads spin.
# Usage: benchmarks/waiting_threads.sh IMAGE WEIGHTS   (a released image of the CPU cell, the folder with its GGUF file)
# Prints the median of six requests of 64 tokens in and 32 out, in seconds, for each setting of libgomp.
set -euo pipefail
image=$1 weights=$(realpath "$2") port=18200

ask() {
    python3 - "$1" <<'PY'
import json, statistics, sys, time, urllib.request

def seconds(first: int, tokens: int) -> float:
    body = {"prompt": list(range(first, first + 64)), "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
    request = urllib.request.Request(
        f"http://127.0.0.1:{sys.argv[1]}/v1/completions",
        json.dumps({**body, "cache_prompt": False}).encode(),
        {"Content-Type": "application/json"},
    )
    start = time.perf_counter()
    urllib.request.urlopen(request, timeout=120).read()
    return time.perf_counter() - start

seconds(1000, 8)
print(f"{statistics.median(seconds(1001 + n, 32) for n in range(6)):.2f} s")
PY
}

for setting in OMP_WAIT_POLICY=active OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=1000 GOMP_SPINCOUNT=10000 GOMP_SPINCOUNT=100000; do
    port=$((port + 1))
    container=$(docker run --detach --rm --network host --env "$setting" --volume "$weights:/nfs/models/m:ro" \
        --entrypoint sh "$image" \
        -c "exec python3 \$(find /opt -name llama-server | head -1) --model /nfs/models/m --alias m --port $port")
    until curl --silent --fail "http://127.0.0.1:$port/health" >/dev/null; do sleep 0.5; done
    quiet=$(ask "$port")
    while :; do :; done & first=$!
    while :; do :; done & second=$!
    busy=$(ask "$port")
    kill "$first" "$second"
    docker kill "$container" >/dev/null
    echo "$setting: quiet $quiet, beside two busy loops $busy"
done
