#!/usr/bin/env bash
# Runs every check and test: what CI runs. The last line is `N passed, N failed, N skipped`.
#
#   scripts/test.sh           everything: format, lint, all tests, then core, kernels, attention,
#                             comm and ring again under the sanitizers
#   scripts/test.sh --quick   format, rooms, and the C++ tests of the release build
#
# Installs what is missing: Debian packages (as root or by sudo), and the packages of
# tests/requirements.txt in a virtual environment, build/venv or the one RINGWISE_TEST_VENV names.
# Exits with 1 if anything failed. While CI is set a skipped test and a compiler's warning fail too;
# otherwise the build is as the quickstart's, so that neither compiles again what the other did.
# shellcheck disable=SC2317  # functions are called by `check`
set -uo pipefail
venv=${RINGWISE_TEST_VENV:+$(realpath -m "$RINGWISE_TEST_VENV")}  # seen from where the caller is
cd "$(dirname "$0")/.." || exit
# shellcheck source=scripts/common.sh
. scripts/common.sh

quick=false
case "${1-}" in
'') ;;
--quick) quick=true ;;
*) die "usage: scripts/test.sh [--quick]" ;;
esac

passed=0 failed=0 skipped=0
runner=()  # what ctest is started by
export PYTHONDONTWRITEBYTECODE=1
jobs=$(nproc)
results=$PWD/build/test-results
mkdir -p "$results"

# check NAME COMMAND...: counts as one test.
check() {
  local name=$1
  shift
  say "$name"
  if "$@"; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1))
    echo "FAILED: $name"
  fi
}

# tests NAME CTEST-ARGUMENT...: runs ctest and counts its cases. A program without an answer counts
# as one failure, and so does a ctest that failed for another reason, as having found no tests.
tests() {
  local name=$1 report=$results/$1.xml counts status=0
  shift
  say "Tests: $name"
  rm -f "$report"
  "${runner[@]}" ctest --no-tests=error --output-on-failure --test-output-size-passed 10000000 \
    --output-junit "$report" "$@" || status=$?
  counts=$(python3 scripts/count_tests.py "$report") || counts="0 1 0"
  read -r -a counts <<<"$counts"
  [ "$status" -eq 0 ] || [ "${counts[1]}" -gt 0 ] || counts[1]=1
  passed=$((passed + counts[0])) failed=$((failed + counts[1])) skipped=$((skipped + counts[2]))
}

build() {
  local folder=$1
  shift
  cmake -S . -B "$folder" -G Ninja -DRINGWISE_WERROR="${CI:+ON}" "${@:2}" >"$results/cmake.log" ||
    { cat "$results/cmake.log" && return 1; }
  # shellcheck disable=SC2086  # a list of targets
  ninja -C "$folder" -j "$jobs" $1
}

prepare_python() {
  local folder=$1 clear=()
  # Without pip it is what an interrupted attempt has left; only a folder of ours is emptied.
  [ "$folder" != "$PWD/build/venv" ] || clear=(--clear)
  "$folder/bin/python" -m pip --version >/dev/null 2>&1 ||
    /usr/bin/python3 -m venv "${clear[@]}" "$folder" || return 1
  "$folder/bin/python" scripts/check_requirements.py tests/requirements.txt 2>/dev/null ||
    "$folder/bin/python" -m pip install --disable-pip-version-check -q -r tests/requirements.txt
}

finish() {
  printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  [ "$failed" -eq 0 ] && { [ "$skipped" -eq 0 ] || [ -z "${CI-}" ]; }
  exit
}

# In a subshell, so that what ends it does not end the count.
prepare_system() (
  ensure_packages "${BUILD_PACKAGES[@]}" clang-format clang-tidy libomp-dev shellcheck python3 \
    python3-venv
)

check "Debian packages" prepare_system
[ "$failed" -eq 0 ] || finish

check "Format" scripts/lint.py format
check "Rooms include only rooms below them" scripts/check_rooms.py
if $quick; then
  check "Build" build build all -DCMAKE_BUILD_TYPE=Release
  [ "$failed" -eq 0 ] && tests release --test-dir build -j "$jobs" -LE python
  finish
fi

check "Scripts" scripts/lint.py scripts
venv=${venv:-$PWD/build/venv}
check "Python packages" prepare_python "$venv"
check "Build" build build all -DCMAKE_BUILD_TYPE=Release -DRINGWISE_TEST_PYTHON="$venv/bin/python"
check "Lint" scripts/lint.py tidy build
tests release --test-dir build -j "$jobs"

# MPI hides its memory from the sanitizers, and its own threads are not instrumented.
rooms=()
for room in core kernels attention comm ring; do
  compgen -G "src/$room/*_test.cc" >/dev/null && rooms+=("$room")
done
for sanitizer in asan tsan; do
  checks=address,undefined
  [ $sanitizer = asan ] || checks=thread
  # GCC 12's thread sanitizer does not start where the kernel randomises addresses widely.
  [ $sanitizer = asan ] || ! setarch -R true 2>/dev/null || runner=(setarch -R)
  check "Build: $sanitizer" build "build/$sanitizer" "${rooms[*]/%/_test}" \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DRINGWISE_SANITIZE=$checks -DRINGWISE_MPI=OFF
  tests $sanitizer --test-dir "build/$sanitizer" -j "$jobs" \
    -R "^($(IFS='|' && echo "${rooms[*]}"))\$"
done
finish
