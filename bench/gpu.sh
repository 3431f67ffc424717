#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under nine minutes and without network:
#
#     bench/gpu.sh OUT [cuda|cpu]
#
# builds a copy of these sources, compiles some kernels ahead and checks that another process finds them, runs the GPU
# tests, runs the GPU benchmark, measures training steps of some models, has compute-sanitizer watch some kernels, runs a quick CPU benchmark (GPU hosts often have a wider instruction set), and the CPU tests in
# what time is left. Needs a compiler, torch, triton, setuptools, numpy, mpmath, pytest, pytest-benchmark and matplotlib;
# with pytest-xdist the tests take up to 16 cores; without expecttest those of torch's own descriptions are skipped. A
# stage that fails or runs out of its time is noted, and the next begins. OUT gets the logs, the reports and
# results.tar.gz, to be unpacked into bench/results.
# FASTACT_COMMIT says which commit this is where the sources came without their history. `cpu` rehearses the stages on a
# machine without a GPU.
set -uo pipefail

out=$(mkdir -p "${1:?usage: bench/gpu.sh OUT [cuda|cpu]}" && cd "$1" && pwd)
device=${2:-cuda}
deadline=530 # seconds; bash counts them in SECONDS
sources=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$sources" || exit 1
FASTACT_COMMIT=${FASTACT_COMMIT:-$(git describe --always --dirty --abbrev=40 2>/dev/null)}
export FASTACT_COMMIT
mkdir "$work/sources" && cd "$work/sources" || exit 1
tar -C "$sources" --exclude=./.git --exclude=./.venv --exclude=./build -cf - . | tar -xf - || exit 1
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 TRITON_CACHE_DIR=$work/triton # empty, so that compiling is timed
export PYTHONWARNINGS=error:fastact:RuntimeWarning # or, where a kernel fails, torch would be measured beside itself
export PYTEST_ADDOPTS="-W default -W $PYTHONWARNINGS" # this machine's versions may warn of other things
results=$work/results
mkdir -p "$results"
: >"$out/log.txt"
: >"$out/status.txt"
failures=0

# stage NAME LIMIT COMMAND…: runs it for at most LIMIT seconds, or for what is left of the whole.
stage() {
  local name=$1 limit=$2 began=$SECONDS status
  shift 2
  ((limit > deadline - SECONDS)) && limit=$((deadline - SECONDS))
  if ((limit < 5)); then
    echo "$name: not begun, out of time" | tee -a "$out/status.txt"
    failures=$((failures + 1))
    return
  fi
  printf '\n===== %s: %s\n' "$name" "$*" >>"$out/log.txt"
  timeout -s INT -k 5 "$limit" "$@" >"$work/stage.log" 2>&1 # interrupted, pytest still says what has failed
  status=$?
  cat "$work/stage.log" >>"$out/log.txt"
  case $status in
    0) echo "$name: passed in $((SECONDS - began)) s" ;;
    124 | 137) echo "$name: stopped after $limit s" ;;
    *) echo "$name: failed with status $status after $((SECONDS - began)) s" ;;
  esac | tee -a "$out/status.txt"
  ((status)) && failures=$((failures + 1))
  tar -C "$results" -czf "$out/results.tar.gz" .
  return 0
}

parallel=()
python3 -c 'import xdist' 2>/dev/null && parallel=(-n "$(($(nproc) < 16 ? $(nproc) : 16))")

# Of each way through the loops.
kernels=(relu squared_relu elu rrelu prelu softmax swiglu maxout)
target=() launches=cuda
[[ $device == cpu ]] && target=(--target sm_90) launches=stub kernels=(relu)

stage build 100 python3 setup.py build_ext --inplace
stage "compiling ahead" 60 python3 -m fastact warmup --activations "${kernels[@]}" --dtypes bfloat16 "${target[@]}"
grep -h ' kernels, ' "$work/stage.log" | tee -a "$out/status.txt"
stage "nothing left to compile" 30 bash -c 'python3 tests/stub_gpu.py "$@" | tee /dev/stderr | grep -q " 0$"' - \
  "$launches" "${kernels[@]:0:4}"
stage "tests on $device" 150 python3 -m pytest -q tests --continue-on-collection-errors --device "$device" "${parallel[@]}"
# One process, for each takes most of the memory; a CPU has none of them.
[[ $device == cuda ]] && stage "large tensors" 40 python3 -m pytest -q tests/test_gpu.py -m large --device cuda
quick=()
[[ $device == cpu ]] && quick=(--quick)
stage "benchmark on $device" 140 python3 bench/run.py --device "$device" --out "$results" --budget 110 "${quick[@]}"
cp "$work/stage.log" "$work/table.txt"
# Of the models of other libraries those that are installed.
stage "whole models" 60 python3 bench/models.py --device "$device" --out "$results" --modes converted --steps 6 \
  --models "MLP, GELU" "MLP, LeakyReLU" resnet50 Llama
cat "$work/stage.log" >>"$work/table.txt"
sanitizer=$(compgen -c compute-sanitizer | head -1)
[[ -z $sanitizer ]] && sanitizer=$(compgen -G '/usr/local/cuda*/bin/compute-sanitizer' | head -1)
for tool in memcheck racecheck; do
  if [[ $device == cpu || -z $sanitizer ]]; then
    echo "$tool: compute-sanitizer is not on this machine, or no GPU" | tee -a "$out/status.txt"
  else # each tensor in an allocation of its own, or accesses beyond its end would go unnoticed
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage "$tool" 60 "$sanitizer" --tool "$tool" --error-exitcode 1 \
      python3 -m pytest -q -p no:cacheprovider tests/test_kernels.py --device cuda \
      -k "cpp_gives and bfloat16 and (hardshrink or squared_relu or rrelu or prelu or softmax or swiglu or maxout)"
  fi
done
if [[ $device == cuda ]]; then
  stage "benchmark on cpu" 60 python3 bench/run.py --device cpu --out "$results" --budget 40 --quick
  cat "$work/stage.log" >>"$work/table.txt"
  stage "tests on cpu" 400 python3 -m pytest -q tests --continue-on-collection-errors --device cpu "${parallel[@]}"
fi

for folder in "$results"/*/; do
  for file in report.md roofline.png; do
    [[ -f $folder/$file ]] && cp "$folder/$file" "$out/$(basename "$folder")-$file"
  done
done
printf '\n'
grep -hE '^\||time of torch|rows' "$work/table.txt"
printf '\n'
cat "$out/status.txt"
exit $((failures > 0))
