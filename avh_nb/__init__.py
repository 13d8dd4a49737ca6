__version__ = "0.1.0"

from importlib import import_module

_PAGES = {'angle': ['angles'], 'measure.scores': ['avh', 'avc', 'score', 'Scores'], 'measure.model': ['score_model', 'score_batches'],
    'loss.angular': ['AngularLinear', 'AVHLoss'],
    'curate.run': ['score_images'], 'curate.result': ['Run']} # page -> what of it is found here
_WHERE = {name: page for page,names in _PAGES.items() for name in names}

__all__ = ['angles', 'avh', 'avc', 'score', 'score_model', 'score_batches', 'Scores', 'AngularLinear', 'AVHLoss']

def __getattr__(name):
    "Import a page when something of it is asked for: a command that only says its options does not wait for PyTorch"
    if name not in _WHERE: raise AttributeError(f"module 'avh_nb' has no attribute {name!r}")
    try: globals()[name] = found = getattr(import_module(f'avh_nb.{_WHERE[name]}'), name)
    except ModuleNotFoundError as e:
        if name in __all__ or (e.name or '').startswith('avh_nb'): raise
        raise ImportError(f"avh_nb.{name} needs {e.name}: pip install 'avh_nb[images]'") from e
    return found

def __dir__(): return sorted({*globals(), *_WHERE})
