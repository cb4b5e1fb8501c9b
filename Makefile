# The two commands: `make run` starts the relay on embedded defaults, `make test` runs every check of the default suite.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin

.PHONY: run test test-long check lint types layers peers interop-more killtest clustertest reloadtest browser-test fuzz console-bench bench demo lock example clean install image image-test image-suite compose-test sbom audit

# EXTRAS=yes, here and for `install`: the libraries for PostgreSQL, traces, chats and Vault, too.
run: $(VENV)/.run $(if $(EXTRAS),$(VENV)/.extras)
	$(BIN)/relay serve

demo: $(VENV)/.run
	$(BIN)/relay demo

# Compiled files are kept, also where the environment says otherwise: each process would compile what it imports.
test test-long: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/.dev peers
	$(BIN)/ruff check relay tests benchmarks
	$(BIN)/ruff format --check relay tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

# Hours: the long forms of all proofs that `make test` runs short (tests/lengths.py); each has a variable of its own, too.
test-long: $(VENV)/.dev peers
	TESTS_LONG=yes BROWSER_ALL=1 API_EXAMPLES=20 FUZZ_SECONDS=600 FUZZ_ROUNDS=3000 \
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --timeout 3600

check: test

lint: $(VENV)/.dev
	$(BIN)/ruff check --fix relay tests benchmarks
	$(BIN)/ruff format relay tests benchmarks

peers:
	@sh tests/interop/install-peers

# The libraries that the default suite does not download: Node, Java; Go where it is installed.
interop-more: $(VENV)/.dev peers
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && sh tests/interop/install-more "$$folder" && \
	INTEROP_MORE=$$folder $(BIN)/pytest tests/interop/test_legacy.py

# DATABASE=postgresql: with the store in one of the test's own.
killtest: DATABASE ?= sqlite
killtest: $(VENV)/.dev
	$(BIN)/python -m tests.system.killtest --kills 1000 --messages 100000 --database $(DATABASE)

clustertest: $(VENV)/.dev
	$(BIN)/python -m tests.system.clustertest --nodes 3 --kills 400 --messages 50000 --restarts 10 --apart 3600

# Every page in both themes and sizes, every flow with and without scripts, the API at length; pictures in artefacts/.
browser-test: $(VENV)/.dev peers
	BROWSER_ALL=1 API_EXAMPLES=20 $(BIN)/pytest tests/browser tests/system/test_console_api.py

reloadtest: $(VENV)/.dev
	RELAY_TEST_RELOADS=200 $(BIN)/pytest tests/system/test_reload.py -k many_reloads

# An hour: half of it for each.
fuzz: FUZZ_S ?= 1800
fuzz: SEED ?= 1
fuzz: $(VENV)/.dev
	$(BIN)/python -m tests.fuzz.listener --seconds $(FUZZ_S) --seed $(SEED)
	$(BIN)/python -m tests.fuzz.parsers --seconds $(FUZZ_S) --seed $(SEED)

# Pages with 100,000 messages in the store, and what ten open consoles cost.
console-bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.console

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# The program for a service: PREFIX/bin/relay needs neither make nor this checkout. Run it again to upgrade.
install: PREFIX ?= /opt/relay
install:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(PREFIX)
	$(PREFIX)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$(if $(EXTRAS),image,run).txt
	site=$$($(PREFIX)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
	rm -rf "$$site/relay" && cp -R relay "$$site/relay" && $(PREFIX)/bin/python -m compileall -q "$$site/relay"
	printf '#!$(PREFIX)/bin/python\nimport sys\nfrom relay.__main__ import main\nsys.exit(main())\n' > $(PREFIX)/bin/relay
	chmod 755 $(PREFIX)/bin/relay

# ENGINE=podman or BASE=… (any image of Debian's family with Python 3.11 or newer), as wanted.
image: ENGINE ?= docker
image: BASE ?= python:3.13-slim
image:
	$(ENGINE) build --build-arg BASE=$(BASE) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) \
		--tag authrelay/relay:$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' relay/__init__.py) .

# Builds the image and runs it, without a container engine: as root, with Debian's buildah and debootstrap. Some minutes.
# IMAGE_TEST_BASE=FOLDER: a root file system that debootstrap made before, with python3-venv, ca-certificates and tini.
image-test: $(VENV)/.dev
	@sh tests/image/install-tools
	IMAGE_TEST=yes $(BIN)/pytest tests/image

# The tests inside the image: no root, a read-only root, no capability. IMAGE_SUITE="tests/unit …" for some of them.
image-suite: $(VENV)/.dev
	@sh tests/image/install-tools
	IMAGE_SUITE="$${IMAGE_SUITE:-yes}" $(BIN)/pytest -s tests/image/test_suite.py

# Runs the compose files, from the README's lines, on the engine that `docker` finds (DOCKER_HOST). ENGINE=own: as root, on Debian's,
# which is unpacked for this run in a folder, with images made of Debian's packages. Ten minutes and more.
compose-test: $(VENV)/.dev
	COMPOSE_TEST=yes $(if $(filter own,$(ENGINE)),sh tests/compose/own-engine )$(BIN)/pytest tests/compose

# What the relay is made of, as CycloneDX; the image brings its own.
sbom: $(VENV)/supply-chain/.done
	mkdir -p dist
	$(VENV)/supply-chain/bin/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application \
		--output-reproducible --spec-version 1.6 -o dist/sbom.cdx.json requirements/image.txt

# Known vulnerabilities of the locked libraries; asks the advisory service of PyPI, so it needs the internet.
audit: $(VENV)/supply-chain/.done
	$(VENV)/supply-chain/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements/image.txt

$(VENV)/supply-chain/.done: requirements/supply-chain.txt | $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)/supply-chain
	$(VENV)/supply-chain/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/supply-chain.txt
	touch $@

# Locks with hashes; needs network and uv (https://docs.astral.sh/uv/).
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet -o requirements/run.txt
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet -o requirements/image.txt
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet -o requirements/dev.txt
	uv pip compile --group supply-chain --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header --quiet -o requirements/supply-chain.txt

example: $(VENV)/.run
	$(BIN)/python -m relay.config.example > relay.env.example

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The package itself is put on the path by a .pth file: nothing is built, so running needs no build tools.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; set PYTHON=…" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements/run.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "authrelay.pth").write_text("$(CURDIR)\n")'
	printf '#!$(CURDIR)/$(BIN)/python\nimport sys\nfrom relay.__main__ import main\nsys.exit(main())\n' > $(BIN)/relay
	chmod 755 $(BIN)/relay
	touch $@

$(VENV)/.extras: requirements/image.txt $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/image.txt
	touch $@

$(VENV)/.dev: requirements/dev.txt $(VENV)/.run
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	touch $@
