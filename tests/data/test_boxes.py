"Boxes of masks against loops, and the files of localisation data, whole and hostile."
import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from avh_nb.data.boxes import cue_masks, load_mask, mask_boxes, read_localisation, resize_boxes
from avh_nb.data.sets import available
from avh_nb.data.votes import cue_conflict

sides = st.integers(1, 7)

@given(st.tuples(st.integers(1, 3), sides, sides).flatmap(lambda s: arrays(bool, s)))
def test_boxes_against_a_loop(masks):
    expected = []
    for i,m in enumerate(masks):
        true = [(x, y) for y in range(m.shape[0]) for x in range(m.shape[1]) if m[y, x]]
        if not true:
            with pytest.raises(ValueError, match=f'masks: expected a true pixel in each, got none in mask {i}'): mask_boxes(masks)
            return
        expected.append([min(x for x,_ in true), min(y for _,y in true), max(x for x,_ in true), max(y for _,y in true)])
    assert mask_boxes(masks).tolist()==mask_boxes(torch.tensor(masks)).tolist()==expected

def test_masks_that_are_refused():
    for bad in (np.ones((2, 3, 3)), np.ones((3, 3), bool), torch.ones(1, 3, 3)):
        with pytest.raises(ValueError, match='masks: expected booleans of shape'): mask_boxes(bad)
    assert mask_boxes(np.ones((0, 3, 3), bool)).shape==(0, 4)

@pytest.mark.skipif(not available('cue_conflict'), reason='needs cue_conflict')
def test_masks_of_cue_conflict():
    "All images of a silhouette share its mask"
    masks,c = cue_masks(),cue_conflict()
    assert masks.shape==(1280, 224, 224) and masks.dtype==torch.bool and cue_masks() is masks
    first = np.unique(c.silhouette, return_index=True)[1]
    for i in range(0, 1280, 7): assert torch.equal(masks[i], masks[first[c.silhouette[i]]])
    assert len({m.numpy().tobytes() for m in masks[first]})==160

# Files

IDS,LABELS,SIZES = 'b/1.jpg\na.jpg\n','a.jpg,0\nb/1.jpg,12\nother.jpg,3\n','a.jpg,40,30\nb/1.jpg,500,375\n'
BOXES = 'a.jpg,0,0,39,29\nb/1.jpg,10,20,30,40\nother.jpg,0,0,9999,9999\nb/1.jpg,5,5,5,5\n'
MASKS = 'b/1.jpg,m/1.png,m/i.png\nb/1.jpg,m/2.png,\na.jpg,m/3.png,\n'

def write(folder, **files):
    texts = dict(image_ids=IDS, class_labels=LABELS, image_sizes=SIZES, localization=BOXES)|files
    for name,text in texts.items():
        if text is not None: (folder/f'{name}.txt').write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder

def test_boxes_from_files(tmp_path):
    found = read_localisation(write(tmp_path))
    assert found.ids==['b/1.jpg', 'a.jpg'] and found.y.tolist()==[12, 0] and found.sizes=={'a.jpg': (40, 30), 'b/1.jpg': (500, 375)}
    assert {k: v.tolist() for k,v in found.boxes.items()}=={'a.jpg': [[0, 0, 39, 29]], 'b/1.jpg': [[10, 20, 30, 40], [5, 5, 5, 5]]}
    assert found.masks is None and repr(found)=='2 images with boxes, 2 classes'

def test_masks_from_files(tmp_path):
    found = read_localisation(write(tmp_path, localization=MASKS, image_sizes=None))
    assert found.masks=={'b/1.jpg': (['m/1.png', 'm/2.png'], 'm/i.png'), 'a.jpg': (['m/3.png'], '')}
    assert found.boxes is None and found.sizes is None and repr(found)=='2 images with masks, 2 classes'
    assert read_localisation(write(tmp_path, localization=MASKS)).sizes['a.jpg']==(40, 30)

def test_lines_as_other_systems_end_them(tmp_path):
    texts = dict(image_ids=IDS, class_labels=LABELS, image_sizes=SIZES, localization=BOXES)
    write(tmp_path, **{k: v.replace('\n', '\r\n') for k,v in texts.items()})
    assert read_localisation(tmp_path).boxes['a.jpg'].tolist()==[[0, 0, 39, 29]]
    write(tmp_path, image_ids='\n'+IDS.rstrip('\n'))
    assert read_localisation(tmp_path).ids==['b/1.jpg', 'a.jpg']

