# make demo | experiments | test | test-browser | bench | models | memory | exhaustive | validate | docs | site | lint
# | coverage | mutants | sanitize | aarch64 | clang | wheel-check | wheels | test-matrix | clean.
# Each sets up what it needs in .venv first.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
SOURCES := $(wildcard csrc/* csrc/*/*) setup.py pyproject.toml tools/glibc_2_28.h
RUN := $(BIN)/python

# For what compiles the library: what was compiled once, for the tree say, is not compiled again, for the wheel.
CACHED := PATH="$(CURDIR)/.venv/ccache:$$PATH" CCACHE_DIR="$(CURDIR)/build/ccache"
# As tools/wheels.py compiles, so that the tests see the same code.
AS_WHEELS := CXXFLAGS="-include tools/glibc_2_28.h"

# Every process would compile torch's Python anew, which takes longer than all else of its import.
unexport PYTHONDONTWRITEBYTECODE

# `docs` is a folder too.
.PHONY: docs site demo experiments test test-cpu test-nodes test-emulated test-gpu test-browser play-pictures bench models \
  memory sass exhaustive validate lint coverage mutants sanitize aarch64 clang wheel-check wheels test-matrix clean

demo: .venv/built
	$(RUN) examples/train_digits.py $(ARGS)

# What docs/experiments.md shows, in about a quarter of an hour.
experiments: .venv/built
	$(RUN) examples/vanishing_gradient.py $(ARGS)
	$(RUN) examples/dying_relu.py $(ARGS)
	$(RUN) examples/zero_centred.py $(ARGS)
	$(RUN) examples/pinn.py
	$(RUN) examples/compare_activations.py --network mnist $(ARGS)
	$(RUN) examples/compare_activations.py --network cifar10 $(ARGS)
	$(RUN) examples/sparsity_l1.py $(ARGS)
	$(RUN) examples/experiment.py docs/experiments.md

# On the CPU (and the GPU, if there is one); what concerns autograd nodes again with those in Python; then on an emulated
# GPU (tests/gpu/emulator.cpp).
test: test-cpu test-nodes test-emulated

# Each of two processes begins with a half, in order, so that what a file's tests share is mostly made once.
PYTEST := -m pytest -q -n 2 --dist worksteal
test-cpu: .venv/built
	$(RUN) $(PYTEST) $(ARGS)

test-nodes: .venv/built
	$(RUN) $(PYTEST) --device cpu --nodes Python -m nodes $(ARGS)

test-emulated: .venv/built
	$(RUN) $(PYTEST) --device emulated $(ARGS)

test-gpu: .venv/built
	$(RUN) -m pytest -q --device cuda $(ARGS)

# The page of `python -m fastact play` in a headless Chromium (on Debian: apt install chromium chromium-driver).
test-browser: .venv/built
	$(RUN) -m pytest -q --device cpu -m browser tests/tools/test_play_browser.py $(ARGS)

# Its pictures in the docs, likewise.
play-pictures: .venv/built
	$(RUN) docs/play_pictures.py

# The largest errors over all 2^32 float32 inputs: hours for all activations, minutes for ARGS="silu gelu".
exhaustive: .venv/built
	$(RUN) bench/exhaustive.py $(ARGS)

