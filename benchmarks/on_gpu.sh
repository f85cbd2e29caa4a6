#!/usr/bin/env bash
# All pieces of benchmarks/on_gpu.py on one GPU, in five minutes at most: a JSON file for each, printed and below FOLDER.
# What is there already is not measured again, so that a run that was cut, or out of time, is gone on with by another.
#
#     benchmarks/on_gpu.sh [FOLDER]        # FOLDER is build/on_gpu if not given
#     PYTHON=python3 SECONDS_IN_ALL=120 benchmarks/on_gpu.sh
set -u
cd "$(dirname "$0")/.."
folder=${1:-build/on_gpu}
python=${PYTHON:-.venv/bin/python}
in_all=${SECONDS_IN_ALL:-285}
mkdir -p "$folder"
failed=0
for piece in machine overhead_fp32 overhead_bf16 precision slots trainer limits sharing kernels forecast memory checkpoint; do
    output=$folder/$piece.json
    [ -e "$output" ] && continue
    left=$((in_all - SECONDS))
    if [ "$left" -lt 20 ]; then
        echo "The time is over before $piece; run this again to go on." >&2
        exit 75
    fi
    if timeout "$left" "$python" benchmarks/on_gpu.py "$piece" --output "$output" ${DEVICE:+--device "$DEVICE"}; then
        echo "$output"
        cat "$output"
    else
        echo "$piece was not measured; run this again to try it anew." >&2
        failed=1
    fi
done
exit $failed
