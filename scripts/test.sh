#!/usr/bin/env bash
# Runs every check and test: what CI runs. The last line is `N passed, N failed, N skipped`.
#
#   scripts/test.sh           everything: format, lint, all tests, then core, kernels, attention,
#                             comm and ring again under the sanitizers
#   scripts/test.sh --quick   format, rooms, and the C++ tests of the release build
#
# Installs what is missing: Debian packages (as root or by sudo), and the packages of
# tests/requirements.txt in a virtual environment, build/venv or the one RINGWISE_TEST_VENV names.
# Exits with 1 if anything failed, or was skipped while CI is set.
# shellcheck disable=SC2317  # functions are called by `check`
set -uo pipefail
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
# as one failure, so nothing that broke is missing from the sum.
tests() {
  local name=$1 report=$results/$1.xml counts
  shift
  say "Tests: $name"
  rm -f "$report"
  "${runner[@]}" ctest --no-tests=error --output-on-failure --test-output-size-passed 10000000 \
    --output-junit "$report" "$@"
  counts=$(python3 scripts/count_tests.py "$report") || counts="0 1 0"
  read -r -a counts <<<"$counts"
  passed=$((passed + counts[0])) failed=$((failed + counts[1])) skipped=$((skipped + counts[2]))
}

build() {
  local folder=$1
  shift
  cmake -S . -B "$folder" -G Ninja -DRINGWISE_WERROR=ON "${@:2}" >"$results/cmake.log" ||
    { cat "$results/cmake.log" && return 1; }
  # shellcheck disable=SC2086  # a list of targets
  ninja -C "$folder" -j "$jobs" $1
}

prepare_python() {
  local folder=$1
  [ -x "$folder/bin/python" ] || /usr/bin/python3 -m venv "$folder" || return 1
  "$folder/bin/python" scripts/check_requirements.py tests/requirements.txt 2>/dev/null ||
    "$folder/bin/python" -m pip install --disable-pip-version-check -q -r tests/requirements.txt
}

finish() {
  printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  [ "$failed" -eq 0 ] && { [ "$skipped" -eq 0 ] || [ -z "${CI-}" ]; }
  exit
}

ensure_packages "${BUILD_PACKAGES[@]}" clang-format clang-tidy libomp-dev shellcheck python3 \
  python3-venv || die "Installing packages failed."

check "Format" scripts/lint.py format
check "Rooms include only rooms below them" scripts/check_rooms.py
if $quick; then
  check "Build" build build all -DCMAKE_BUILD_TYPE=Release
  [ "$failed" -eq 0 ] && tests release --test-dir build -j "$jobs" -LE python
  finish
fi

check "Scripts" scripts/lint.py scripts
venv=$(realpath -m "${RINGWISE_TEST_VENV:-build/venv}")
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
