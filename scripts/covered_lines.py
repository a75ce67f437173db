"""Say how many lines of each file the tests ran, from what coverage.py and gcov wrote.

    python scripts/covered_lines.py python.json compiled.json

Ends with status 1 if that is less than FLOOR of all lines, in Python or in Cython.
`scripts/coverage`
makes the two files.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

FLOOR = 95.0    # per cent

Lines = dict[str, dict[int, bool]]      # by file and number: whether it ran


def of_python(path: str) -> Lines:
    found: Lines = {}
    for file, about in json.loads(Path(path).read_text())["files"].items():
        found[file] = {**dict.fromkeys(about["executed_lines"], True),
                       **dict.fromkeys(about["missing_lines"], False)}
    return found


def of_cython(path: str) -> Lines:
    """A line is there once for each module and function that it was compiled into."""
    found: Lines = defaultdict(dict)
    for text in Path(path).read_text().splitlines():
        for about in json.loads(text)["files"]:
            file = about["file"]
            if not file.endswith((".pyx", ".pxi")) or file.endswith("_door.pxi"):
                continue                            # the door is of debug builds alone
            length = len(Path(file).read_text().splitlines())
            for line in about["lines"]:
                number = line["line_number"]
                if number <= length:
                    found[file][number] = found[file].get(number, False) or line["count"] > 0
    return found


def report(title: str, files: Lines) -> bool:
    """Print a table, and return whether the floor holds."""
    print(f"\n{title:34} {'lines':>6} {'run':>6} {'share':>8}  not run")
    every = covered = 0
    for file, lines in sorted(files.items()):
        if not lines:
            continue
        ran = sum(lines.values())
        every, covered = every + len(lines), covered + ran
        missing = " ".join(str(number) for number, did in sorted(lines.items()) if not did)
        print(f"{file:34} {len(lines):6} {ran:6} {100 * ran / len(lines):7.1f}%  {missing}")
    share = 100 * covered / max(1, every)
    print(f"{'all':34} {every:6} {covered:6} {share:7.1f}%  floor {FLOOR} %")
    return share >= FLOOR


if __name__ == "__main__":
    good = [report(".py", of_python(sys.argv[1])), report(".pyx and .pxi", of_cython(sys.argv[2]))]
    sys.exit(not all(good))
