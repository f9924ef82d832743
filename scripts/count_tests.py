#!/usr/bin/env python3
"""Prints `PASSED FAILED SKIPPED` of a ctest JUnit report.

Counts the cases inside a program (GoogleTest, unittest) where its output names them; a program
that tells nothing counts as one. A program that failed counts at least one failure, and so does a
report of no program.
"""

import re
import sys
import xml.etree.ElementTree as ElementTree


def count(case):
    output = case.findtext("system-out") or ""
    status = case.get("status")
    if status not in ("run", "fail"):
        # ctest also says "skipped" of a program it could not start: that is a failure.
        reason = case.find("skipped")
        wanted = reason is not None and reason.get("message", "").startswith("SKIP_")
        return (0, 0, 1) if wanted or status == "disabled" else (0, 1, 0)
    passed = failed = skipped = 0
    if re.search(r"^\[=+\] \d+ tests? from .* ran\.", output, re.MULTILINE):
        # Under mpirun every rank reports; the ranks run the same cases.
        ranks = len(re.findall(r"^\[=+\] \d+ tests? from .* ran\.", output, re.MULTILINE))
        passed, failed, skipped = (
            -(-len(re.findall(rf"^\[ +{word} +\] \S+ \(", output, re.MULTILINE)) // ranks)
            for word in ("OK", "FAILED", "SKIPPED")
        )
    elif match := re.search(r"^Ran (\d+) tests? in ", output, re.MULTILINE):
        last = output[match.end() :]
        number = {name: int(n) for name, n in re.findall(r"(failures|errors|skipped)=(\d+)", last)}
        failed = number.get("failures", 0) + number.get("errors", 0)
        skipped = number.get("skipped", 0)
        passed = max(0, int(match[1]) - failed - skipped)
    elif status == "run":
        passed = 1
    if status == "fail":
        failed = max(failed, 1)
    return passed, failed, skipped


def main():
    cases = list(ElementTree.parse(sys.argv[1]).getroot().iter("testcase"))
    print(*(map(sum, zip(*map(count, cases))) if cases else (0, 1, 0)))


if __name__ == "__main__":
    main()
