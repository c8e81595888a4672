#!/bin/sh
# Looks for known vulnerabilities of what is installed in the virtual environment named by $1.
# The tool gets an environment of its own, so that it is not among what it judges. Where no index or
# no database answers, nothing was looked at: that is said, and is no failure.
set -eu
venv=${1:-.venv}
tool=$venv/audit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

skip() {
    printf 'audit: SKIPPED: %s\n' "$*" >&2
    exit 0
}

# Asked first, since an environment takes longer to make than an index takes to say no.
install_tool() {
    timeout 60 "$venv/bin/python" -m pip download --quiet --no-deps --disable-pip-version-check \
        --timeout 5 --retries 0 --dest "$work" 'pip-audit>=2.10,<3' &&
        "$venv/bin/python" -m venv "$tool" &&
        timeout 300 "$tool/bin/python" -m pip install --quiet --disable-pip-version-check \
            --timeout 5 --retries 0 "$work"/pip_audit-*.whl
}

[ -x "$tool/bin/pip-audit" ] || install_tool >"$work/log" 2>&1 || {
    rm -rf "$tool"
    skip "pip-audit could not be installed from the index that pip is configured for"
}

# Names with public versions: a database knows nothing of 2.13.0+cpu.
"$venv/bin/python" - >"$work/installed" <<'END'
from importlib.metadata import distributions

found = {(each.name, each.version.partition("+")[0]) for each in distributions()}
print(*(f"{name}=={version}" for name, version in sorted(found) if name != "praxino"), sep="\n")
END

timeout 300 "$tool/bin/pip-audit" --requirement "$work/installed" --no-deps --disable-pip \
    --timeout 10 --progress-spinner off --format json --output "$work/report" >"$work/log" 2>&1 || :

"$venv/bin/python" - "$work/report" <<'END' || status=$?
import json
import sys

try:
    with open(sys.argv[1], encoding="utf-8") as file:
        packages = json.load(file)["dependencies"]
except (OSError, ValueError, KeyError):
    sys.exit(3)
judged = [each for each in packages if "vulns" in each]
if not judged:
    sys.exit(3)
for each in packages:
    if "vulns" not in each:
        print(f"audit: not judged: {each['name']}: {each.get('skip_reason', 'unknown')}")
faults = [(each, fault) for each in judged for fault in each["vulns"]]
for each, fault in faults:
    fixed = ", ".join(fault["fix_versions"]) or "no version"
    print(f"audit: {each['name']} {each['version']}: {fault['id']}, fixed in {fixed}")
print(f"audit: {len(judged)} packages, {len(faults)} known vulnerabilities")
sys.exit(bool(faults))
END
[ "${status:-0}" -ne 3 ] || skip "no database of vulnerabilities answered"
exit "${status:-0}"
