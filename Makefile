# The first call of any target makes .venv and installs; later calls do not.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(abspath $(VENV))/bin
export PATH := $(BIN):$(PATH)

.PHONY: paper claims test docs notebooks lab rebuild bench lint readme

paper: $(READY) ## Execute the notebooks of the studies in copies, build the site, print the table of claims
	avh site paper

claims: $(READY) ## Print the table of claims, from the records
	python -m avh_nb.report.claims

test: $(READY) ## Every notebook and every test
	pytest -n 2 --dist worksteal

docs: $(READY) ## Build the site from the notebooks as they are
	avh site docs

notebooks: $(READY) ## Execute all notebooks in place, clean them, write README.md
	avh site notebooks

readme: $(READY) ## Write README.md from nbs/index.ipynb
	avh site readme

lab: $(READY) ## Open JupyterLab on the notebooks
	jupyter lab nbs

rebuild: $(READY) ## Extend the records of a study: make rebuild STUDY=human
	avh rebuild $(STUDY)

bench: $(READY) ## What scores cost beside torch.mm, the loss beside a linear layer, and how right they are
	avh bench

lint: $(READY)
	ruff check avh_nb tests setup.py

$(READY): settings.ini setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@
