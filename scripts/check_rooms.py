#!/usr/bin/env python3
"""Fails if a room includes one that is not below it, or a public header something of src/.

What stands below what is read from the DEPENDS of CMakeLists.txt; docs/architecture.md explains.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


def rooms_below():
    """Room -> every room it may include, itself among them."""
    below = {}
    text = re.sub(r"#.*", "", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))
    for call in re.findall(r"ringwise_(?:room|program)\(([^)]*)\)", text):
        words = call.split()
        below[words[0]] = {words[0]}
        if "DEPENDS" in words:
            for room in words[words.index("DEPENDS") + 1 :]:
                if room.isupper():
                    break
                if room not in below:
                    sys.exit(f"CMakeLists.txt: {words[0]} depends on {room}, named after it")
                below[words[0]] |= below[room]
    return below


def main():
    below = rooms_below()
    errors = []
    for file in sorted([*ROOT.glob("include/**/*.h"), *ROOT.glob("src/*/*")]):
        if file.suffix not in (".h", ".cc"):
            continue
        relative = file.relative_to(ROOT)
        room = relative.parts[1] if relative.parts[0] == "src" else None
        if room and room not in below:
            errors.append(f"{relative}: {room} is no room of CMakeLists.txt")
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            include = re.match(r'\s*#\s*include\s+["<]([^/">]+)/([^">]+)[">]', line)
            if not include:
                continue
            target = include[1]
            if room is None and (target in below or target in ("nlohmann", "oneapi", "CLI", "hwy")):
                errors.append(f"{relative}:{number}: a public header includes {target}/")
            elif room and target in below and target not in below[room]:
                errors.append(f"{relative}:{number}: {room} may not include {target}")
    print("\n".join(errors) or f"{len(below)} rooms, every include downwards")
    sys.exit(1 if errors else 0)


if __name__ == "__main__":
    main()
