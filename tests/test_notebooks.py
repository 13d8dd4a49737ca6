"Every notebook runs from top to bottom, assertions included."
import subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p.relative_to(ROOT) for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)

@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=str)
def test_notebook(notebook):
    command = [Path(sys.executable).parent/'nbdev_test', '--path', notebook, '--n_workers', '0', '--do_print']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode==0, (done.stdout+done.stderr)[-5000:]
