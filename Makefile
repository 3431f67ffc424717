# make demo | test | bench | exhaustive | validate | docs | lint | mutants | sanitize | aarch64 | wheel-check | clean.
# Each sets up what it needs in .venv first.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
SOURCES := $(wildcard csrc/*) setup.py pyproject.toml
RUN := $(BIN)/python

# `docs` is a folder too.
.PHONY: docs demo test test-cpu test-interpret test-gpu bench sass exhaustive crossover validate lint mutants sanitize aarch64 wheel-check clean

demo: .venv/built
	$(RUN) examples/train_digits.py $(ARGS)

# Twice: on the CPU (and the GPU, if there is one), then with CPU tensors down the GPU path in Triton's interpreter.
test: test-cpu test-interpret

test-cpu: .venv/built
	$(RUN) -m pytest -q -n 2 $(ARGS)

test-interpret: .venv/built
	$(RUN) -m pytest -q -n 2 --device interpret $(ARGS)

test-gpu: .venv/built
	$(RUN) -m pytest -q --device cuda $(ARGS)

# The largest errors over all 2^32 float32 inputs: hours for all activations, minutes for ARGS="silu gelu".
exhaustive: .venv/built
	$(RUN) bench/exhaustive.py $(ARGS)

bench: .venv/built
	$(RUN) bench/run.py $(ARGS)
	$(RUN) bench/report.py $(dir $(wildcard bench/results/*/benchmark.json)) --readme README.md

# The Triton kernels' instructions per element, without a GPU; docs/gpu-kernels.md.
sass: .venv/built
	$(RUN) bench/sass.py

# Measures from which sizes on the kernels win on this machine, and rewrites fastact/crossover.py with it.
crossover: .venv/built
	$(RUN) bench/crossover.py $(ARGS)

validate: .venv/built
	$(RUN) -m fastact validate $(ARGS)

# What the documentation takes from the catalogue and from measurements: tables, pages, pictures.
docs: .venv/built
	$(RUN) docs/make.py

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*.cpp tests/blocks.cpp bench/exhaustive.cpp

# Faults planted one at a time in a copy of the tree, and which the tests see: ARGS="--part path --sample 12 --seed 1".
mutants: .venv/built
	nice $(RUN) tests/mutants.py $(ARGS)

# The suite's calls of the C++ kernels, watched by the address and the undefined-behaviour sanitizer.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -g1
SANITIZED_TESTS := test_values.py test_gradients.py test_gated.py test_maxout.py test_softmax.py test_kernels.py
sanitize: .venv/ready
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r csrc fastact tests setup.py pyproject.toml README.md LICENSE build/sanitize
	cd build/sanitize && CXXFLAGS="$(SANITIZE)" ../../$(RUN) setup.py -q build_ext --inplace
	cd build/sanitize/tests && LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=.. ../../../$(RUN) -m pytest -q -n 2 -p no:cacheprovider --device cpu $(SANITIZED_TESTS) $(ARGS)

# The arithmetic compiled for Arm and emulated gives every bit that it gives here with the same fused multiply-adds
# (on Debian: apt install g++-aarch64-linux-gnu qemu-user).
FLAGS := -std=c++17 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wno-unknown-pragmas -Wno-psabi
BLOCKS := -DFASTACT_INSTRUCTION_SET=Baseline csrc/kernels.cpp tests/blocks.cpp
aarch64:
	mkdir -p build/aarch64
	c++ $(FLAGS) -mavx2 -mfma -mf16c $(BLOCKS) -o build/aarch64/here
	aarch64-linux-gnu-g++ $(FLAGS) -static $(BLOCKS) -o build/aarch64/there
	build/aarch64/here > build/aarch64/here.out
	qemu-aarch64 build/aarch64/there > build/aarch64/there.out
	cmp build/aarch64/here.out build/aarch64/there.out && echo "aarch64: the same bits"

# Builds the wheel with this Python and torch, and runs it unchanged under another of each; then builds it there too.
OTHER_PYTHON ?= python3.12
OTHER_TORCH ?= 2.11.0
wheel-check: .venv/ready
	rm -rf build/wheel build/other
	$(RUN) -m pip wheel -q --no-build-isolation --no-deps -w build/wheel .
	$(OTHER_PYTHON) -m venv build/other
	build/other/bin/pip install -q torch==$(OTHER_TORCH) build/wheel/fastact-*.whl numpy pytest expecttest mpmath
	cd tests && ../build/other/bin/python -m fastact info
	cd tests && ../build/other/bin/python -m pytest -q -p no:cacheprovider --device cpu test_values.py test_gradients.py test_memory.py
	build/other/bin/pip install -q setuptools
	build/other/bin/pip install -q --no-build-isolation --no-deps --force-reinstall .
	cd tests && ../build/other/bin/python -m fastact info
	cd tests && ../build/other/bin/python -m pytest -q -p no:cacheprovider --device cpu test_gradients.py test_paths.py

.venv/ready: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit("fastact needs Python 3.10 or newer; set PYTHON to one") if sys.version_info < (3, 10) else None'
	test -d .venv || $(PYTHON) -m venv .venv
	$(RUN) -m pip install -q --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv/built: .venv/ready $(SOURCES)
	$(RUN) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

clean:
	rm -rf .venv build dist demo-output fastact/*.so *.egg-info
