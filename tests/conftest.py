"What all tests share: one thread each, since they run side by side, no screen, and a count at the end."
import os
import matplotlib, torch

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ['MPLBACKEND'] = 'agg'
matplotlib.use('agg')
torch.set_num_threads(1)

def pytest_terminal_summary(terminalreporter):
    passed = terminalreporter.stats.get('passed', [])
    notebooks = sum('test_notebooks.py' in r.nodeid for r in passed)
    terminalreporter.write_line(f'{notebooks} notebooks and {len(passed)-notebooks} tests passed')
