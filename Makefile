# Everything from a fresh machine: each command makes .venv first where it is missing or older than pyproject.toml.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: run site check test test-full lab app bench

run: $(STAMP)
	$(BIN)/python -m promptlab run

# The course as pages with a search, from what `make run` executed; they open without a network.
site: $(STAMP)
	$(BIN)/python -m promptlab site

# Clean code, nothing undeclared, notebooks without outputs.
check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/deptry .
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb notebooks/beyond/*.ipynb

# Two processes with one thread each: small matrices gain little from a second thread. tests/conftest.py shares the tests out.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations 15

# Stable Diffusion, ViT-L/14 and GPT-2 in full size with random weights on the CPU: a minute of computing, 6 GB of memory, 5 GB of disk.
test-full: $(STAMP)
	$(BIN)/python -m pytest -m full -s

# Our PPO against its peers: half an hour on two cores with nothing else running. It writes data/benchmarks/ppo.json.
bench: $(STAMP)
	$(BIN)/python tests/benchmarks/bench_ppo.py

lab: $(STAMP)
	$(BIN)/python -m jupyterlab notebooks/00_tour.ipynb

# The playground as a page of its own, without code and exercises: http://localhost:8866. It needs no network. Each page has a kernel of
# its own, which ends ten minutes after the page is closed.
app: $(STAMP)
	$(BIN)/python -m voila notebooks/05_playground.ipynb --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_cell_tags=lesson --MappingKernelManager.cull_interval=60 --MappingKernelManager.cull_idle_timeout=600

$(STAMP): pyproject.toml
	@echo "Installing promptlab into $(VENV): minutes the first time, and about 7 GB with PyTorch."
	@$(PYTHON) -c "import ensurepip, sys; sys.exit(sys.version_info < (3, 10))" || \
	  { echo "Needs Python 3.10 or newer with venv. On Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -e ".[dev]"
	@touch $@
