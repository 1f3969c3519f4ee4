#!/usr/bin/env bash
# Everything that needs a GPU, on a machine that has one: versions, the device's tests on CuPy, every stage against NumPy by
# the library's own comparison, and the timings. From the project's folder: bash tests/gpu/run.sh [OUT.json]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" TLORA_BACKEND=cupy NVIDIA_TF32_OVERRIDE=0 CUPY_TF32=0
python=${PYTHON:-python3}

if ! "$python" -c 'from tlora_ref.backend import get_device; get_device("gpu")' 2>/tmp/tlora_gpu.$$; then
    echo "there is no GPU to run on: $(tail -n 1 /tmp/tlora_gpu.$$)" >&2
    rm -f /tmp/tlora_gpu.$$
    exit 2
fi
rm -f /tmp/tlora_gpu.$$
"$python" -m tests.gpu.measure --versions
"$python" -m pytest -q tests/gpu tests/method/test_gpu.py
"$python" -m tests.gpu.measure --compare
"$python" -m tests.gpu.measure --time --out "${1:-gpu.json}"
