# Recipes for the everyday work; `just` lists them. https://just.systems
python := ".venv/bin/python"

# List the recipes
default:
    @just --list

# Set up the virtual environment
venv:
    [ -x {{python}} ] || python3 -m venv .venv
    {{python}} -m pip install -q -r requirements-dev.txt

# Open the panel on sample images, or on a folder: just panel PHOTOS --routes keep,reject
panel *arguments:
    [ -x {{python}} ] || python3 -m venv .venv
    {{python}} -m pip install -q -r requirements.txt
    {{python}} gradio_app.py {{arguments}}

# Set up everything that the tests need, and run all of them
test *arguments:
    scripts/test {{arguments}}

# The everyday loop: no browser, no database server, no other processes, no attacks
quick *arguments: venv
    {{python}} -m pytest -m quick -n 2 {{arguments}}

# Check style and types
lint: venv
    {{python}} -m ruff check .
    {{python}} -m ruff format --check .
    {{python}} -m mypy
    [ -d node_modules ] || npm ci
    npm run check
    npm run types

# Test the scripts' modules that need no page
scripts:
    npm test

# Measure how fast it is
bench *arguments: venv
    {{python}} -m benchmarks {{arguments}}

# Build the documentation into site/, with broken links as errors
docs:
    [ -x {{python}} ] || python3 -m venv .venv
    {{python}} -m pip install -q -r docs/requirements.txt
    {{python}} scripts/import_graph.py --write
    {{python}} -m mkdocs build --strict
