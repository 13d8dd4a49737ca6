"Sprites: against outlines drawn in another way and analytic areas, whole in the image, and a file that may be hostile."
import io, itertools, math, pickle, re, struct, zipfile
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from mutants import mutant
from avh_nb.data import sprites as page
from avh_nb.data.sprites import COLOURS, LATENTS, N_VALUES, SHAPES, all_latents, check_latents, coloured, draw_sprites, read_sprites

SCALE = [.5, .6, .7, .8, .9, 1]
PLACES = [16+32*p/31 for p in range(32)]

# Latents

def test_latents_are_the_product_of_the_values_the_last_fastest():
    latents = all_latents()
    assert LATENTS==('colour', 'shape', 'scale', 'orientation', 'x', 'y') and list(COLOURS)==['red', 'green', 'blue', 'white']
    first = list(itertools.islice(itertools.product(*map(range, (4, 3, 6, 39, 32, 32))), 3000))
    assert latents[:3000].tolist()==[list(row) for row in first] and len(latents)==4*3*6*39*32*32
    index,stride = torch.randint(len(latents), (5000,), generator=torch.Generator().manual_seed(0)),1
    for k,n in reversed(list(enumerate(N_VALUES.values()))): # the stride of a factor is the product of the sizes after it
        assert torch.equal(latents[index, k].long(), index//stride%n)
        stride *= n

# A second way to draw: corners and discs, turned and moved, and every subpixel of a plane that is larger than the image

def centred(corners):
    "Corners of a polygon of area 1.2, around its centre of mass"
    p = np.array(corners, float)
    q = np.roll(p, -1, 0)
    cross = p[:, 0]*q[:, 1]-q[:, 0]*p[:, 1]
    middle = ((p+q)*cross[:, None]).sum(0)/cross.sum()/3
    return (p-middle)*math.sqrt(1.2/(cross.sum()/2))

def heart():
    side = math.sqrt(1.2/(1+math.pi/4))
    c = side/math.sqrt(8)
    lobe = c+4/3/math.pi*side/2/math.sqrt(2) # height of the centre of mass of half a disc on the middle of an upper side
    up = math.pi*side**2/4/1.2*lobe
    return [[(0, -2*c-up), (2*c, -up), (0, 2*c-up), (-2*c, -up)]],[(c, c-up, side/2), (-c, c-up, side/2)]

def drop():
    "The disc under the tangents from a point at twice its radius, with the centre of mass from a sum over thin slices"
    v = np.linspace(-1, 2, 300_001)
    half = np.where(v<.5, np.sqrt(np.maximum(1-v**2, 0)), (2-v)/math.sqrt(3))
    area,up = 2*half.mean()*3,(half*v).sum()/half.sum()
    r = math.sqrt(1.2/area)
    def at(u, w): return u*r,(w-up)*r
    return [[at(-math.sqrt(3)/2, .5), at(math.sqrt(3)/2, .5), at(0, 2)]],[(*at(0, 0), r)]

FIGURES = {
    'square': ([centred([(0, 0), (1, 0), (1, 1), (0, 1)])], []),
    'L': ([centred([(0, 0), (4, 0), (4, 2), (2, 2), (2, 5), (0, 5)])], []),
    'heart': heart(), 'drop': drop(), 'ellipse': None,
}

def within_polygon(x, y, corners):
    "Even-odd rule"
    inside = np.zeros(x.shape, bool)
    for (x0, y0),(x1, y1) in zip(corners, np.roll(corners, -1, 0)):
        if y0!=y1: inside ^= ((y0>y)!=(y1>y)) & (x<x0+(y-y0)*(x1-x0)/(y1-y0))
    return inside

def reference(shape, scale, turn, px, py, size=64):
    "Subpixels in the shape on a plane with a margin of 8 pixels around the image"
    unit,angle = size/4*SCALE[scale],2*math.pi*turn/39
    grid = (np.arange(-32, 4*size+32)+.5)/4
    x,y = np.meshgrid(grid, grid)
    def moved(u, v): # counter-clockwise, and rows run downwards
        along,up = u*math.cos(angle)-v*math.sin(angle),u*math.sin(angle)+v*math.cos(angle)
        return size/64*PLACES[px]+unit*along,size/64*PLACES[py]-unit*up
    if shape=='ellipse': # the sum of the distances from the foci is the long axis
        short = math.sqrt(1.2/2/math.pi)
        foci = [moved(0, s*short*math.sqrt(3)) for s in (-1, 1)]
        return sum(np.hypot(x-a, y-b) for a,b in foci)<4*short*unit
    polygons,discs = FIGURES[shape]
    inside = np.zeros(x.shape, bool)
    for corners in polygons: inside |= within_polygon(x, y, np.array([moved(*c) for c in corners]))
    for u,v,r in discs:
        a,b = moved(u, v)
        inside |= np.hypot(x-a, y-b)<r*unit
    return inside

def cases(n, seed):
    random = np.random.default_rng(seed)
    for shapes,names in SHAPES.items():
        for k,name in enumerate(names):
            rows = np.stack([random.integers(0, N_VALUES[f], n) for f in LATENTS], 1)
            rows[:, 0],rows[:, 1] = 3,k
            rows[:4, 4:] = [[0, 0], [31, 31], [0, 31], [31, 0]] # the corners
            rows[:2, 2],rows[2:4, 2] = 5,0
            yield shapes,name,rows

def same_as_reference(draw, n=8, seed=0, size=64):
    for shapes,name,rows in cases(n, seed):
        for row,image in zip(rows, draw(torch.from_numpy(rows), shapes, size)):
            inside = reference(name, *row[2:], size)
            image_only = inside[32:-32, 32:-32]
            assert image_only.sum()==inside.sum(), f'{name} {row}: not whole in the image'
            share = image_only.reshape(size, 4, size, 4).mean((1, 3))
            off = abs(image[0].numpy().astype(float)-255*share)
            assert off.max()<=17 and off.sum()/(255/16)<=4.5, f'{name} {row}: {off.sum()/(255/16):.1f} subpixels differ' # ties of rounding

def test_drawn_as_the_reference(): same_as_reference(draw_sprites)

@pytest.mark.parametrize('size', [32, 65])
def test_other_sizes(size): same_as_reference(draw_sprites, 4, 1, size)

# Areas and places

# At scale 1, in units of 16 pixels
PERIMETER = {'square': 4*math.sqrt(1.2), 'ellipse': 9.69*math.sqrt(1.2/2/math.pi), 'L': 18*math.sqrt(1.2/14)}

def areas(draw, per_scale=39):
    "Brightness of each image in pixels, at all orientations and many places"
    for shapes,names in SHAPES.items():
        for k,name in enumerate(names):
            rows = torch.tensor([[3, k, s, i%39, 7*i%32, 11*i%32] for s in range(6) for i in range(per_scale)])
            x = draw(rows, shapes)[:, 0].double()/255
            yield name,rows,x

def have_the_area(draw):
    for name,rows,x in areas(draw):
        for s,scale in enumerate(SCALE):
            radius,seen = 16*scale,x[rows[:, 2]==s].sum((1, 2))
            exact = 1.2*radius**2
            assert abs(seen.mean()/exact-1)<.01, f'{name} at scale {scale}: {seen.mean():.2f} for {exact:.2f}'
            if name in PERIMETER: # only subpixels that the outline crosses can be wrong
                assert (abs(seen-exact)<PERIMETER[name]*radius*2*math.sqrt(.5)/4).all()

def test_areas_are_the_analytic_ones():
    have_the_area(draw_sprites)
    for scale in SCALE: # what each shape says of itself
        r = 16*scale
        side,short,unit = r*math.sqrt(1.2),r*math.sqrt(1.2/2/math.pi),r*math.sqrt(1.2/14)
        for area in (side**2, math.pi*short*2*short, 2*unit*5*unit+2*unit*2*unit): assert math.isclose(area, 1.2*r**2)

def lie_in_their_place(draw):
    "Centres of mass: pixels from the left and from above"
    for name,rows,x in areas(draw):
        mass,middle = x.sum((1, 2)),torch.arange(64)+.5
        for along,place in ((1, rows[:, 4]), (2, rows[:, 5])):
            centre = (x.sum(along)*middle).sum(1)/mass
            off = (centre-torch.tensor(PLACES)[place]).abs()
            assert off.max()<.2 and off.mean()<.03, f'{name}: {off.max()} pixels'

def test_the_centre_of_mass_is_the_place(): lie_in_their_place(draw_sprites)

def test_no_orientation_and_no_corner_is_cut_off():
    "As much is seen in the corners of the range as in the middle"
    for shapes in SHAPES:
        rows = [[3, k, 5, o, x, y] for k in range(3) for o in range(39) for x,y in ((15, 15), (0, 0), (31, 31), (0, 31), (31, 0))]
        seen = draw_sprites(rows, shapes)[:, 0].double().sum((1, 2)).view(-1, 5)/255
        assert (seen/seen[:, :1]-1).abs().max()<.05

def similarity(a, b): return (torch.minimum(a, b).sum()/torch.maximum(a, b).sum()).item()

def test_no_fair_shape_looks_the_same_before_a_full_turn():
    for shapes,same_again in (('fair', {}), ('published', {0: [10, 29], 1: [19, 20]})):
        for k in range(3):
            x = draw_sprites([[3, k, 5, o, 16, 16] for o in range(39)], shapes)[:, 0].double()
            like = [similarity(x[0], other) for other in x[1:]]
            for o in range(3, 37): # not the next two on either side
                near = any(abs(o-s)<=2 for s in same_again.get(k, [])) or k==0 and shapes=='published' and abs(o-19.5)<=2.5
                assert near or like[o-1]<.93, f'{SHAPES[shapes][k]} turned by {o} of 39: {like[o-1]}'
            for o in same_again.get(k, []): assert like[o-1]>.88
            assert len({image.numpy().tobytes() for image in x})==39 # yet no two images are the same

# Colours

def test_colours_are_channels():
    x = draw_sprites([[c, 1, 4, 6, 20, 9] for c in range(4)])
    on = x.amax((2, 3))>0
    assert on.tolist()==[[True, False, False], [False, True, False], [False, False, True], [True]*3]
    for c in range(3): assert torch.equal(x[c, c], x[3, c])
    white = (x[3, :1]>127).to(torch.uint8)
    for c in range(4): assert torch.equal(coloured(white, torch.tensor([c]))[0]>0, (x[c]>127))
    assert coloured(white.bool().numpy(), np.array([3])).max()==255
    assert coloured(torch.zeros(0, 5, 4).byte(), torch.zeros(0).long()).shape==(0, 3, 5, 4)

@given(st.lists(st.tuples(*(st.integers(0, n-1) for n in N_VALUES.values())), max_size=6))
@settings(max_examples=20, deadline=None)
def test_an_image_depends_on_its_own_row_only(rows):
    latents = torch.tensor(rows).reshape(-1, 6).long()
    together = draw_sprites(latents)
    assert together.shape==(len(rows), 3, 64, 64) and together.dtype==torch.uint8
    for row,image in zip(rows, together): assert torch.equal(draw_sprites([row])[0], image)
    assert torch.equal(draw_sprites(latents.to(torch.uint8).numpy()), together)

# The official file

X = (draw_sprites([[3, 0, 5, 0, 4, 4], [3, 1, 4, 5, 9, 9], [3, 0, 5, 0, 4, 4], [3, 2, 0, 38, 31, 0]], 'published')[:, 0]>127).byte().numpy()
ROWS = np.array([[0, 0, 5, 0, 4, 4], [0, 1, 4, 5, 9, 9], [0, 0, 5, 39, 4, 4], [0, 2, 0, 38, 31, 0]])

class Ran(Exception): pass
class Hostile:
    "Raises when it is unpickled"
    def __reduce__(self): return _run,()
def _run(): raise Ran

def save(path, compressed=True, **members):
    members = dict(imgs=X, latents_classes=ROWS, metadata=np.array([Hostile()], object)) | members
    (np.savez_compressed if compressed else np.savez)(path, **members)
    return path

def raw(path, **members):
    "An .npz of members as given, in bytes"
    with zipfile.ZipFile(path, 'w') as file:
        for name,data in (dict(imgs=npy(X), latents_classes=npy(ROWS)) | members).items(): file.writestr(f'{name}.npy', data)
    return path

def npy(a, version=(1, 0)):
    b = io.BytesIO()
    np.lib.format.write_array(b, a, version=version)
    return b.getvalue()

@pytest.mark.parametrize('compressed', [True, False])
def test_the_file_is_read_without_unpickling(tmp_path, compressed):
    path = save(tmp_path/'a.npz', compressed)
    with pytest.raises(Ran): np.load(path, allow_pickle=True)['metadata'] # it would have run
    x,latents = read_sprites(path)
    kept = [0, 1, 3] # the last orientation is the first again
    assert torch.equal(x, torch.from_numpy(X[kept])) and latents.tolist()==ROWS[kept].tolist()
    assert x.dtype==torch.uint8 and latents.dtype==torch.int64
    assert coloured(x, latents[:, 0]).shape==(3, 3, 64, 64)

def test_other_kinds_of_integers(tmp_path):
    for rows in (ROWS.astype(np.uint8), ROWS.astype('>i4')):
        x,latents = read_sprites(save(tmp_path/'a.npz', imgs=X.astype(np.int16), latents_classes=rows))
        assert latents.tolist()==ROWS[[0, 1, 3]].tolist() and x.dtype==torch.uint8 and torch.equal(x, torch.from_numpy(X[[0, 1, 3]]))
    assert len(read_sprites(raw(tmp_path/'b.npz', imgs=npy(X, (2, 0))))[0])==3

def reads_block_by_block(m, path):
    "More rows than a block holds; each image bears its number"
    n = 4200
    x,latents = np.zeros((n, 64, 64), np.uint8),np.zeros((n, 6), np.int64)
    x[:, 0, :14] = np.arange(n)[:, None]>>np.arange(14)&1
    latents[:, 3] = np.random.default_rng(0).integers(0, 40, n)
    latents[4094:4098, 3] = [39, 0, 39, 1] # across the end of a block
    save(path, False, imgs=x, latents_classes=latents)
    for keep,kept in ((None, latents[:, 3]<39), (lambda l: (l[:, 3]%2==0).numpy(), latents[:, 3]%2==0)):
        images,own = m.read_sprites(path, keep)
        number = (images[:, 0, :14].long()*2**torch.arange(14)).sum(1)
        assert number.tolist()==np.flatnonzero(kept).tolist() and torch.equal(own, torch.from_numpy(latents[kept]))

def test_blocks(tmp_path): reads_block_by_block(page, tmp_path/'a.npz')

def header_of(shape, dtype='|u1', fortran=False):
    text = str(dict(descr=dtype, fortran_order=fortran, shape=shape))
    text += ' '*(-(len(text)+11)%64)+'\n'
    return b'\x93NUMPY\x01\x00'+struct.pack('<H', len(text))+text.encode()

BAD_FILES = {
    'pickled images': (lambda p: save(p, imgs=np.array([Hostile()]*4, object)),
        'imgs: expected integers (N, 64, 64), got object of shape (4,)'),
    'pickled latents': (lambda p: save(p, latents_classes=np.array([[Hostile()]*6]*4, object)),
        'latents_classes: expected integers (N, 6), got object of shape (4, 6)'),
    'a bare pickle': (lambda p: raw(p, imgs=pickle.dumps(Hostile())),
        'imgs: expected an array as NumPy saves it (the magic string is not correct'),
    'no images': (lambda p: np.savez(p, latents_classes=ROWS, metadata=np.array([Hostile()])),
        "no member 'imgs', only latents_classes.npy, metadata.npy"),
    'no latents': (lambda p: np.savez(p, imgs=X), "no member 'latents_classes', only imgs.npy"),
    'nothing': (lambda p: zipfile.ZipFile(p, 'w').close(), "no member 'latents_classes', only nothing"),
    'other size': (lambda p: save(p, imgs=X[:, :32, :32]), 'imgs: expected integers (N, 64, 64), got uint8 of shape (4, 32, 32)'),
    'colour images': (lambda p: save(p, imgs=np.stack([X]*3, 3)), 'got uint8 of shape (4, 64, 64, 3)'),
    'five latents': (lambda p: save(p, latents_classes=ROWS[:, 1:]),
        'latents_classes: expected integers (N, 6), got int64 of shape (4, 5)'),
    'values for classes': (lambda p: save(p, latents_classes=ROWS.astype(float)), 'latents_classes: expected integers (N, 6), got float64'),
    'float images': (lambda p: save(p, imgs=X.astype(np.float32)), 'imgs: expected integers (N, 64, 64), got float32'),
    'other number': (lambda p: save(p, imgs=X[:3]), 'imgs: expected 4 images, one for each row of latents_classes, got 3'),
    'grey images': (lambda p: save(p, imgs=X*np.array([1, 1, 7, 1], np.uint8)[:, None, None]),
        'imgs: image 2: expected pixels of 0 and 1, got 7'),
    'orientation 40': (lambda p: save(p, latents_classes=ROWS+[0, 0, 0, 1, 0, 0]),
        'latents: row 2: expected orientation from 0 to 39, got 40'),
    'negative': (lambda p: save(p, latents_classes=ROWS-[0, 0, 0, 1, 0, 0]), 'latents: row 0: expected orientation from 0 to 39, got -1'),
    'Fortran': (lambda p: save(p, latents_classes=np.asfortranarray(ROWS)), 'got int64 of shape (4, 6) in Fortran order'),
    'Fortran images': (lambda p: save(p, imgs=np.asfortranarray(X)),
        'imgs: expected integers (N, 64, 64), got uint8 of shape (4, 64, 64) in Fortran order'),
    'fewer than named': (lambda p: raw(p, imgs=header_of((4, 64, 64))+X[:3].tobytes()), 'imgs: expected 4 rows, as its header says, got 3'),
    'more than named': (lambda p: raw(p, imgs=header_of((4, 64, 64))+X.tobytes()+b'0'),
        'imgs: expected 4 rows, as its header says, got more'),
    'a giant': (lambda p: raw(p, latents_classes=header_of((10**15, 6), '<i8')+ROWS.tobytes()),
        'expected 1000000000000000 rows, as its header says, got 4'),
    'below 0 rows': (lambda p: raw(p, latents_classes=header_of((-4, 6), '<i8')+ROWS.tobytes()), 'latents_classes: expected -4 rows'),
    'code in a header': (lambda p: raw(p, imgs=header_of((4, 64, 64)).replace(b'(4, 64, 64)', b'(exit(), 4)')),
        'imgs: expected an array as NumPy saves it ('),
    'no zip': (lambda p: p.write_bytes(npy(X)), 'not a whole .npz file'),
    'torn': (lambda p: p.write_bytes(save(p).read_bytes()[:-30]), 'not a whole .npz file'),
    'torn in the middle': (lambda p: p.write_bytes(save(p).read_bytes()[:300]), 'not a whole .npz file'),
    'empty': (lambda p: p.write_bytes(b''), 'not a whole .npz file'),
}

@pytest.mark.parametrize('name', BAD_FILES)
def test_bad_files_are_refused(name, tmp_path):
    make,message = BAD_FILES[name]
    make(tmp_path/'bad.npz')
    with pytest.raises(ValueError, match=re.escape(message)) as error: read_sprites(tmp_path/'bad.npz')
    assert str(tmp_path/'bad.npz') in str(error.value)

def test_each_damaged_byte_is_seen_or_harmless(tmp_path):
    "A changed byte of what is read gives an error, never other images"
    whole = raw(tmp_path/'a.npz', latents_classes=npy(ROWS)).read_bytes()
    good = read_sprites(tmp_path/'a.npz')
    seen = 0
    for i in range(0, len(whole), 397):
        (tmp_path/'b.npz').write_bytes(whole[:i]+bytes([whole[i]^0x55])+whole[i+1:])
        try: x,latents = read_sprites(tmp_path/'b.npz')
        except ValueError: seen += 1
        else: assert torch.equal(x, good[0]) and torch.equal(latents, good[1])
    assert seen>len(whole)//397*.9

def test_a_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError): read_sprites(tmp_path/'none.npz')

