#!/bin/sh
# Makes the virtual environment named by $1 and installs Praxino into it, editable.
# Debian splits Python: venv may lack ensurepip, so the host's pip is the second way.
set -eu
venv=${1:-.venv}

say() { printf '%s\n' "$*" >&2; }

find_python() {
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || continue
        command -v "$candidate"
        return
    done
    say "Praxino needs Python 3.11 or newer; none of python3, python3.13, 3.12, 3.11 is one."
    say "Install it (Debian, Ubuntu: apt-get install python3 python3-venv), or set PYTHON=/path/to/python."
    exit 1
}

make_venv() {
    "$1" -c 'import ensurepip' 2>/dev/null && "$1" -m venv "$venv" && return
    "$1" -m pip --version >/dev/null 2>&1 && "$1" -m venv --without-pip "$venv" &&
        "$1" -m pip --python "$venv/bin/python" install --quiet pip && return
    say "This Python can neither make a virtual environment with pip nor has a pip of its own."
    say "Install one of them and repeat (Debian, Ubuntu: apt-get install python3-venv)."
    exit 1
}

python=$(find_python)
[ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 || {
    say "Making $venv with $python."
    rm -rf "$venv"
    make_venv "$python"
}
say "Installing into $venv (PyTorch is large; this happens once)."
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
