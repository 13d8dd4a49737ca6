import torch
def duplicate_groups(x): return torch.arange(len(x))
