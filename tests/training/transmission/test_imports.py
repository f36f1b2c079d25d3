"""A camera carries no more than it needs."""

import subprocess
import sys


def test_a_camera_imports_no_evaluation() -> None:
    code = (
        "import sys, training.segment, training.detect; "
        "print([m for m in sys.modules if m.startswith('training.evaluation')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
