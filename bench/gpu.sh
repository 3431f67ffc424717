#!/usr/bin/env bash
# Everything that needs a GPU, in one call of under nine minutes and without network:
#
#     bench/gpu.sh OUT [cuda|emulated] [STAGE…]
#
# or the stages whose names are given alone. First a few launches, then all kernels compiled ahead, every op and dtype
# beside the C++ kernels, bandwidth and the host's time, the tests, other libraries, sizes, and compute-sanitizer. The
# limits of the stages add up to the whole; what they leave of it is the last one's. A stage that fails or runs out of its
# time is noted, and the next begins. OUT gets the log as it is written, the reports and, renewed every ten seconds,
# results.tar.gz, to be unpacked into bench/results, so that an interrupted run leaves something.
#
# Needs torch, triton, setuptools, numpy, mpmath, pytest, expecttest, matplotlib and, where fastact's libraries do not
# load, a compiler; with pytest-xdist the tests take up to 16 cores. Wheels in .whl/ are installed for this run: those
# are the libraries to compare with. FASTACT_COMMIT says which commit this is where the sources came without their
# history. `emulated` rehearses the stages on a machine without a GPU, with small tensors and a few of the tests.
set -uo pipefail

out=$(mkdir -p "${1:?usage: bench/gpu.sh OUT [cuda|emulated] [STAGE…]}" && cd "$1" && pwd)
device=${2:-cuda}
only=("${@:3}")
patience=1
[[ $device == emulated ]] && patience=4
deadline=$((525 * patience)) # seconds; bash counts them in SECONDS
sources=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
saver=
trap '[[ -n $saver ]] && kill "$saver"; rm -rf "$work"' EXIT

cd "$sources" || exit 1
FASTACT_COMMIT=${FASTACT_COMMIT:-$(git describe --always --dirty --abbrev=40 2>/dev/null)}
export FASTACT_COMMIT
mkdir "$work/sources" && cd "$work/sources" || exit 1
tar -C "$sources" --exclude=./.git --exclude=./.venv --exclude=./.whl -cf - . | tar -xf - || exit 1
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
export TRITON_CACHE_DIR=$work/triton # empty, so that compiling is timed
# Where a kernel cannot be had, torch's op runs: a test would compare torch with itself. Its warning is raised within a
# callback, which pytest reports as a warning of its own. This machine's versions may warn of other things.
export PYTEST_ADDOPTS="-W default -W error:fastact:RuntimeWarning -W error::pytest.PytestUnraisableExceptionWarning"
results=$work/results
mkdir -p "$results"
: >"$out/log.txt"
: >"$out/status.txt"
failures=0

save() { tar -C "$results" -czf "$work/results.tar.gz" . && mv "$work/results.tar.gz" "$out"; }
while sleep 10; do save; done &
saver=$!

# stage NAME LIMIT COMMAND…: runs it for at most LIMIT seconds, or for what is left of the whole.
stage() {
  local name=$1 limit=$(($2 * patience)) began=$SECONDS status
  shift 2
  if ((${#only[@]})) && [[ " ${only[*]} " != *" $name "* ]]; then return; fi
  ((limit > deadline - SECONDS)) && limit=$((deadline - SECONDS))
  if ((limit < 5)); then
    echo "$name: not begun, out of time" | tee -a "$out/status.txt"
    failures=$((failures + 1))
    return
  fi
  printf '\n===== %s: %s\n' "$name" "$*" >>"$out/log.txt"
  timeout -s INT -k 5 "$limit" "$@" >>"$out/log.txt" 2>&1 # interrupted, pytest still says what has failed
  status=$?
  case $status in
    0) echo "$name: passed in $((SECONDS - began)) s" ;;
    124 | 137) echo "$name: stopped after $limit s" ;;
    *) echo "$name: failed with status $status after $((SECONDS - began)) s" ;;
  esac | tee -a "$out/status.txt"
  ((status)) && failures=$((failures + 1))
}

