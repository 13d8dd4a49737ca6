"Slow float64 loops, written from the definitions and from nothing in the package."
import math

def angle(u, v):
    "The angle of two lists of numbers, by Kahan's half-angle form"
    nu,nv = math.hypot(*u),math.hypot(*v)
    minus = math.hypot(*(a/nu-b/nv for a,b in zip(u, v)))
    plus = math.hypot(*(a/nu+b/nv for a,b in zip(u, v)))
    return 2*math.atan2(minus, plus)

def scores(x, w, y, bias=None):
    "One dict of scores for each row"
    rows = []
    for i,row in enumerate(x):
        a = [angle(row, c) for c in w]
        z = [sum(p*q for p,q in zip(row, c)) + (bias[k] if bias is not None else 0) for k,c in enumerate(w)]
        top = max(z)
        e = [math.exp(v-top) for v in z]
        p = [v/sum(e) for v in e]
        label = y[i]
        others = [k for k in range(len(w)) if k!=label]
        rows.append(dict(pred=z.index(top), confidence=p[label], entropy=-sum(v*math.log(v) for v in p if v>0),
            loss=math.log(sum(e))-(z[label]-top),
            el2n=math.sqrt(sum((v-(k==label))**2 for k,v in enumerate(p))), margin=p[label]-max((p[k] for k in others), default=0.),
            norm=math.hypot(*row), angle=a[label], avh=a[label]/sum(a), avc=(math.pi-a[label])/sum(math.pi-v for v in a),
            angular_gap=min(a[k] for k in others)-a[label] if others else math.nan))
    return rows
