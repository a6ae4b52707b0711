# Every target sets up what it needs in .venv; nothing is installed outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip passes on what the build tools say to developers; whoever installs is not to read that.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q --disable-pip-version-check
# Rebuild the installation when its description or the C sources change.
SOURCES := pyproject.toml $(shell find native -maxdepth 2 \( -name '*.py' -o -name '*.c' -o -name '*.h' \) -not -path 'native/build/*')
ARGS ?=
PYTEST_ARGS ?=

# Of Debian's release, for `make deb`: 12 (Raspberry Pi OS bookworm) or 13 (trixie).
RELEASE ?= 12

.PHONY: demo deb image test test-arm test-image test-tflite-legacy test-sdv check bench bench-kernel bench-federation bench-collapse audit-privacy models fuzz sbom clean help test-faults bench-load fuzz-decoders test-deb

help:
	@echo "make demo   run a whole fleet on real data      (ARGS='--epsilon none --devices 4')"
	@echo "make test   run the tests with coverage         (PYTEST_ARGS='-k ledger'; '--fresh' draws noise anew)"
	@echo "make test-tflite-legacy  the engines' contract under tflite-runtime 2.14 (Python 3.11, numpy 1)"
	@echo "make test-sdv  the import of SDV's models, with SDV itself (installs torch and SDV)"
	@echo "make test-faults  seeded faults on real processes, full as root  (ARGS='--schedules 300 --seed 1')"
	@echo "make test-arm  emulated boards: packages, unit tests on cortex-a53 and a72, a boot  (as root)"
	@echo "make test-deb  all packages on Debian 12 and 13, in containers that boot   (as root)"
	@echo "make test-image  the SD images started on an emulated Pi 3, half an hour   (as root)"
	@echo "make deb    Debian packages for arm64 and amd64 into dist/          (RELEASE=13 ARGS='--arch arm64')"
	@echo "make image  an SD image for Raspberry Pi 3, 4 and Zero 2 W into dist/   (as root)"
	@echo "make check  ruff, mypy --strict, layer contract"
	@echo "make bench  sampling speed beside SDV            (installs torch and SDV)"
	@echo "make bench-kernel  the C kernel beside numpy, randomgen, mkl_random   (ARGS='--only decode')"
	@echo "make bench-federation  peers and this project on five federated tasks (ARGS='--task digits-by-class --epsilon 8')"
	@echo "make audit-privacy  attacks on what devices release, beside their claims  (ARGS='--runs 2000')"
	@echo "make bench-collapse  ten generations in six regimes, alarms over 20 seeds  (ARGS='--skip-alarms')"
	@echo "make models  train the examples in models/ again, about 20 minutes  (installs torch; MODELS='vae-digits')"
	@echo "make bench-load  10,000 connected devices on one machine      (ARGS='--minutes 10 --rate 1000')"
	@echo "make fuzz   libFuzzer over every entry point of the C kernel         (FUZZ_SECONDS=600)"
	@echo "make fuzz-decoders  atheris over every decoder of bytes from outside  (FUZZ_SECONDS=600)"
	@echo "make sbom   packages and their licences, base and extras, in build/sbom  (ARGS='--osv DIR')"
	@echo "make clean  remove .venv and everything built"

$(VENV)/.created:
	@$(PYTHON) tools/preflight.py
	@$(PYTHON) -m venv $(VENV) 2>/dev/null || $(PYTHON) -m virtualenv -q $(VENV)
	@$(PIP) --upgrade 'pip>=24'
	@touch $@

$(VENV)/.demo: $(VENV)/.created $(SOURCES)
	@echo "installing edge-runtime[demo] into $(VENV) (about a minute) ..."
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.created $(SOURCES)
	@echo "installing edge-runtime[dev] into $(VENV) (about a minute) ..."
	@$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.created $(SOURCES)
	@$(PIP) -e '.[bench]'
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/edge-runtime demo $(ARGS)

test: $(VENV)/.dev
	@$(BIN)/python -m coverage erase
	@$(BIN)/python -m pytest -n 2 --cov --cov-report=term $(PYTEST_ARGS)

# A second environment: tflite-runtime needs numpy 1, and has wheels up to Python 3.11.
LEGACY := $(VENV)/legacy
LEGACY_PACKAGES := 'tflite>=2.18' 'onnx>=1.17' 'pytest>=8.2' 'hypothesis>=6.100'
LEGACY_TESTS := tests/contracts/test_engines.py tests/generator/test_tflite.py \
	tests/generator/test_selfcheck.py tests/generator/test_graph_bundle.py \
	tests/generator/test_docs.py tests/generator/test_without_onnx.py

$(LEGACY)/.done: $(VENV)/.created $(SOURCES)
	@$(PYTHON) -m venv $(LEGACY) 2>/dev/null || $(PYTHON) -m virtualenv -q $(LEGACY)
	@PYTHONWARNINGS=ignore $(LEGACY)/bin/python -m pip install -q --disable-pip-version-check --upgrade 'pip>=24'
	@PYTHONWARNINGS=ignore $(LEGACY)/bin/python -m pip install -q --disable-pip-version-check \
		-e '.[onnx,tflite-legacy]' $(LEGACY_PACKAGES)
	@touch $@

