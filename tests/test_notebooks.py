"Every notebook runs from top to bottom, assertions included."
import multiprocessing, os, subprocess, sys
from importlib.util import find_spec
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p.relative_to(ROOT) for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
# Imported once, in a process from which each notebook's is forked; nothing of this package, nor torchvision, which imports Triton
SHARED = ('nbdev.test', 'fastcore.test', 'torch', 'pandas', 'scipy.stats', 'sklearn.linear_model', 'seaborn',
    'PIL.Image', 'pytest')

def execute(notebook, said):
    "What `nbdev_test` does with one notebook; what it prints goes to a file"
    file = os.open(said, os.O_WRONLY|os.O_CREAT)
    for stream in (1, 2): os.dup2(file, stream)
    multiprocessing.set_start_method(None, force=True) # that of the platform, as in any other process
    os.chdir(ROOT)
    from nbdev.config import get_config
    from nbdev.test import test_nb
    right,_ = test_nb(ROOT/notebook, skip_flags=get_config().tst_flags.split(), do_print=True, basepath=ROOT)
    sys.stdout.flush(); sys.stderr.flush()
    sys.exit(not right)

@pytest.fixture(scope='session')
def processes():
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([m for m in SHARED if find_spec(m.split('.')[0])])
    return context

@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=str)
def test_notebook(notebook, processes, tmp_path):
    running = processes.Process(target=execute, args=(notebook, tmp_path/'said'))
    running.start(); running.join()
    assert running.exitcode==0, (tmp_path/'said').read_text()[-5000:]

def test_the_command_does_the_same():
    "nbdev_test, as CONTRIBUTING and CI know it"
    command = [Path(sys.executable).parent/'nbdev_test', '--path', 'nbs/glossary.ipynb', '--n_workers', '0']
    assert subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout=='Success.\n'

def test_a_notebook_that_fails_is_seen(processes, tmp_path):
    import nbformat
    wrong = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('assert 1==2, "no"')])
    wrong.metadata.kernelspec = dict(name='python3', display_name='python3', language='python')
    nbformat.write(wrong, tmp_path/'wrong.ipynb')
    running = processes.Process(target=execute, args=(tmp_path/'wrong.ipynb', tmp_path/'said'))
    running.start(); running.join()
    assert running.exitcode==1 and 'AssertionError' in (tmp_path/'said').read_text()