bench: .venv/built
	$(RUN) bench/run.py $(ARGS)
	$(RUN) bench/report.py $(dir $(wildcard bench/results/*/summary.json)) --table docs/op-benchmark.md
	$(RUN) bench/tails.py

# Training steps of whole models.
models: .venv/built
	$(RUN) bench/models.py $(ARGS)
	$(RUN) bench/models.py --tables docs/model-benchmark.md

# What training steps keep for backward, beside torch's own ways. torch_remat takes part where it is installed.
memory: .venv/built
	$(RUN) bench/memory.py $(ARGS)
	$(RUN) bench/memory.py --tables README.md docs/memory-benchmark.md

# The Triton kernels' instructions per element, without a GPU; docs/gpu-kernels.md.
sass: .venv/built
	$(RUN) bench/sass.py

validate: .venv/built
	$(RUN) -m fastact validate $(ARGS)

# What the documentation takes from the catalogue and from measurements: tables, pages, pictures.
docs: .venv/built
	$(RUN) docs/make.py

# The documentation as a site in build/site, where a warning is an error; `python -m http.server -d build/site` shows it.
site: .venv/site
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(RUN) -p tests/typing
	$(BIN)/clang-format --dry-run --Werror csrc/*/*.h csrc/*/*.cpp tests/*.cpp tests/gpu/*.h tests/gpu/*.cpp bench/exhaustive.cpp
	$(BIN)/mypy & $(RUN) tests/headers.py && wait $$!

# Faults planted one at a time in a copy of the tree, and which the tests see: ARGS="--part dispatch --sample 12 --seed 1".
mutants: .venv/built
	nice $(RUN) tests/mutants.py $(ARGS)

# Which lines of the package the suite runs, in Python (also on the emulated GPU) and in C++ (on the CPU),
# by file, the least covered first. Optimised less, so that fewer lines share their instructions.
COVERED := --cov --cov-append --cov-report= -q -n 2 -p no:cacheprovider
GCOVR := --filter csrc/ --merge-lines --sort uncovered-percent
coverage: .venv/ready
	rm -rf build/coverage && mkdir -p build/coverage/tree
	git ls-files -z | xargs -0 cp --parents -t build/coverage/tree
	cd build/coverage/tree && $(CACHED) CXXFLAGS="--coverage -O1" ../../../$(RUN) setup.py -q build_ext --inplace
	cd build/coverage/tree && PYTHONPATH=$$PWD ../../../$(RUN) -m pytest $(COVERED) --device cpu $(ARGS)
	cd build/coverage/tree && PYTHONPATH=$$PWD ../../../$(RUN) -m pytest $(COVERED) --device emulated $(ARGS)
	cd build/coverage/tree && ../../../$(RUN) -m coverage report | tee ../python.txt
	cd build/coverage/tree && ../../../$(RUN) -m gcovr $(GCOVR) --txt ../cpp.txt && cat ../cpp.txt

# The suite's calls of the C++ kernels, watched by the address and the undefined-behaviour sanitizer. Optimised less, they
# compile in a fraction of the time. Numerical derivatives are left out: hundreds of the same calls on a few numbers.
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=undefined -g1 -O1
SANITIZED_TESTS := test_summary.py test_values.py test_gradients.py test_gated.py test_maxout.py test_softmax.py test_kernels.py
sanitize: .venv/ready
	rm -rf build/sanitize && mkdir -p build/sanitize
	cp -r csrc fastact tests setup.py pyproject.toml README.md LICENSE build/sanitize
	cd build/sanitize && $(CACHED) CXXFLAGS="$(SANITIZE)" ../../$(RUN) setup.py -q build_ext --inplace
	cd build/sanitize/tests && LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=.. ../../../$(RUN) $(PYTEST) -p no:cacheprovider --device cpu \
	  -k "not gradcheck" $(SANITIZED_TESTS) $(ARGS)

# The arithmetic compiled for Arm and emulated gives every bit that it gives here with the same fused multiply-adds
# (on Debian: apt install g++-aarch64-linux-gnu qemu-user).
FLAGS := -std=c++17 -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math -Wno-unknown-pragmas -Wno-psabi
BLOCKS := -Icsrc -DFASTACT_INSTRUCTION_SET=Baseline csrc/kernels/kernels.cpp tests/blocks.cpp
aarch64:
	mkdir -p build/aarch64
	c++ $(FLAGS) -mavx2 -mfma -mf16c $(BLOCKS) -o build/aarch64/here & \
	  aarch64-linux-gnu-g++ $(FLAGS) -static $(BLOCKS) -o build/aarch64/there && wait $$!
	build/aarch64/here > build/aarch64/here.out
	qemu-aarch64 build/aarch64/there > build/aarch64/there.out
	cmp build/aarch64/here.out build/aarch64/there.out && echo "aarch64: the same bits"

# Clang, by which Macs compile, takes the sources too (on Debian: apt install clang). Its only warnings are of x86 without
# AVX2, where Clang 14 vectorises 33 loops less than GCC; for aarch64 it vectorises all.
clang: .venv/ready
	CC=clang CXX=clang++ CXXFLAGS="-Werror -Wno-error=pass-failed" \
	  $(RUN) setup.py -q build_ext --build-lib build/clang --build-temp build/clang

# A wheel, built from the package of sources, looked into for foreign symbols, and installed from a local index into an
# environment with torch and no compiler.
WHEEL := build/wheel
wheel-check: .venv/ready
	$(CACHED) $(RUN) tools/wheels.py --installed --out $(WHEEL)/dist
	$(RUN) tests/clean.py $(WHEEL)/dist $(WHEEL)/venv

# The files of a release, in dist/: for each machine, with nodes for each release of torch, whose wheels are downloaded for
# their headers, some gigabytes. On Debian: apt install g++-aarch64-linux-gnu.
wheels: .venv/ready
	$(CACHED) $(RUN) tools/wheels.py $(ARGS)

# The core of the suite under other releases of torch, with this environment's wheel and built from source;
# ARGS="--torch 2.12.0 --python python3.13" takes others. Downloads several gigabytes where pip finds no CPU builds.
test-matrix: .venv/ready
	$(RUN) tests/matrix.py $(ARGS)

# Most of the 20,000 Python files that come with these are never imported, so none is compiled ahead.
.venv/ready: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit("fastact needs Python 3.10 or newer; set PYTHON to one") if sys.version_info < (3, 10) else None'
	test -d .venv || $(PYTHON) -m venv .venv
	$(RUN) -m pip install -q --disable-pip-version-check --no-compile -r requirements-dev.txt
	mkdir -p .venv/ccache
	for each in c++ g++ clang++; do ! command -v $$each >/dev/null || ln -sf ../bin/ccache .venv/ccache/$$each; done
	@touch $@

.venv/site: .venv/built requirements-docs.txt
	$(RUN) -m pip install -q --disable-pip-version-check -r requirements-docs.txt
	@touch $@

.venv/built: .venv/ready $(SOURCES)
	$(CACHED) $(AS_WHEELS) $(RUN) -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

clean:
	rm -rf .venv build dist demo-output fastact/*.so *.egg-info
