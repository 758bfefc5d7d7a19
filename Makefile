# One self-documenting task runner; CI calls the same targets.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

KAFKA_JARS := .citywatch/kafka-jars

.DEFAULT_GOAL := help
.PHONY: help demo test test-kafka check format bench bench-ingest bench-streams bench-detectors bench-database bench-paging chaos fuzz search kafka kafka-jars lock clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements/locked.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Citywatch needs Python 3.11 to 3.13; set PYTHON=python3.x" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "No venv module: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/locked.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $(STAMP)

demo: $(STAMP) ## Run the whole system on the embedded stack until Ctrl-C
	@$(BIN)/citywatch demo $(ARGS)

# Most tests wait more than they compute. Each process has brokers and a database of its own.
PYTEST := $(BIN)/pytest -n 3 --dist loadgroup --no-loadscope-reorder

test: $(STAMP) ## Run all tests, with real brokers and a real database (one by one: ARGS=-n0)
	$(PYTEST) $(ARGS)

test-kafka: $(STAMP) $(KAFKA_JARS) ## Run the integration tests on Apache Kafka instead (Java 17)
	$(PYTEST) --apache-kafka -m integration $(ARGS)

check: $(STAMP) ## Lint, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP) ## Measure the whole way of a reading at 2,000 messages/s
	$(BIN)/python benchmarks/pipeline.py $(ARGS)

bench-ingest: $(STAMP) ## Measure the front door: rates, crashes, outages (15 minutes)
	$(BIN)/python benchmarks/front_door.py $(ARGS)

bench-database: $(STAMP) ## Measure the database of a large city: newest readings, charts, migrations
	$(BIN)/python benchmarks/large_city.py $(ARGS)

bench-paging: $(STAMP) ## Measure the pager: a storm, kill -9, a hook away for ten minutes, load (22 minutes)
	$(BIN)/python benchmarks/pager.py $(ARGS)

bench-streams: $(STAMP) ## Measure the worker: scores, rows, state, restart (6 minutes)
	$(BIN)/python benchmarks/worker.py $(ARGS)

# An environment of its own: river is for this alone, and nothing that is tested may find it.
BENCH_VENV := .venv-bench
$(BENCH_VENV)/.installed: requirements/bench.txt
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

bench-detectors: $(BENCH_VENV)/.installed ## Measure the detectors beside river and a plain loop (3 minutes)
	PYTHONPATH="$(CURDIR)" $(BENCH_VENV)/bin/python benchmarks/hot_path.py $(ARGS)

DURATION ?= 600
SEED ?= 1
chaos: $(STAMP) ## Kill, freeze and restart everything under load; then balance (DURATION= SEED=)
	$(BIN)/python benchmarks/chaos.py --duration $(DURATION) --seed $(SEED) $(ARGS)

FUZZ_DIR := .citywatch/fuzz
fuzz: $(STAMP) ## Fuzz the decoders, guided by coverage (ten minutes; Python 3.11 to 3.13 on x86-64)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/fuzz.txt
	@mkdir -p $(FUZZ_DIR)
	$(BIN)/python tests/fuzz/decoders.py -max_total_time=600 -max_len=4096 -dict=tests/fuzz/json.dict \
	  -artifact_prefix=$(FUZZ_DIR)/ $(ARGS) $(FUZZ_DIR) tests/fuzz/seeds

search: $(STAMP) ## Look for what random examples find: new ones at each run
	$(PYTEST) --hypothesis-profile=search --timeout 1800 -m hypothesis $(ARGS)

$(KAFKA_JARS): deploy/kafka/pom.xml deploy/kafka/jars.sha256
	@command -v mvn > /dev/null || { echo "No Maven: apt-get install maven" >&2; exit 1; }
	@rm -rf $@ $@.new
	mvn --batch-mode --strict-checksums --file deploy/kafka/pom.xml \
	  dependency:copy-dependencies -DoutputDirectory="$(CURDIR)/$@.new"
	@cd $@.new && sha256sum --check --strict --quiet "$(CURDIR)/deploy/kafka/jars.sha256"
	@mv $@.new $@ && touch $@

kafka-jars: $(KAFKA_JARS) ## Fetch Apache Kafka's jars (Maven)

kafka: $(STAMP) $(KAFKA_JARS) ## Run Apache Kafka on 127.0.0.1:9092 until Ctrl-C (Java 17)
	@$(BIN)/python -m citywatch.embedded.apache_kafka $(ARGS)

UV_COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-emit-index-url --no-emit-find-links --no-header

lock: $(STAMP) ## Lock the dependencies anew
	$(BIN)/python -m pip install --quiet uv
	$(UV_COMPILE) --all-extras --upgrade pyproject.toml -o requirements/locked.txt
	$(UV_COMPILE) --no-annotate --upgrade -c requirements/locked.txt pyproject.toml -o requirements/runtime.txt
	printf 'atheris==3.0.0' | $(UV_COMPILE) --no-annotate --upgrade - -o requirements/fuzz.txt
	printf 'river==0.26.1\nmsgspec\nnumpy\n' | $(UV_COMPILE) --no-annotate --upgrade -c requirements/locked.txt - -o requirements/bench.txt
	printf 'hatchling>=1.27\nsetuptools>=77\n' | $(UV_COMPILE) --no-annotate --upgrade - -o requirements/build.txt

clean: ## Remove the environment and the demo's data
	rm -rf $(VENV) $(BENCH_VENV) .citywatch