cores=$(nproc)
((cores > 16)) && cores=16
parallel=()
python3 -c 'import xdist' 2>/dev/null && parallel=(-n "$cores")
target=() quick=() few=() tests=(tests)
kinds=(relu rrelu prelu squared_relu elu softmax swiglu_packed maxout bias_gelu) # one of each way through the loops
if [[ $device == emulated ]]; then
  FASTACT_LIBCUDA=$(python3 -c 'import sys; sys.path.append("tests"); from gpu import emulator; print(emulator.build())')
  export FASTACT_LIBCUDA
  target=(--activations relu gelu --target sm_90)
  quick=(--quick --seconds 0.01)
  few=(--dtypes float32 -- relu gelu softmax)
  tests=(tests/test_kernels.py tests/test_gpu.py -k "squared_relu and not float16")
fi

bench=(python3 bench/run.py --device "$device" --out "$results" --append --rows-only "${quick[@]}")

# Built here only if they do not load.
stage build 45 bash -c 'python3 -c "from fastact import libraries; assert libraries.HAS_NODES, libraries.WHY_NO_NODES" ||
  python3 setup.py build_ext --inplace'
stage launches 20 python3 bench/gpu_smoke.py --device "$device" --dtypes bfloat16 --shapes 5x13 9x1032 -- "${kinds[@]}"
stage warmup 60 python3 -m fastact warmup --dtypes bfloat16 float32 --processes "$cores" "${target[@]}"
stage smoke 40 python3 bench/gpu_smoke.py --device "$device" --processes "$cores" "${few[@]}"
stage bandwidth 85 "${bench[@]}" --budget 75 -k \
  "(bandwidth or issuing) ${quick:+and silu}"
stage host 20 python3 bench/host.py --device "${device/emulated/cpu}" --out "$results" --seconds 12
stage tests 110 python3 -m pytest -q "${tests[@]}" --continue-on-collection-errors --device "$device" -m "not large" \
  --maxfail 60 "${parallel[@]}"
# One process: each takes most of the memory.
[[ $device == cuda ]] && stage large 30 python3 -m pytest -q tests/test_gpu.py -m large --device "$device"
wheels=("$sources"/.whl/*.whl)
[[ -e ${wheels[0]} ]] &&
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$work/site" "${wheels[@]}" >>"$out/log.txt" 2>&1
PYTHONPATH=$PWD:$work/site stage peers 45 "${bench[@]}" --budget 36 -k "peers ${quick:+and softmax and forward}"
stage sizes 30 "${bench[@]}" --budget 24 -k "sizes ${quick:+and relu}"
sanitizer=$(compgen -c compute-sanitizer | head -1)
[[ -z $sanitizer ]] && sanitizer=$(compgen -G '/usr/local/cuda*/bin/compute-sanitizer' | head -1)
for tool in memcheck racecheck; do
  if [[ $device == emulated || -z $sanitizer ]]; then
    echo "$tool: compute-sanitizer is not on this machine, or no GPU" | tee -a "$out/status.txt"
  else # each tensor in an allocation of its own, or accesses beyond its end would go unnoticed
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 stage "$tool" 20 "$sanitizer" --tool "$tool" --error-exitcode 1 \
      --kernel-regex kns=fastact python3 bench/gpu_smoke.py --dtypes bfloat16 --shapes 5x13 9x1032 -- "${kinds[@]}"
  fi
done
# In what time is left: what the rows above left out.
[[ $device == cuda ]] && stage rest 400 "${bench[@]}" --budget $((deadline - SECONDS - 20)) -k "passes or wide or layouts"

deadline=$((deadline + 10))
stage report 10 python3 bench/report.py "$results"/*/
save
for folder in "$results"/*/; do
  for file in report.md roofline.png host.md; do
    [[ -f $folder/$file ]] && cp "$folder/$file" "$out/$file"
  done
done
printf '\n'
# A summary at the end of the output.
grep -hE '^WRONG|^[0-9]+ of [0-9]+ right|^(FAILED|ERROR) ' "$out/log.txt" | cut -c1-200 | head -30
grep -hE '^\| [a-z*]' "$out/host.md" 2>/dev/null | head -20
sed -n '/^## By activation/,/^## Over/p' "$out/report.md" 2>/dev/null | grep '^|' | cut -c1-160
printf '\n'
cat "$out/status.txt"
exit $((failures > 0))
