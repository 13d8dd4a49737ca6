import numpy as np, torch
from dataclasses import dataclass
from ..measure.head import Head
@dataclass
class O: scores: object; probs: object; fold: object; repeats: int; about: dict
def out_of_sample(x,y,probe='auto',groups=None,seed=0):
    c=int(y.max())+1; w=torch.stack([x[y==k].mean(0) for k in range(c)]); h=Head(w-w.mean(0)); 
    return O(h.score(x,y), h.logits(x).softmax(1), torch.full((len(y),),-1), 1, dict(probe='x'))
