"Real classifiers of three libraries, with random weights and no network."
import pytest, torch
import avh_nb as av
from avh_nb.measure.head import find_head, unpack_batch, logits_of

torch.manual_seed(0)
X,Y = torch.randn(6, 3, 64, 64),torch.tensor([0, 1, 2, 3, 4, 5])

def check(model, batches, name):
    "The head is found, and the scores are those of features and logits taken by hand"
    assert find_head(model, batches[0])[0]==name
    s = av.score_model(model, batches, progress=False)
    model.eval()
    with torch.no_grad(): logits = torch.cat([logits_of(unpack_batch(b)[0](model)) for b in batches])
    y = torch.cat([unpack_batch(b)[1] for b in batches])
    assert torch.equal(s.pred, logits.argmax(1))
    torch.testing.assert_close(s.confidence, logits.softmax(1).gather(1, y[:, None])[:, 0], rtol=1e-4, atol=1e-6)
    assert s.avh.isfinite().all() and len(s)==len(y)

def loader(x, y, size=4): return list(zip(x.split(size), y.split(size)))

@pytest.mark.parametrize('name,head', [('resnet18', 'fc'), ('mobilenet_v3_small', 'classifier.3'), ('vgg11', 'classifier.6'), ('densenet121', 'classifier'), ('alexnet', 'classifier.6')])
def test_torchvision(name, head):
    import torchvision
    check(torchvision.models.get_model(name, num_classes=7), loader(X, Y), head)

@pytest.mark.parametrize('name,head', [('resnet10t', 'fc'), ('vit_tiny_patch16_224', 'head'), ('convnext_atto', 'head.fc')])
def test_timm(name, head):
    timm = pytest.importorskip('timm')
    x = torch.randn(6, 3, 224, 224) if name.startswith('vit') else X
    check(timm.create_model(name, num_classes=7), loader(x, Y), head)

def test_transformers_image():
    t = pytest.importorskip('transformers')
    config = t.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16, num_labels=7)
    check(t.ViTForImageClassification(config), [dict(pixel_values=x, labels=y) for x,y in loader(X, Y)], 'classifier')

def test_transformers_text():
    t = pytest.importorskip('transformers')
    config = t.BertConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=7)
    ids = torch.randint(50, (6, 9))
    batches = [dict(input_ids=i, attention_mask=torch.ones_like(i), labels=y) for i,y in loader(ids, Y)]
    check(t.BertForSequenceClassification(config), batches, 'classifier')

def test_a_classifier_without_linear_head_is_refused():
    import torchvision
    with pytest.raises(ValueError, match=r"no nn.Linear makes the logits .* the last layer that ran is 'classifier.3', a AdaptiveAvgPool2d.* What works: .*head="):
        av.score_model(torchvision.models.squeezenet1_1(num_classes=7), loader(X, Y), progress=False)

def test_a_head_on_every_token_is_refused():
    t = pytest.importorskip('transformers')
    config = t.GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=2, num_labels=7, pad_token_id=0)
    with pytest.raises(ValueError, match='no nn.Linear makes the logits .* score'):
        av.score_model(t.GPT2ForSequenceClassification(config), [dict(input_ids=torch.randint(1, 50, (6, 9)), labels=Y)], progress=False)

def test_batches_before_an_error_are_not_lost():
    import torchvision
    kept = []
    with pytest.raises(ValueError, match='batch 1: y: expected labels'):
        for s in av.score_batches(torchvision.models.resnet18(num_classes=7), loader(X, Y.clone().index_fill_(0, torch.tensor([5]), 99))): kept.append(s)
    assert len(kept)==1 and len(kept[0])==4
