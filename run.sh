#!/usr/bin/env bash
# Start greenproxy with nothing but python3 on the machine: make .venv, install what the lock file names, run.
#
#   ./run.sh                      run conf/demo.yaml
#   ./run.sh CONFIG               run CONFIG
#   ./run.sh check CONFIG         say what is wrong with CONFIG, run nothing
#   ./run.sh test [PYTEST ARGS]   linters, types and all tests, or those that PYTEST ARGS choose
#   ./run.sh load NAME [ARGS]     load test locustfiles/NAME.py, e.g. --host http://127.0.0.1:8080 --run-time 1m
#   ./run.sh bench [--quick]      measure against nginx and Node (make bench)
#   ./run.sh setup                only make .venv, with the test tools
#
# Every other word goes to the greenproxy command as it is.
# $VIRTUAL_ENV is used in place of .venv, and $PYTHON in place of python3, where they are set.
# Nothing but PyPI is reached, and apt where this runs as root and a Debian package is missing.
set -eu
set -o pipefail

here=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
venv=${VIRTUAL_ENV:-$here/.venv}

say() { printf 'greenproxy: %s\n' "$*" >&2; }

fail() {
    say "$*"
    exit 1
}

# ---- Debian packages ----------------------------------------------------------------------------------------------

may_use_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

apt_install() {
    say "installing the Debian package $* (apt-get)"
    DEBIAN_FRONTEND=noninteractive apt-get -qq update >/dev/null 2>&1 || true
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null 2>&1
}

# ---- the virtual environment --------------------------------------------------------------------------------------

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10; do
        if is_new_enough "$name"; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    fail "Python 3.10 or newer is needed; python3 here is $(python3 -V 2>&1 || true)"
}

# Debian ships the venv module without ensurepip, which `python3 -m venv` needs, unless python3-venv is there.
need_venv_module() {
    local python=$1 package
    "$python" -c 'import ensurepip, venv' 2>/dev/null && return
    package=$("$python" -c 'import sys; print("python3.%d-venv" % sys.version_info[1])')
    [ "$(readlink -f "$python")" = "$(readlink -f /usr/bin/python3)" ] && package=python3-venv
    may_use_apt || fail "$python cannot make a virtual environment; as root: apt-get install $package"
    apt_install "$package" || fail "apt-get could not install $package, which $python needs"
}

make_venv() {
    local python
    python=$(find_python)
    need_venv_module "$python"
    say "making ${venv/#"$here/"/} ($("$python" -V))"
    "$python" -m venv --clear "$venv" || fail "$python could not make $venv"
}

# A venv follows its interpreter by a link: after an upgrade of Python it runs, but without its packages and its pip.
venv_is_sound() { is_new_enough "$venv/bin/python" && "$venv/bin/python" -c 'import pip' 2>/dev/null; }

# What the environment was filled from: the lock, the interpreter and the place of this checkout.
fingerprint() {
    sha256sum <"$1"
    "$venv/bin/python" -c 'import os, sys; print(sys.version, os.path.realpath(sys.executable))' 2>/dev/null || true
    printf '%s\n' "$here"
}

