# Every target does its own set-up: all it needs is make and Python 3.11 or newer.
#   make demo      train plain and robust on noisy files, write runs/demo/report.html
#   make test      the tests (minutes)          make test-all   with the slow ones
#   make test-kernels   the tests that compute, on other kernels, threads, orders (ARGS="--passes 3")
#   make lint      ruff                         make types      pyright
#   make docs      the site, in build/site; a broken link, a missing anchor or a lost page fails
#   make accessibility   axe-core on every page of the site (needs npm and Chromium; ARGS="report.html")
#   make test-docs   the code blocks of tutorials and how-tos, and the notebooks, with tiny budgets (minutes)
#   make package   the wheel and the source archive, in dist/, tried in a new environment
#   make bench     the cost of a step of every objective, benchmarks/results/step_cost.json
#   make bench-adt-memory   memory of adt by the number of trained calls, benchmarks/results/adt_memory.json
#   make bench-audit     how well sparring inspect finds known dirt, benchmarks/results/audit.json (ARGS="--fashion 'FOLDER/train-*.parquet'")
#   make bench-faults   240 runs that are killed, starved and damaged (ARGS="--n 24")
#   make bench-lock     two starts of one run, 92 times: never two writers (Linux; namespaces need root)
#   make bench-soak     half an hour of training: does memory grow, benchmarks/results/soak.json
#   make audit          known weaknesses in the pinned packages (needs an advisory database)
#   make bench-security   thousands of wrong configs, command lines and images (minutes)
#   make bench-quality   methods x data x seeds, benchmarks/results/quality_cpu.json (a day; ARGS="--only digits")
#   make bench-dirt      dirt in files x methods x seeds, benchmarks/results/dirt.json (ARGS="--data FOLDER --only digits")
#   make bench-cifar10   the same of photographs in colour, benchmarks/results/cifar10.json (ARGS="--data FOLDER")
#   make bench-networks  which network learns fastest on a CPU, benchmarks/results/networks.json (ARGS="--data FOLDER")
#   make bench-growth    how cost grows with the images, benchmarks/results/growth.json
#   make bench-frontier  what adversarial training buys, benchmarks/results/frontier.json (ARGS="--data FOLDER --only attack")
#   make bench-peers     our training beside its bare network and beside other loops, benchmarks/results/peers.json

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: setup demo docs accessibility test test-all test-docs test-gpu test-kernels package lint format types bench bench-adt-memory bench-audit bench-security bench-quality bench-dirt bench-cifar10 bench-networks bench-growth bench-frontier bench-peers bench-faults bench-lock bench-soak audit clean

setup: $(INSTALLED)

# torch comes first and alone, by its plain command, so that pip's own configuration decides which
# build (CPU or CUDA) is taken; the rest is resolved around it.
$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (python3.11 or python3)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; $(PYTHON) is older. Try: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (once; torch is the large part) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs,text,denoise,lightning]'
	@touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/sparring demo $(ARGS)

# one thread a test process: two processes share two cores without getting in each other's way
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

test-all: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not gpu and not docs" --timeout 3600 $(ARGS)

test-docs: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) -m docs tests/test_pages.py --timeout 1200 --durations 40 $(ARGS)

test-gpu: $(INSTALLED)
	$(BIN)/python -m pytest -m gpu $(ARGS)

test-kernels: $(INSTALLED)
	$(BIN)/python benchmarks/kernels.py --jobs $(JOBS) $(ARGS)

package: $(INSTALLED)
	$(BIN)/python -m build --no-isolation --outdir dist .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow tests/test_package.py --timeout 3600 $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

accessibility: docs
	npm install --silent --no-audit --no-fund --prefix recipes/accessibility
	node recipes/accessibility/check.mjs build/site $(ARGS)

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED)
	$(BIN)/pyright

bench: $(INSTALLED)
	$(BIN)/python benchmarks/step_cost.py $(ARGS)

bench-faults: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fault_campaign.py $(ARGS)

bench-lock: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/lock_campaign.py $(ARGS)

bench-soak: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/soak.py $(ARGS)

audit: $(INSTALLED)
	test -x $(VENV)-audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install --quiet pip-audit; }
	$(VENV)-audit/bin/pip-audit -r constraints.txt --no-deps --disable-pip $(ARGS)

bench-adt-memory: $(INSTALLED)
	$(BIN)/python benchmarks/adt_memory.py $(ARGS)

bench-audit: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/audit.py $(ARGS)

bench-security: $(INSTALLED)
	$(BIN)/python benchmarks/config_campaign.py --n 2100 --real 60
	$(BIN)/python benchmarks/image_campaign.py --n 900

bench-quality: $(INSTALLED)
	$(BIN)/python benchmarks/quality.py $(ARGS)

bench-dirt: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/dirt.py --readme README.md $(ARGS)

bench-cifar10: $(INSTALLED)
	$(BIN)/python benchmarks/dirt.py --table benchmarks/cifar10.yaml --runs runs/cifar10 --slots 1 $(ARGS)

bench-networks: $(INSTALLED)
	$(BIN)/python benchmarks/networks.py --rates $(ARGS)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/networks.py $(ARGS)

bench-growth: $(INSTALLED)
	$(BIN)/python benchmarks/growth.py $(ARGS)

bench-frontier: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/frontier.py $(ARGS)
	$(BIN)/python benchmarks/frontier.py --report

bench-peers: $(INSTALLED)
	$(BIN)/python benchmarks/peers.py $(ARGS)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
