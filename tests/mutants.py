"Known wrong variants of a page, which its tests have to catch."
import sys, types
from pathlib import Path

def mutant(page, old, new):
    "The module of a page with `new` where its source says `old`, which has to stand there once"
    source = Path(page.__file__).read_text(encoding='utf-8')
    assert source.count(old)==1, 'the mutant has nothing to change'
    module = types.ModuleType(f'{page.__package__}.mutant')
    module.__package__ = page.__package__
    sys.modules[module.__name__] = module # where dataclasses look for it
    try: exec(compile(source.replace(old, new), 'mutant', 'exec'), module.__dict__)
    finally: del sys.modules[module.__name__]
    return module
