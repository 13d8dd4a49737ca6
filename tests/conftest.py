"What all tests share: one thread each, since they run side by side, no screen, and a count at the end."
import importlib.util, os, sys, tempfile
from contextlib import contextmanager
import matplotlib, pytest, torch

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ['MPLBACKEND'] = 'agg'
RUNS = tempfile.TemporaryDirectory(prefix='avh_runs_') # a user's unfinished runs are no business of tests
os.environ['AVH_RUNS'] = RUNS.name
matplotlib.use('agg')
torch.set_num_threads(1)

@contextmanager
def interpreter():
    "Where there is no GPU, ask for Triton's interpreter; other tests run in this process, and are not to see it"
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available(): patch.setenv('TRITON_INTERPRET', '1')
        yield

if importlib.util.find_spec('triton'):
    with interpreter(): import triton # noqa: F401, now, before others import it without an interpreter

def pytest_terminal_summary(terminalreporter):
    passed = terminalreporter.stats.get('passed', [])
    notebooks = sum('::test_notebook[' in r.nodeid for r in passed)
    for r in passed:
        for name,value in r.user_properties: terminalreporter.write_line(f'{name}: {value}')
    terminalreporter.write_line(f'{notebooks} notebooks and {len(passed)-notebooks} tests passed')

@pytest.fixture(autouse=True)
def no_figure_is_open():
    "A test begins without the figures of those before it in its process"
    if 'matplotlib.pyplot' in sys.modules: sys.modules['matplotlib.pyplot'].close('all')
