def datalab(*a): pass
def to_fiftyone(*a): pass
