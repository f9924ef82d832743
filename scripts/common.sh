# shellcheck shell=bash
# Shared by the scripts here; to be sourced. Everything is safe to run again.

# What building needs; docs/architecture.md gives the reason for each library. OpenCL's headers are
# for oneDNN's CMake file alone, which asks for them without depending on their package.
# shellcheck disable=SC2034  # used by the scripts that source this file
BUILD_PACKAGES=(g++ cmake ninja-build ccache pkg-config libdnnl-dev ocl-icd-opencl-dev libhwy-dev
  libopenmpi-dev openmpi-bin nlohmann-json3-dev libcli11-dev libfmt-dev libarchive-dev zlib1g-dev
  libgtest-dev libgmock-dev)

say() { printf '\n== %s\n' "$*"; }

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

# ensure_packages PACKAGE...: installs the Debian packages that are missing, as root or by sudo;
# asks for neither, and touches no network, if nothing is missing.
ensure_packages() {
  local package missing=() as_root=()
  command -v dpkg-query >/dev/null ||
    { echo "Not Debian: expecting these to be installed: $*" >&2 && return; }
  for package in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
      missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "As root, first: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  say "Installing ${missing[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${missing[@]}"
}
