.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
PY := $(VENV)/bin/python
SWEEP ?= outputs/ablation
# The build backend is pinned by the same file, which a flag of pip would not reach.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt

.PHONY: help ablation results bench sanitize load gpu test test-full fuzz package compare docs lint format readme clean

help:  ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

ablation: $(VENV)/experiments  ## The main job: activations and filters compared on real data, with a report
	$(PY) -m experiments.ablate -m hydra.sweep.dir=$(SWEEP)
	@echo "report: $(abspath $(SWEEP))/report.html"

# Exit status 1: some jobs failed, which the page says.
results: $(VENV)/experiments  ## docs/results.md anew: the paper's tables, gradient flow, memory and upsampling
	@for name in table_a table_b gradient_flow gradient_flow_plain memory upsampling; do \
	  $(PY) -m experiments.ablate -m experiment=$$name || test $$? -eq 1 || exit 1; \
	done
	$(PY) -m experiments.site.results_page

# Values and gradients depend on the kernels, which are native where a compiler is.
ON_REFERENCE := tests/test_filter2d.py tests/test_filter2d_gradients.py tests/test_filter2d_numerics.py \
	tests/test_activated.py tests/test_ddf_generate.py tests/test_pool_project.py tests/test_filters.py \
	tests/test_golden.py
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist worksteal

test: $(VENV)/dev  ## The tests of every day, in five minutes
	$(PYTEST) -m "not full and not slow"

# ONLY=full: without what `make test` has run.
test-full: $(VENV)/dev  ## All tests, and those of ops and layers on the reference kernels too
	$(PYTEST) -m "$(if $(ONLY),$(ONLY) and )not slow"
	DYNFILTERS_BACKEND=reference $(PYTEST) $(ON_REFERENCE)

# Until the time is up. ONLY: some properties. SEED: that of a run before, for the same inputs.
fuzz: $(VENV)/dev  ## Properties under ever new inputs for TIME=600 seconds; what fails goes to tests/regressions
	OMP_NUM_THREADS=1 PYTHONPATH=.:tests $(PY) -m fuzz --seconds $(or $(TIME),600) $(if $(SEED),--seed $(SEED)) $(ONLY)

bench: $(VENV)/dev  ## Speed and memory on this CPU against the targets, in about five minutes
	$(PY) -m benchmarks.run

sanitize: $(VENV)/dev  ## The native kernels under AddressSanitizer and UndefinedBehaviorSanitizer, in six minutes
	$(PY) tests/sanitize.py

load: $(VENV)/dev  ## Reports, index and probe under thousands of jobs and a million values, in four minutes
	PYTHONPATH=.:tests $(PY) -m load --output benchmarks/results

gpu:  ## On a GPU, with the python3 that is there: build, GPU tests, benchmark; results into OUT=DIR
	@test -n "$(OUT)" || { echo "say where the results go: make gpu OUT=DIR" >&2; exit 2; }
	$(PYTHON) -m benchmarks.stages "$(OUT)"

package: $(VENV)/dev  ## sdist and wheel in dist/, and the wheel tried in an environment without extras
	rm -rf dist
	$(PY) -m build --no-isolation --outdir dist .
	$(PYTHON) -m venv --clear build/clean
	build/clean/bin/python -m pip install --quiet dist/*.whl
	cd build && clean/bin/python -W error ../tests/installed.py && clean/bin/dynfilters list

compare: $(VENV)/dev  ## Measures every filter for the documentation's pages
	mkdir -p build
	$(PY) -m dynfilters compare --shape 32,256,14,14 --json > build/compare.json
	mv build/compare.json docs/compare.json

docs: $(VENV)/dev  ## The documentation, in build/site; any warning is an error
	$(PY) -m mkdocs build --strict

# The layers of imports are those of a copy in which dynfilters.experiments stands where it is installed.
lint: $(VENV)/dev  ## Lint, format check, types of the public API, layers of imports, every configuration composed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	rm -rf build/imports && mkdir -p build/imports && cp -r dynfilters pyproject.toml build/imports
	rm build/imports/dynfilters/experiments.py && cp -r experiments build/imports/dynfilters
	cd build/imports && $(abspath $(PY)) -c "from importlinter.cli import lint_imports_command as check; check()" --no-cache
	$(PY) -m pytest tests/test_conf.py

format: $(VENV)/dev  ## Format the code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

readme: $(VENV)/dev  ## The generated parts of README.md and docs, anew
	$(PY) -m experiments.site.readme $(wildcard $(SWEEP))

clean:  ## Removes the environment and what was built, not the results
	rm -rf $(VENV) build dist *.egg-info

$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/experiments: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet --editable ".[experiments,report]"
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(PY)
	$(PY) -m pip install --quiet --editable ".[dev]"
	touch $@
