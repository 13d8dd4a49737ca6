from typing import NamedTuple
import numpy as np
from .vocabulary import Vocabulary
class LabelMap(NamedTuple):
    of: dict; how: str=''; unmatched: list=()
class LabelMapError(ValueError): pass
def map_labels(labels, vocabulary, given=None):
    names=[n.lower() for n in vocabulary.names]
    if given: return LabelMap({l: names.index(given[l].lower()) for l in labels},'file',[])
    of={l: names.index(l.lower()) if l.lower() in names else None for l in labels}
    return LabelMap(of,'name',[l for l in of if of[l] is None])
def check_agreement(lm, label, pred, names, least=5):
    if len(label)>10 and (label==pred).mean()<.2: raise LabelMapError('wrong map')