is_filled_from() { [ "$(cat "$venv/.${1##*/}.stamp" 2>/dev/null)" = "$(fingerprint "$1")" ]; }

show_progress() {
    local total=$1
    if [ -t 2 ]; then
        awk -v total="$total" '/^Collecting/ { printf "\r\033[K  %d of about %d: %s", ++n, total, $2; fflush() }
            /^Installing/ { printf "\r\033[K  unpacking" ; fflush() } END { printf "\r\033[K" }' >&2
    else
        cat >/dev/null
    fi
}

install_lock() {
    local lock=$1 stamp=$venv/.${1##*/}.stamp pip=("$venv/bin/python" -m pip --disable-pip-version-check)
    rm -f "$stamp"
    say "installing what ${lock##*/} names (once; about a minute)"
    "${pip[@]}" install --require-hashes -r "$lock" | show_progress "$(grep -c '==' "$lock")" ||
        fail "pip could not install ${lock##*/}"
    # What an editable install does: `python -m greenproxy` works from any folder, in hosted processes too.
    "$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' | while read -r site; do
        printf '%s\n' "$here" >"$site/greenproxy-checkout.pth"
    done
    fingerprint "$lock" >"$stamp.new"
    mv "$stamp.new" "$stamp"
}

# Run in a subshell, so that the lock (descriptor 9) is never handed on to the program.
fill_under_lock() (
    lock_file=$here/.venv.lock
    [ -z "${VIRTUAL_ENV:-}" ] || lock_file=$venv/.greenproxy.lock
    [ -w "$(dirname "$lock_file")" ] || fail "$(dirname "$lock_file") cannot be written, and .venv has to be set up there"
    exec 9>"$lock_file"
    flock -n 9 || { say "waiting for another run.sh that is setting up" && flock 9; }
    if ! venv_is_sound; then
        [ -z "${VIRTUAL_ENV:-}" ] || fail "VIRTUAL_ENV=$venv holds no Python 3.10 or newer with pip"
        make_venv
    fi
    for lock in "$@"; do
        is_filled_from "$lock" || install_lock "$lock"
    done
)

# need requirements.lock ...: the environment holds what these lock files name. Costs two short Python starts if so.
need() {
    local lock
    for lock in "$@"; do
        is_filled_from "$here/$lock" || {
            fill_under_lock "${@/#/$here/}"
            break
        }
    done
    PATH=$venv/bin:$PATH
    export PATH
}

# -I: this checkout's code runs, whatever the folder that we were called from holds, and whatever $PYTHONPATH names.
# It is not inherited: hosted applications see the environment as it is.
run_greenproxy() { exec python -I -m greenproxy "$@"; }

# ---- ./run.sh test ------------------------------------------------------------------------------------------------

failures=()

section() {
    local title=$1
    shift
    printf '\n== %s\n' "$title"
    "$@" || failures+=("$title")
}

# The Debian packages that tests use, as command:package. Tests that lack one say so and are skipped, but not in CI.
test_tools=(shellcheck:shellcheck)

need_test_tools() {
    local tool missing=()
    for tool in "${test_tools[@]}"; do
        command -v "${tool%%:*}" >/dev/null || missing+=("${tool##*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if may_use_apt && apt_install "${missing[@]}"; then return 0; fi
    say "not installed: ${missing[*]}; what needs it is skipped (as root: apt-get install ${missing[*]})"
    [ "${CI:-}" != true ]
}

check_shell() {
    command -v shellcheck >/dev/null || { echo "skipped: shellcheck is not installed" && return; }
    shellcheck run.sh .ci/run
}

run_tests() {
    need requirements.lock requirements-dev.lock
    cd "$here"
    section "Debian packages for tests" need_test_tools
    section "shellcheck" check_shell
    section "ruff check" python -m ruff check .
    section "ruff format" python -m ruff format --check .
    section "mypy --strict greenproxy" python -m mypy
    if [ $# -eq 0 ]; then set -- tests; fi
    section "pytest" python -m pytest "$@"
    if [ ${#failures[@]} -gt 0 ]; then
        printf '\n'
        fail "FAILED: $(printf '%s, ' "${failures[@]}" | sed 's/, $//')"
    fi
    say "all checks passed"
}

# ---- ./run.sh load ------------------------------------------------------------------------------------------------

run_load() {
    local name=${1:-} file=$here/locustfiles/${1:-}.py
    if [ -z "$name" ] || [ ! -f "$file" ]; then
        fail "usage: run.sh load NAME [--host URL] [locust arguments]; NAME is one of:" \
            "$(cd "$here/locustfiles" && printf '%s ' *.py | sed 's/\.py / /g')"
    fi
    shift
    need requirements.lock requirements-dev.lock
    # Later arguments win, so every number here can be set by the caller.
    if python -m locust -f "$file" --headless --only-summary --users 50 --spawn-rate 50 --run-time 20s \
        --stop-timeout 5 "$@"; then
        say "load $name: PASS"
    else
        fail "load $name: FAIL"
    fi
}

# -------------------------------------------------------------------------------------------------------------------

case ${1:-} in
'')
    need requirements.lock
    say "starting the demo; look at http://127.0.0.1:8080 (Ctrl-C stops it)"
    run_greenproxy "$here/conf/demo.yaml"
    ;;
test)
    shift
    run_tests "$@"
    ;;
load)
    shift
    run_load "$@"
    ;;
bench)
    shift
    need requirements.lock requirements-dev.lock
    cd "$here"
    exec python -m tests.bench "$@"
    ;;
setup)
    need requirements.lock requirements-dev.lock
    say "ready: $venv"
    ;;
*)
    need requirements.lock
    run_greenproxy "$@"
    ;;
esac