test-tflite-legacy:
	@if $(PYTHON) -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		$(MAKE) --no-print-directory $(LEGACY)/.done && \
		$(LEGACY)/bin/python -c 'import tflite_runtime' && \
		$(LEGACY)/bin/python -m pytest $(LEGACY_TESTS); \
	else \
		echo "skipped: tflite-runtime has no wheels for this Python (3.11 is the last)"; \
	fi

# As root also with full and read-only file systems; without it these two kinds are left out.
test-faults: $(VENV)/.dev
	@$(BIN)/python -m tests.faults $(ARGS)

# Everything downloaded is kept in .cache/arm, so that a second run is quick. Two processes, and each
# file in one of them: the emulated board's tests are steps of one story.
test-arm: $(VENV)/.dev
	@$(BIN)/python -m pytest tests/arm --arm -n 2 --dist loadfile --no-cov $(PYTEST_ARGS)

# Not part of CI: beside the device's packages, which test-arm tries, it is 388 MB of others' wheels.
test-deb: $(VENV)/.dev
	@$(BIN)/python -m pytest tests/arm/test_debian.py --arm --deb --no-cov $(PYTEST_ARGS)

# Not part of CI: two images, each started twice, take too long for it.
test-image: $(VENV)/.dev
	@$(BIN)/python -m pytest tests/arm/test_image_boot.py --arm --image --no-cov $(PYTEST_ARGS)

# setuptools and cffi here, not in an isolated environment: a cross build takes this machine's.
$(VENV)/.deb: $(VENV)/.created
	@$(PIP) 'setuptools>=77' 'cffi>=1.17'
	@touch $@

deb: $(VENV)/.deb
	@$(BIN)/python tools/deb/build.py --release $(RELEASE) $(ARGS)

image: $(VENV)/.deb
	@$(BIN)/python tools/image/build.py $(ARGS)

$(VENV)/.sdv: $(VENV)/.created $(SOURCES)
	@$(PIP) -e '.[dev,sdv]'
	@touch $@

test-sdv: $(VENV)/.sdv
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/importing $(PYTEST_ARGS)

check: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

sbom: $(VENV)/.dev
	@$(BIN)/python tools/sbom.py --out build/sbom $(ARGS)

bench-load: $(VENV)/.demo
	@$(BIN)/python -m tools.load $(ARGS)

bench: $(VENV)/.bench
	@$(BIN)/python tools/bench/sampling.py $(ARGS)

$(VENV)/.bench-kernel: $(VENV)/.created $(SOURCES)
	@$(PIP) -e '.[bench-kernel]'
	@touch $@

bench-kernel: $(VENV)/.bench-kernel
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python tools/bench/kernel.py $(ARGS)

$(VENV)/.bench-federation: $(VENV)/.created $(SOURCES)
	@$(PIP) -e '.[bench-federation]'
	@# without its dependencies: only the recordings in it are read
	@$(PIP) --no-deps seglearn==1.2.5
	@touch $@

bench-federation: $(VENV)/.bench-federation
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tools.bench.federation $(ARGS)

audit-privacy: $(VENV)/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python tools/bench/privacy_audit.py $(ARGS)

$(VENV)/.bench-collapse: $(VENV)/.created $(SOURCES)
	@$(PIP) -e '.[bench-collapse]'
	@touch $@

bench-collapse: $(VENV)/.bench-collapse
	@OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tools.bench.collapse $(ARGS)

$(VENV)/.models: $(VENV)/.created $(SOURCES)
	@$(PIP) -e '.[models]'
	@touch $@

# Each is KIND-TABLE; reference-TABLE measures what stands beside them and comes first.
MODELS ?= reference-digits reference-flights vae-digits gan-digits flow-digits vae-flights gan-flights flow-flights
models: $(VENV)/.models
	@for model in $(MODELS); do \
		OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tools.models.$${model%-*} \
			--data $${model#*-} --out models || exit 1; \
	done

# Address and undefined-behaviour sanitizers on. New inputs stay in native/build/corpus; those that
# reach something are worth adding to native/fuzz/corpus (libFuzzer's -merge=1).
FUZZ_CC ?= clang
FUZZ_SECONDS ?= 60
# 0: another one each time
FUZZ_SEED ?= 0
FUZZ_FLAGS := -std=c99 -g -O1 -Wall -Wextra -Werror -ffp-contract=off \
	-fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
fuzz:
	@mkdir -p native/build/corpus
	@$(FUZZ_CC) $(FUZZ_FLAGS) -o native/build/fuzz native/fuzz/fuzz.c native/src/*.c -lm
	@native/build/fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 \
		-rss_limit_mb=1024 -seed=$(FUZZ_SEED) -verbosity=0 -print_final_stats=1 -artifact_prefix=native/build/ \
		native/build/corpus native/fuzz/corpus

# Two targets at once, FUZZ_SECONDS each; where atheris has no wheel, random changes instead.
$(VENV)/.fuzz: $(VENV)/.dev
	@$(PIP) -e '.[dev,fuzz]'
	@touch $@

fuzz-decoders: $(VENV)/.fuzz
	@$(BIN)/python -m tools.fuzz --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED) $(ARGS)

clean:
	rm -rf $(VENV) build native/build *.egg-info .coverage* .pytest_cache .mypy_cache .ruff_cache
	find edge_runtime -name '*.so' -delete