def test_keep_has_to_answer_for_each_image(tmp_path):
    path = save(tmp_path/'a.npz')
    for keep,got in ((lambda l: np.ones(3, bool), 'bool of shape (3,)'), (lambda l: l[:, 1].numpy(), 'int64 of shape (4,)')):
        with pytest.raises(ValueError, match=re.escape(f'keep: expected 4 booleans, one per image, got {got}')): read_sprites(path, keep)
    assert read_sprites(path, lambda l: l[:, 1]>3)[0].shape==(0, 64, 64)
    assert read_sprites(path, lambda l: l[:, 1]==1)[1].tolist()==ROWS[1:2].tolist() # a tensor will do

# Bad input

BAD = {
    'shapes': (lambda: draw_sprites([[0]*6], 'round'), "shapes: expected one of published, fair, got 'round'"),
    'size of half a pixel': (lambda: draw_sprites([[0]*6], size=31.5), 'size: expected a whole number from 8, got 31.5'),
    'too small': (lambda: draw_sprites([[0]*6], size=7), 'size: expected a whole number from 8, got 7'),
    'one image': (lambda: draw_sprites([0]*6), 'latents: expected integers (N, 6), got torch.int64 of shape (6,)'),
    'fractions': (lambda: draw_sprites([[0.]*6]), 'latents: expected integers (N, 6), got torch.float32 of shape (1, 6)'),
    'booleans': (lambda: check_latents(torch.ones(2, 6).bool()), 'got torch.bool of shape (2, 6)'),
    'fortieth orientation': (lambda: draw_sprites([[0]*6, [0, 0, 0, 39, 0, 0]]),
        'latents: row 1: expected orientation from 0 to 38, got 39'),
    'left of the image': (lambda: draw_sprites([[0, 0, 0, 0, -1, 0]]), 'latents: row 0: expected x from 0 to 31, got -1'),
    'fifth colour': (lambda: draw_sprites([[4, 0, 0, 0, 0, 0]]), 'latents: row 0: expected colour from 0 to 3, got 4'),
    'grey': (lambda: coloured(torch.full((1, 2, 2), 9).byte(), torch.tensor([0])), 'x: expected bytes of 0 and 1 (N, height, width)'),
    'floats': (lambda: coloured(torch.ones(1, 2, 2), torch.tensor([0])), 'got torch.float32 of shape (1, 2, 2) up to 1'),
    'channels': (lambda: coloured(torch.ones(1, 3, 2, 2).byte(), torch.tensor([0])), 'got torch.uint8 of shape (1, 3, 2, 2)'),
    'a colour for two': (lambda: coloured(torch.ones(2, 2, 2).byte(), torch.tensor([0])), 'colour: expected 2 integers, one per image'),
    'no colour': (lambda: coloured(torch.ones(2, 2, 2).byte(), torch.tensor([0, -1])), 'colour: expected from 0 to 3, got -1 for image 1'),
    'half a colour': (lambda: coloured(torch.ones(1, 2, 2).byte(), torch.tensor([.5])),
        'colour: expected 1 integers, one per image, got torch.float32'),
}

