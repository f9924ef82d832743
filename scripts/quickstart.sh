#!/usr/bin/env bash
# From a bare Debian machine to a trained long-context model: installs what is missing, builds,
# trains a small model on text, lets it write, and shows what it cost at 1, 2 and 4 ranks.
#
#   scripts/quickstart.sh [PATH...]      files and folders of text; default: the headers under
#                                        /usr/include
#
# About six minutes on two cores, after installing and building. Safe to run again: every run has a
# folder of its own under build/quickstart.
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=scripts/common.sh
. scripts/common.sh

data=()
for path in "$@"; do
  case $path in
  -*) die "usage: scripts/quickstart.sh [PATH...]" ;;
  /*) data+=("$path") ;;
  *) data+=("$start/$path") ;;
  esac
  [ -e "${data[-1]}" ] || die "$path: no such file or folder"
done

ensure_packages "${BUILD_PACKAGES[@]}" python3
[ ${#data[@]} -gt 0 ] || data=(/usr/include)

say "Building"
if [ ! -f build/build.ninja ]; then
  mkdir -p build
  cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release >build/cmake.log ||
    { cat build/cmake.log && exit 1; }
fi
ninja -C build --quiet ringwise
ringwise=build/ringwise

run=build/quickstart/$(date +%Y%m%d-%H%M%S)
mkdir -p build/quickstart
say "Training on ${data[*]} (run folder: $run)"
$ringwise train --config configs/quickstart.toml --data "${data[@]}" --out "$run"

say "On held-out documents"
python3 scripts/quickstart_report.py heldout "$run"

# A continuation of the way one of the documents begins.
python3 scripts/quickstart_report.py prompt "${data[0]}" >"$run/prompt.txt"
say "Generating; the first lines are the prompt"
cat "$run/prompt.txt"
$ringwise generate --model "$run/checkpoints/latest" --prompt-file "$run/prompt.txt" \
  --max-tokens 400 --temperature 0.7 --top-k 40 --seed 1
echo

say "What ran, and what a rank holds as the ring grows (two steps each)"
for ring in 1 2 4; do
  $ringwise train --config configs/quickstart.toml --data "${data[@]}" --out "$run-ring$ring" \
    --context-schedule 8192x1:2 --max-seconds 0 --eval-tokens 0 \
    --ring $ring 2>"$run-ring$ring.log" || { cat "$run-ring$ring.log" && exit 1; }
done
python3 scripts/quickstart_report.py table "$run" "$run"-ring{1,2,4}
rm -r "$run"-ring{1,2,4} "$run"-ring{1,2,4}.log
printf '\nThe model: %s\n' "$run/checkpoints/latest"