@pytest.mark.parametrize('files,match', [
    (dict(image_ids=''), 'image_ids.txt: expected one image at least'),
    (dict(image_ids='a.jpg\na.jpg\n'), "image_ids.txt: line 2: 'a.jpg' stands further up"),
    (dict(image_ids='a.jpg,1\n'), 'image_ids.txt: line 1: expected 1 fields, got 2'),
    (dict(image_ids=IDS+'c.jpg\n'), "class_labels.txt: no line for 1 of 3 images, the first 'c.jpg'"),
    (dict(image_ids=b'\xff\xfe'), 'image_ids.txt: not a text file in UTF-8'),
    (dict(class_labels='a.jpg,x\nb/1.jpg,1\n'), "class_labels.txt: line 1: expected a whole number from 0, got 'x'"),
    (dict(class_labels='a.jpg,-1\nb/1.jpg,1\n'), "line 1: expected a whole number from 0, got '-1'"),
    (dict(class_labels='a.jpg,٣\nb/1.jpg,1\n'), "line 1: expected a whole number from 0"),
    (dict(class_labels='a.jpg,'+'9'*5000+'\nb/1.jpg,1\n'), "line 1: expected a whole number from 0"),
    (dict(class_labels='a.jpg\n'), 'class_labels.txt: line 1: expected 2 fields, got 1'),
    (dict(class_labels=LABELS+'a.jpg,0\n'), "class_labels.txt: line 4: 'a.jpg' stands further up"),
    (dict(image_sizes='a.jpg,40,0\nb/1.jpg,500,375\n'),
        r'image_sizes.txt: line 1: expected a width and a height of at least 1, got \(40, 0\)'),
    (dict(image_sizes='a.jpg,40.5,30\n'), "image_sizes.txt: line 1: expected a whole number from 0, got '40.5'"),
    (dict(image_sizes='a.jpg,40,30\n'), "image_sizes.txt: no line for 1 of 2 images, the first 'b/1.jpg'"),
    (dict(localization=BOXES+'a.jpg,0,0,40,29\n'), 'localization.txt: line 5: expected x0 <= x1 < 40 and y0 <= y1 < 30'),
    (dict(localization='b/1.jpg,0,0,3,375\n'), 'localization.txt: line 1: expected .* y1 < 375'),
    (dict(localization='a.jpg,5,0,3,3\n'), 'localization.txt: line 1: expected x0 <= x1'),
    (dict(localization='a.jpg,-1,0,3,3\n'), "localization.txt: line 1: expected a whole number from 0, got '-1'"),
    (dict(localization='a.jpg,nan,0,3,3\n'), "localization.txt: line 1: expected a whole number from 0, got 'nan'"),
    (dict(localization='a.jpg,0,0,3,3\n'), "localization.txt: no line for 1 of 2 images, the first 'b/1.jpg'"),
    (dict(localization=''), "localization.txt: no line for 2 of 2 images"),
    (dict(localization='a.jpg,0,0,3\n'), 'localization.txt: line 1: expected 3 or 5 fields, got 4'),
    (dict(localization='a.jpg,0,0,3,3\na.jpg,m.png,\n'), 'localization.txt: line 2: expected 5 fields, got 3'),
    (dict(localization='a.jpg,m.png,\na.jpg,0,0,3,3\n'), 'localization.txt: line 2: expected 3 fields, got 5'),
    (dict(localization='a.jpg,m.png,i.png\na.jpg,n.png,j.png\n'), "localization.txt: line 2: expected nothing after the mask"),
    *[(dict(localization=f'a.jpg,{path},\n'), 'localization.txt: line 1: expected a path within the folder') for path in
        ('', '/etc/passwd', '../m.png', 'm/../../m.png', r'..\m.png', r'C:\m.png', 'C:m.png', r'\\host\m.png', 'm\0.png', 'm\x1b[2J.png')],
    (dict(localization='a.jpg,m.png,../i.png\n'), 'localization.txt: line 1: expected a path within the folder'),
    (dict(localization='a.jpg,m.png,i.png\na.jpg,/n.png,\n'), 'localization.txt: line 2: expected a path within the folder')])
def test_files_that_are_refused(files, match, tmp_path):
    write(tmp_path, **files)
    with pytest.raises(ValueError, match=match) as e: read_localisation(tmp_path)
    assert str(tmp_path) in str(e.value)

def test_a_file_that_is_not_there(tmp_path):
    for missing in ('image_ids', 'class_labels', 'image_sizes', 'localization'):
        folder = tmp_path/missing; folder.mkdir()
        write(folder, **{missing: None})
        with pytest.raises(FileNotFoundError, match=f'{missing}.txt'): read_localisation(folder)

# Masks

def drawn(tmp_path, **masks):
    (tmp_path/'m').mkdir(exist_ok=True)
    for name,a in masks.items(): Image.fromarray(np.asarray(a)).save(tmp_path/'m'/f'{name}.png')
    listed = MASKS.replace('m/1', 'm/one').replace('m/2', 'm/two').replace('m/3', 'm/other')
    return read_localisation(write(tmp_path, localization=listed))

def test_what_is_ignored_is_not_the_object(tmp_path):
    rng = np.random.default_rng(0)
    one,two,ignore = rng.random((3, 9, 7))<.3
    found = drawn(tmp_path, one=one.astype(np.uint8)*255, two=two, i=ignore.astype(np.uint8), other=two)
    mask,ignored = load_mask(found, 'b/1.jpg', tmp_path)
    np.testing.assert_array_equal(mask, one | two); np.testing.assert_array_equal(ignored, ignore & ~(one | two))
    assert mask.dtype==ignored.dtype==bool and not (mask & ignored).any() and (ignore & mask).any()
    mask,ignored = load_mask(found, 'a.jpg', tmp_path)
    assert (mask==two).all() and not ignored.any()

