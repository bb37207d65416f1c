# Everything from a fresh machine: each command makes .venv first where it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: run site test test-full lab

run: $(STAMP)
	$(BIN)/python -m promptlab run

# The course as pages with a search, from what `make run` executed; they open without a network.
site: $(STAMP)
	$(BIN)/python -m promptlab site

test: $(STAMP)
	$(BIN)/python -m pytest

# Stable Diffusion, ViT-L/14 and GPT-2 in full size with random weights on the CPU: a minute of computing, 6 GB of memory, 5 GB of disk.
test-full: $(STAMP)
	$(BIN)/python -m pytest -m full -s

lab: $(STAMP)
	$(BIN)/python -m jupyterlab notebooks/00_tour.ipynb

$(STAMP): pyproject.toml
	@echo "Installing promptlab into $(VENV): minutes the first time, and about 7 GB with PyTorch."
	@$(PYTHON) -c "import ensurepip, sys; sys.exit(sys.version_info < (3, 10))" || \
	  { echo "Needs Python 3.10 or newer with venv. On Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]"
	@touch $@
