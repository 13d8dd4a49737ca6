"Slow float64 loops, written from the definitions and from nothing in the package."
import math

def angle(u, v):
    "The angle of two lists of numbers, by Kahan's half-angle form"
    nu,nv = math.hypot(*u),math.hypot(*v)
    minus = math.hypot(*(a/nu-b/nv for a,b in zip(u, v)))
    plus = math.hypot(*(a/nu+b/nv for a,b in zip(u, v)))
    return 2*math.atan2(minus, plus)

def share(part, total, n): return part/total if total else 1/n # equal angles have equal shares

def scores_of_one(a, z, label, norm):
    "A dict of scores, from the angles and the logits of one sample"
    top = max(z)
    e = [math.exp(v-top) for v in z]
    p = [v/sum(e) for v in e]
    others = [k for k in range(len(a)) if k!=label]
    best = z.index(top)
    after = sorted((k for k in range(len(a)) if k!=best and z[k]>-math.inf), key=lambda k: -z[k]) # equals stay in order
    return dict(pred=best, pred2=after[0] if after else -1, confidence=p[label], entropy=-sum(v*math.log(v) for v in p if v>0),
        loss=math.log(sum(e))-(z[label]-top),
        el2n=math.sqrt(sum((v-(k==label))**2 for k,v in enumerate(p))), margin=p[label]-max((p[k] for k in others), default=0.),
        norm=norm, angle=a[label], avh=share(a[label], sum(a), len(a)),
        avc=share(math.pi-a[label], sum(math.pi-v for v in a), len(a)),
        angular_gap=min(a[k] for k in others)-a[label] if others else math.nan,
        logit_margin=z[label]-max(z[k] for k in others) if others else math.nan, energy=-(top+math.log(sum(e))),
        angle_pred=a[best], avh_pred=share(a[best], sum(a), len(a)))

def scores(x, w, y, bias=None):
    "One dict of scores for each row"
    def logits(row): return [sum(p*q for p,q in zip(row, c)) + (bias[k] if bias is not None else 0) for k,c in enumerate(w)]
    return [scores_of_one([angle(row, c) for c in w], logits(row), label, math.hypot(*row)) for row,label in zip(x, y)]