@pytest.mark.parametrize('name', BAD)
def test_bad_input_is_refused(name):
    call,message = BAD[name]
    with pytest.raises(ValueError, match=re.escape(message)): call()

# Known mistakes

def drawing(m, _): same_as_reference(m.draw_sprites, 5)
def places(m, _): lie_in_their_place(m.draw_sprites)
def area(m, _): have_the_area(m.draw_sprites)
def blocks(m, folder): reads_block_by_block(m, folder/'blocks.npz')

def damage(m, folder):
    for name in ('more than named', 'Fortran images', 'grey images', 'pickled images'):
        make,_ = BAD_FILES[name]
        make(folder/'bad.npz')
        with pytest.raises(ValueError): m.read_sprites(folder/'bad.npz')

MUTANTS = { # name: (before, after, the check that tells it)
    'orientations that meet at 360 degrees': ("2*math.pi/N_VALUES['orientation']", "2*math.pi/(N_VALUES['orientation']-1)", drawing),
    'clockwise': ('cos*u+sin*v, cos*v-sin*u', 'cos*u-sin*v, cos*v+sin*u', drawing),
    'upwards': ('v = (y[some]-top)[:, None, None]/radius[s]-within', 'v = (top-y[some])[:, None, None]/radius[s]+within', drawing),
    'corners of subpixels': ('(np.arange(SUBPIXELS*wide)+.5)/SUBPIXELS', 'np.arange(SUBPIXELS*wide)/SUBPIXELS', places),
    'x for y': ('size*(1/4+place/31/2) for place in (x, y)', 'size*(1/4+place/31/2) for place in (y, x)', places),
    '32 steps': ('place/31/2', 'place/32/2', places),
    'a narrow window': ('math.ceil(2*radius[s])+1', 'math.ceil(2*radius[s])-2', drawing),
    'a window off its place': ('np.floor(place[some]-radius[s])', 'np.floor(place[some]-radius[s]+4)', drawing),
    'scales from 0.4': ('np.linspace(.5, 1,', 'np.linspace(.4, 1,', area),
    'a drop about its disc': ('v = v+r**3*root/2/AREA', 'v = v+0', places),
    'a heart about its square': ('v+math.pi*side**2/4*(c+side/3/math.pi*math.sqrt(2))/AREA', 'v', places),
    'an L about its corner box': ('u/unit+11/7,v/unit+29/14', 'u/unit+2,v/unit+2.5', places),
    'a round ellipse': ('np.hypot(u*math.sqrt(2), v/math.sqrt(2))', 'np.hypot(u, v)', drawing),
    'a large square': ('math.sqrt(AREA)/2', 'math.sqrt(AREA/2)', area),
    'every orientation kept': ('(latents[:, 3]<39)', '(latents[:, 3]<40)', blocks),
    'blocks that overlap': ('ends[first]-own[0]', 'ends[first]-1', blocks),
    'a block short': ('range(0, n, step)', 'range(0, n-step, step)', blocks),
    'what follows is not looked at': ('if member.read(1):', 'if False:', damage),
    'any order': (" or fortran:", ":", damage),
    'any grey': ('((block<0) | (block>1))', '(block<0)', damage),
}

@pytest.mark.parametrize('name', MUTANTS)
def test_mutants_are_caught(name, tmp_path):
    old,new,check = MUTANTS[name]
    wrong = mutant(page, old, new)
    with pytest.raises((AssertionError, ValueError, IndexError, pytest.fail.Exception)): check(wrong, tmp_path)

def test_the_original_passes_this_check(tmp_path): damage(page, tmp_path) # the others are tests above

def test_an_error_of_the_users_own_function_stays_what_it_is(tmp_path):
    path = tmp_path/'own.npz'
    np.savez_compressed(path, imgs=np.zeros((2, 64, 64), np.uint8), latents_classes=np.zeros((2, 6), np.int64))
    def keep(latents): raise RuntimeError('mine')
    with pytest.raises(RuntimeError, match='^mine$'): read_sprites(path, keep)
