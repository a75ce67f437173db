"""scikit-learn's own tests of its networks, with ours in their place."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

sklearn = pytest.importorskip("sklearn", "1.8")
pytest.importorskip("fastnet.sklearn")
pytest.importorskip("pandas")       # one of their tests wants it

FILE = Path(sklearn.__file__).parent / "neural_network" / "tests" / "test_mlp.py"
LEFT_OUT = {
    "test_gradient": "calls their _loss_grad_lbfgs with arrays of theirs",
}
SCRIPT = """
import sys
import sklearn.neural_network as theirs
import fastnet.sklearn as ours
theirs.MLPClassifier, theirs.MLPRegressor = ours.MLPClassifier, ours.MLPRegressor
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_their_tests_pass(tmp_path):
    skipped = [f"--deselect={FILE.relative_to(FILE.parents[2])}::{name}" for name in LEFT_OUT]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(FILE), "-v", "-rs", "-p", "no:cacheprovider",
         f"--rootdir={FILE.parents[2]}", *skipped],
        cwd=tmp_path, capture_output=True, text=True)
    verdicts = re.findall(r"::(test_\w+)(?:\[.*?\])? (PASSED|FAILED|ERROR)", done.stdout)
    passed = {name for name, verdict in verdicts if verdict == "PASSED"}
    wrong = {name for name, verdict in verdicts if verdict != "PASSED"}
    assert wrong == set() and done.returncode == 0, done.stdout + done.stderr
    written = set(re.findall(r"^def (test_\w+)", FILE.read_text(), re.M))
    assert passed | set(LEFT_OUT) == written and len(passed) >= 37
    print(f"\n{len(passed)} functions of scikit-learn {sklearn.__version__} passed; left out: "
          + ", ".join(f"{name} ({reason})" for name, reason in LEFT_OUT.items()))
