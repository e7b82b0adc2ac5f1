# run: try the whole bench in a few minutes · test: everything CI checks · lab: the notebooks, live · book: the pages
BIN := .venv/bin
UV := .tools/bin/uv
BOOK := book/_build/html/index.html
PARALLEL := -n auto --maxprocesses 4 --dist loadscope

.PHONY: run test lab book notebooks bench upgrade clean

run: .venv/.ready
	$(BIN)/prx-lab run baseline --scale smoke
	$(BIN)/prx-lab run repa --scale smoke
	$(BIN)/prx-lab table --scale smoke
	@$(MAKE) --no-print-directory book

test: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/pytest $(PARALLEL) tests
	$(if $(CI),$(BIN)/pytest $(PARALLEL) -m slow tests)
	$(BIN)/pytest $(PARALLEL) --nbval notebooks
	$(BIN)/jupyter-book build -W --all --keep-going book
	$(BIN)/python book/_ext/prx_check.py book/_build/html

lab: .venv/.ready
	$(BIN)/jupyter lab --ServerApp.preferred_dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

book: .venv/.ready
	@$(BIN)/jupyter-book build book
	@echo "The book is at $(CURDIR)/$(BOOK)"

# Refreshes all that is stored: each notebook's outputs (byte-identical when nothing changed) and README's scoreboard.
notebooks: .venv/.ready
	set -a && . tests/steady.env && export CUDA_VISIBLE_DEVICES= && ls notebooks/*.ipynb | xargs -n 1 -P $(shell nproc) \
		$(BIN)/jupyter nbconvert --log-level=WARN --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=1800 --ClearMetadataPreprocessor.enabled=True \
		--ClearMetadataPreprocessor.clear_cell_metadata=False \
		--ClearMetadataPreprocessor.preserve_nb_metadata_mask="{('kernelspec',), ('language_info', 'name')}"
	$(BIN)/python tests/test_readme.py

# Speed, side by side, into results/benchmarks: about half an hour on two cores; rounds that other work disturbs are repeated.
bench: .venv/.ready
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .tools book/_build book/_generated book/notebooks book/api .pytest_cache .ruff_cache *.egg-info

# `pip --target` needs neither ensurepip nor root and is allowed under PEP 668; uv then makes the environment.
.tools/bin/uv:
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .tools "uv>=0.8"

# The newest versions that pyproject.toml allows, in .venv and in constraints.txt.
upgrade: | .tools/bin/uv
	$(UV) venv --quiet --seed --allow-existing .venv
	$(UV) pip install --upgrade --python .venv -e .
	(sed -n '/^#/p' constraints.txt; $(UV) pip freeze --quiet --python .venv --exclude-editable | grep -v ' @ ' | LC_ALL=C sort) > constraints.new
	mv constraints.new constraints.txt && touch .venv/.ready

.venv/.ready: pyproject.toml constraints.txt | .tools/bin/uv
	@echo "Setting up .venv (once: about 3 GB, most of it PyTorch; half a minute on a fast line)"
	$(UV) venv --quiet --seed --allow-existing .venv
	$(UV) pip install $(shell test -t 2 || echo --quiet) --python .venv -c constraints.txt -e .
	$(BIN)/python -c "import matplotlib.font_manager"
	@touch $@
