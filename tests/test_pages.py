"""The pages tell the truth: their Python runs, their links lead somewhere."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastnet as fn

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md",
                                  "docs/DISTRIBUTED.md", "docs/SCALING.md", "examples/README.md")]

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").exists(), reason="needs the source tree")


def blocks(path):
    if not path.exists():
        return []
    return re.findall(r"^```python\n(.*?)^```$", path.read_text(), re.M | re.S)


@pytest.mark.parametrize("code", blocks(PAGES[0]), ids=lambda code: code.split("\n")[0])
def test_readme_python_runs(code, tmp_path):
    for package in ("sklearn", "torch", "onnx", "mpi4py"):
        if package in code:
            pytest.importorskip(package)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if "callbacks" in code:
        assert float(re.search(r"val_accuracy (\d\.\d+)", done.stdout)[1]) > 0.9
        assert (tmp_path / "run.safetensors").exists()
    elif "sklearn" in code:
        assert float(done.stdout) > 0.95
    elif "torch" in code:
        assert float(done.stdout) < 1e-5 and (tmp_path / "digits.pt").exists()
    elif "load_digits" in code:
        loss, accuracy = map(float, re.findall(r"\d\.\d+", done.stdout))
        assert loss < (0.4 if "Sequential" in code else 0.15) and accuracy > 0.9


def test_the_page_on_several_processes_runs_in_one(tmp_path):
    pytest.importorskip("mpi4py")
    code, = blocks(ROOT / "docs/DISTRIBUTED.md")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    net, (x, y) = fn.load(tmp_path / "digits.safetensors"), fn.load_digits()
    assert net.evaluate(x, y).accuracy > 0.9


def test_the_program_in_c_says_what_the_page_says(tmp_path):
    if (cc := shutil.which("cc")) is None:
        pytest.skip("needs a C compiler")
    page = PAGES[0].read_text()
    code, = (code for code in blocks(PAGES[0]) if "to_c" in code)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    (tmp_path / "main.c").write_text(re.search(r"^```c\n(.*?)^```$", page, re.M | re.S)[1])
    subprocess.run([cc, "-O3", "main.c", "-lm", "-o", "xor"], cwd=tmp_path, check=True)
    said = subprocess.run(["./xor"], cwd=tmp_path, check=True, capture_output=True, text=True)
    expected = re.search(r"prints `(.*?)`", page)[1]
    found = [list(map(float, text.split())) for text in (said.stdout, expected)]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_dropping_in_gives_the_same_numbers():
    """The two scripts of the README, before and after, end in the same place (float32: 1e-5)."""
    before, = (code for code in blocks(PAGES[0]) if "class Dense" in code)
    after, = (code for code in blocks(PAGES[0]) if "initializers.Uniform" in code)
    spaces = {}, {}
    for code, space in zip((before, after), spaces, strict=True):
        exec(code, space)       # noqa: S102 - our own page
    assert abs(spaces[0]["y"] - spaces[1]["y"]).max() < 1e-5
    assert abs(spaces[0]["y"] - spaces[0]["target"]).max() > 1e-3      # and that place is no limit


def test_the_speed_table_shows_what_the_result_file_says():
    table = PAGES[0].read_text().partition("<!-- networks -->")[2].partition("![")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")]
            for line in table.strip().splitlines()[2:]]
    file = json.loads((ROOT / "docs/benchmarks/networks_float32.json").read_text())
    assert len(rows) == len(file["results"])
    for row, result in zip(rows, file["results"], strict=True):
        assert row[0] == result["network"]
        forms = {comparison["form"]: comparison for comparison in result["comparisons"]}
        for form, (own, other, ratio) in [("many steps per call", row[1:4]),
                                          ("inference", row[4:7])]:
            comparison = forms[form]
            time, name = other.split(", ")
            assert name == comparison["fastest"]
            for shown, who in [(own, comparison["fastnet"]), (time, name)]:
                number, unit = shown.split()
                seconds = float(number) * {"us": 1e-6, "ms": 1e-3}[unit]
                assert seconds == pytest.approx(comparison["times"][who]["median"], rel=0.06)
            assert float(ratio) == pytest.approx(comparison["ratio"], rel=0.005)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_no_page_sends_people_to_somebody_elses_package():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*"),
                 *ROOT.glob("fastnet/*.py")]:
        assert not re.search(r"pip install ['\"]?fastnet\b", path.read_text()), path
