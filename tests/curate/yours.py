"A folder of 600 digits and a network that reads them, as a user has them."
from pathlib import Path
import numpy as np, torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

MODEL = '''
import os, time, numpy as np, torch
from pathlib import Path
from safetensors.torch import load_file

class Digits(torch.nn.Module):
    "A linear reader of digits, which notes how many images it was shown"
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(64, 10)
    def forward(self, x):
        if os.environ.get('SEEN'):
            with open(os.environ['SEEN'], 'a') as f: f.write(f'{len(x)}\\\\n')
        time.sleep(float(os.environ.get('SLEEP', 0)))
        return self.fc(x.flatten(1))

def pixels(image): return torch.from_numpy(np.array(image.convert('L'))).float()/255
pixels.preprocessing = dict(crop_pct=float(os.environ.get('CROP', .875)))

def network():
    net = Digits()
    net.load_state_dict(load_file(Path(__file__).with_name('digits.safetensors')))
    return net, pixels
'''.replace('\\\\n', '\\n')

def digits(n=600):
    "Images (n, 8, 8), uint8, the same number of each digit, and labels"
    data = load_digits()
    order = np.concatenate([np.flatnonzero(data.target==k)[:n//10] for k in range(10)])
    return (data.images[order]*15.9).astype(np.uint8),data.target[order]

def write_folder(folder, images, labels, names=None):
    "One folder for each label, with one PNG for each image"
    for i,(image,y) in enumerate(zip(images, labels)):
        path = Path(folder)/(names[y] if names else str(y))/f'{i:05}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return Path(folder)

def write_model(folder):
    "digits.py and its weights; what --model takes"
    x,y = load_digits(return_X_y=True)
    fit = LogisticRegression(max_iter=200, C=.05).fit(x*15.9/255, y)
    weights = {'fc.weight': torch.from_numpy(fit.coef_).float().contiguous(), 'fc.bias': torch.from_numpy(fit.intercept_).float()}
    save_file(weights, Path(folder)/'digits.safetensors')
    (Path(folder)/'digits.py').write_text(MODEL)
    return f'{folder}/digits.py:network'
