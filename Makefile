# make demo | test | bench | exhaustive | validate | docs | lint | mutants | sanitize | aarch64 | test-matrix | clean.
# Each sets up what it needs in .venv first.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
SOURCES := $(wildcard csrc/* csrc/*/*) setup.py pyproject.toml
RUN := $(BIN)/python

# `docs` is a folder too.
.PHONY: docs demo test test-cpu test-interpret test-gpu bench sass exhaustive crossover validate lint mutants sanitize aarch64 test-matrix clean

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
	$(RUN) bench/tails.py

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
	$(BIN)/clang-format --dry-run --Werror csrc/*/*.h csrc/*/*.cpp tests/blocks.cpp bench/exhaustive.cpp
	$(RUN) tests/headers.py

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
BLOCKS := -Icsrc -DFASTACT_INSTRUCTION_SET=Baseline csrc/kernels/kernels.cpp tests/blocks.cpp
aarch64:
	mkdir -p build/aarch64
	c++ $(FLAGS) -mavx2 -mfma -mf16c $(BLOCKS) -o build/aarch64/here
	aarch64-linux-gnu-g++ $(FLAGS) -static $(BLOCKS) -o build/aarch64/there
	build/aarch64/here > build/aarch64/here.out
	qemu-aarch64 build/aarch64/there > build/aarch64/there.out
	cmp build/aarch64/here.out build/aarch64/there.out && echo "aarch64: the same bits"

# The core of the suite under other releases of torch, with this environment's wheel and built from source;
# ARGS="--torch 2.12.0 --python python3.13" takes others. Downloads several gigabytes where pip finds no CPU builds.
test-matrix: .venv/ready
	$(RUN) tests/matrix.py $(ARGS)

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
