# Every target installs what it needs into .venv first; nothing but Python >= 3.11 and make is needed beforehand.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: bench demo dist docs study test lint format clean

demo: .venv/demo  ## generate a click log, train full and folded models, write report.html
	$(BIN)/tablefold demo

study: .venv/installed  ## every ready study at its quick size on the data at hand (hours; goes on where it stopped)
	$(BIN)/python studies/quick.py --work $${TABLEFOLD_WORK:-/tmp/tablefold-study}

bench: .venv/installed  ## speed against peers, after the operators' tests (DLRM=path, CCE=path of a checkout: race them too)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -m "not slow and not gpu" tests/ops tests/test_optim.py
	for name in latency lookup bags step training "training --batch 2048 --rounds 20"; do \
	  set -- $$name; stem=$$1; shift; \
	  $(BIN)/python benchmarks/$$stem.py "$$@" --out benchmarks/results/$$stem.jsonl $(if $(DLRM),--dlrm $(DLRM)) $(if $(CCE),--cce $(CCE)); done

test: .venv/installed  ## the whole test suite, slow proofs left out, in two processes
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -m "not slow and not gpu" -n 2 --dist loadfile  # idle threads that spin slow down busy machines

docs: .venv/installed  ## the site, in docs/_build/html: a folder that needs no network (notebooks run at the first time)
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

dist: .venv/installed  ## the wheel and the sources of a release, looked at by twine
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist > /dev/null
	$(BIN)/twine check --strict dist/*

lint: .venv/installed  ## style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/demo: pyproject.toml constraints.txt  # the package and what draws its figures, no tool of ours
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[report]'
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0  # which ask for CUDA's kernels
	touch $@

clean:
	rm -rf .venv
