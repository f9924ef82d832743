#!/usr/bin/env python3
"""Exits with 0 if this interpreter has every `name==version` of the given requirements file."""

import importlib.metadata
import sys


def main():
    for line in open(sys.argv[1], encoding="utf-8"):
        name, _, version = line.split("#")[0].strip().partition("==")
        if not name:
            continue
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            sys.exit(f"{name} is missing")
        if found.split("+")[0] != version:
            sys.exit(f"{name} {found} is not {version}")


if __name__ == "__main__":
    main()
