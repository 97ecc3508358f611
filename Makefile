# make quickstart    raw text to a pretrained, exported BERT on this machine's CPU (CORPUS='my/*.txt' takes your own text)
# make test          the whole test suite, in two processes (4 GB each)
PYTHON ?= python3
CORPUS ?= embedded
WORKDIR ?= runs/quickstart
export CORPUS WORKDIR

.PHONY: quickstart test clean

quickstart: .venv/installed
	@.venv/bin/python -m launch.quickstart --corpus="$$CORPUS" --workdir="$$WORKDIR"

test: .venv/installed-test
	@.venv/bin/python -m pytest -n 2 --dist loadfile

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bert_jax needs Python 3.11 or newer, and $(PYTHON) is older; name another one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

# The stamps keep later calls from needing a network.
.venv/installed: pyproject.toml setup.py | .venv/bin/python
	.venv/bin/python -m pip install --quiet --editable .
	@touch $@

.venv/installed-test: pyproject.toml setup.py | .venv/bin/python
	.venv/bin/python -m pip install --quiet --editable '.[test]'
	@touch $@ .venv/installed

clean:
	rm -rf .venv build *.egg-info