# Which pixels cv2.resize with INTER_NEAREST takes, by OpenCV 5.0.0, 4.14.0 and 4.5.5: of 36 for 224 (their sum: some are one less
# than i*36//224, since 36/224 is rounded), of 5 for 8, of 8 for 3
NEAREST = {(36, 224): 3903, (5, 8): [0, 0, 1, 1, 2, 3, 3, 4], (8, 3): [0, 2, 5]}

@pytest.mark.parametrize('have,want', NEAREST)
def test_masks_are_resized_as_opencv_does(have, want, tmp_path):
    taken = np.zeros(want, int)
    for i in range(have):
        line = np.zeros((have, 1), np.uint8); line[i] = 255
        found = drawn(tmp_path, other=line.T)
        mask,_ = load_mask(found, 'a.jpg', tmp_path, size=(want, 2))
        assert mask.shape==(2, want)
        taken[mask[1]] = i
    assert NEAREST[have, want] in (taken.tolist(), taken.sum())
    if have==36: assert (np.arange(want)*have//want).sum()>taken.sum()

def test_kinds_of_files(tmp_path):
    a = np.array([[0, 1, 200]], np.uint8)
    for kind in ('L', 'RGB', 'P', 'I;16', '1', 'RGBA'):
        if kind=='I;16': image = Image.fromarray(a.astype(np.uint16))
        elif kind=='1': image = Image.fromarray(a>0)
        elif kind=='RGBA': image = Image.merge('RGBA', [Image.fromarray(a)]*3+[Image.fromarray(0*a)])
        elif kind=='P': image = Image.fromarray(a).convert('RGB').quantize(4)
        else: image = Image.fromarray(a).convert(kind)
        found = drawn(tmp_path, other=a)
        image.save(tmp_path/'m/other.png')
        assert load_mask(found, 'a.jpg', tmp_path)[0].tolist()==[[False, True, True]], kind

def test_masks_from_files_that_are_refused(tmp_path):
    found = drawn(tmp_path, one=np.ones((4, 5), bool), two=np.ones((5, 4), bool), i=np.ones((4, 5), bool), other=np.ones((4, 5), bool))
    with pytest.raises(ValueError, match='m/two.png: expected 5 x 4 pixels, as m/one.png has, got 4 x 5'):
        load_mask(found, 'b/1.jpg', tmp_path)
    assert load_mask(found, 'b/1.jpg', tmp_path, size=(3, 3))[0].all() # in one size, they fit
    with pytest.raises(ValueError, match="id: expected one of 2 images, got 'x'"): load_mask(found, 'x', tmp_path)
    (tmp_path/'m/other.png').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='m/other.png: not an image that can be read'): load_mask(found, 'a.jpg', tmp_path)
    (tmp_path/'m/other.png').unlink()
    with pytest.raises(FileNotFoundError): load_mask(found, 'a.jpg', tmp_path)
    (tmp_path/'secret.png').write_bytes(b'')
    inner = tmp_path/'inner'; (inner/'m').mkdir(parents=True)
    (inner/'m/other.png').symlink_to(tmp_path/'secret.png')
    with pytest.raises(ValueError, match='leads out of'): load_mask(found, 'a.jpg', inner)
    found.masks['a.jpg'] = (['../secret.png'], '')
    with pytest.raises(ValueError, match='expected a path within the folder'): load_mask(found, 'a.jpg', tmp_path)
    found = read_localisation(write(tmp_path))
    with pytest.raises(ValueError, match='localisation: expected masks, it has boxes'): load_mask(found, 'a.jpg', tmp_path)

@given(st.integers(1, 900), st.integers(1, 900), st.data())
def test_boxes_in_another_size(wide, high, data):
    x0,y0 = data.draw(st.integers(0, wide-1)),data.draw(st.integers(0, high-1))
    x1,y1 = data.draw(st.integers(x0, wide-1)),data.draw(st.integers(y0, high-1))
    got = resize_boxes([[x0, y0, x1, y1]], (wide, high)).tolist()
    assert got==[[int(x0*224/wide), int(y0*224/high), int(x1*224/wide), int(y1*224/high)]] and max(got[0])<224

def test_boxes_that_are_not_resized():
    for bad in ([[0, 0, 50, 3]], [[0, 0, 3, 40]], [[-1, 0, 3, 3]], [[4, 0, 3, 3]], [[0, 0, float('nan'), 3]]):
        with pytest.raises(ValueError, match=r'boxes: expected .* within 50 x 40 pixels, got .* in row 1'):
            resize_boxes([[0, 0, 1, 1], *bad], (50, 40))
    with pytest.raises(ValueError, match=r'boxes: expected shape \(n, 4\), got \(4,\)'): resize_boxes([0, 0, 1, 1], (50, 40))
