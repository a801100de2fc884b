# Two commands are all the set-up there is: `make run` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test ui report check cluster bench clean

run: $(VENV)/.installed
	$(BIN)/python run.py experiment=sam_vit

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not alone" -n 2 --dist loadscope --no-loadscope-reorder; \
	together=$$?; $(BIN)/python -m pytest -m alone && exit $$together

ui: $(VENV)/.installed
	$(BIN)/python -m curvature.tracking.ui

report: $(VENV)/.installed
	$(BIN)/python report.py

check: $(VENV)/.installed-test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

cluster: $(VENV)/.installed
	$(BIN)/python slurm/local-cluster/cluster.py up

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/run.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[test,bench,pretrained,hdf5]"
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed-test
	touch $@

clean:
	rm -rf $(VENV) build src/*.egg-info
