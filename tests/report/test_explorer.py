"The explorer in a real browser, where there is one; and what it is made of."
import base64, html, io, json, re, shutil, subprocess
import numpy as np, pytest
from html.parser import HTMLParser
from PIL import Image
from avh_nb.data.sets import available
from avh_nb.report.explorer import columns_for, explorer_page, framed, sprite
from avh_nb.paper import gap
from avh_nb.stats.correlation import spearman

BROWSER = next((b for b in ('chromium', 'chromium-browser', 'google-chrome') if shutil.which(b)), None)
rng = np.random.default_rng(0)
N,CLASSES = 60,('cat', 'dog', 'frog')

def page():
    return explorer_page(rng.integers(0, 256, (N, 3, 8, 8), dtype=np.uint8),
        dict(a=('score a', np.arange(N)), b=('score b', np.arange(N)%7)), np.arange(N)%3, CLASSES,
        right=np.arange(N)%5>0, votes=np.stack([np.arange(N), np.full(N, 2), np.zeros(N)], 1), index=100+np.arange(N), note='sixty images')

def test_the_sprite_holds_each_image_at_its_place():
    x = np.repeat(np.arange(7, dtype=np.uint8)*30, 3*16*16).reshape(7, 3, 16, 16)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprite(x, 3).split(',')[1]))).convert('RGB')).astype(int)
    assert picture.shape==(48, 48, 3)
    for i in range(7): assert abs(picture[16*(i//3)+8, 16*(i%3)+8]-30*i).max()<4

def test_the_page_asks_for_nothing():
    text = re.sub(r'data:image/webp;base64,[\w+/=]+', '', page())
    assert 'default-src' in text and not re.search(r'https?://|src=|href=|@import|fetch\(|XMLHttp|import\(', text)

def test_the_frame_gives_the_page_back():
    whole = page()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', framed(whole))[1])==whole

# What a reader does: hover over the point of image 30, choose another axis, draw a rectangle round everything, press a key
DRIVE = """<script>
const seen = [], send = (kind, x, y) => {
  const r = canvas.getBoundingClientRect();
  canvas.dispatchEvent(new PointerEvent(kind, {clientX: r.left+x, clientY: r.top+y, pointerId: 1})); };
window.onerror = m => seen.push('error: '+m);
const rows = () => [...document.querySelectorAll('#votes tr')].map(r => r.innerText.replace(/\\s+/g, ' '));
send('pointermove', px[30]+1, py[30]-1);
seen.push(document.querySelector('#card h2').innerText, rows(), getComputedStyle($('thumb')).backgroundImage.slice(0, 27));
$('x').value = 'b'; $('x').onchange(); 
// a seventh of the points share each value: they are spread a little
seen.push(px[0] != px[7] && Math.abs(px[0]-px[7]) <= 10 && px[0] < px[1]);
send('pointerdown', 0, 0); send('pointermove', width, height); send('pointerup', width, height);
seen.push($('chosen').innerText.slice(0, 9), document.querySelectorAll('#grid button').length);
document.querySelectorAll('#grid button')[12].onmouseenter(); seen.push(document.querySelector('#card h2').innerText);
canvas.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));
seen.push(document.querySelector('#card h2').innerText != 'cat (image 112)');
const all = $('rho').textContent; $('only').value = 2; $('only').onchange();
const extra = [all, $('rho').textContent, px.filter(v => !isNaN(v)).length, location.hash];
send('pointerdown', 0, 0); send('pointermove', width, height); send('pointerup', width, height);
extra.push(document.querySelector('textarea').value.split(', ').length, $('chosen').innerText.includes('a click on the plot clears it'));
for (const [id, what] of [['seen', seen], ['extra', extra]]) {
  const out = document.createElement('pre'); out.id = id; out.textContent = JSON.stringify(what); document.body.append(out); }
</script></body>"""

def in_browser(tmp_path, page, width=1200):
    "The page as it stands after its program, and that of `page`, have run"
    (tmp_path/'page.html').write_text(page, encoding='utf-8')
    done = subprocess.run([BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync',
        f'--user-data-dir={tmp_path}/profile', f'--window-size={width},900', '--virtual-time-budget=10000', '--dump-dom',
        f'file://{tmp_path}/page.html'], capture_output=True, text=True, timeout=120)
    return done.stdout

def seen(dom): return json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', dom)[1]))

@pytest.mark.skipif(not BROWSER, reason='no Chromium')
@pytest.mark.parametrize('width', [1200, 390])
def test_hovering_brushing_and_keys(tmp_path, width):
    dom = in_browser(tmp_path, page().replace('</body>', DRIVE), width)
    assert seen(dom)==['cat (image 130)', ['cat 30', 'dog 2'], 'url("data:image/webp;base64', True, '60 images', 60, 'cat (image 112)',
        True]
    b = np.arange(N)%7 # on both axes by then
    every,frogs,left,link,listed,hint = json.loads(html.unescape(re.search(r'<pre id="extra">(.*?)</pre>', dom)[1]))
    assert every==f'rank correlation {spearman(b, b):.2f} (60 images)' and left==listed==20 and frogs.endswith('(20 images)')
    assert re.fullmatch(r'#image=1\d\d', link) and hint

# The size of the sprite as the browser reads it, the side of an image in it, and what the page shows of image 0
LOADED = """<script>
const picture_ = new Image(); picture_.src = sprite;
picture_.onload = () => { const out = document.createElement('pre'); out.id = 'seen';
  out.textContent = JSON.stringify([picture_.width, picture_.height, data.size, document.querySelector('#card h2').innerText,
    $('note').innerText, $('thumb').style.backgroundSize]); document.body.append(out); };
</script></body>"""

def of(n, side, kind=np.uint8, classes=CLASSES, **kwargs):
    x = np.zeros((n, 3, side, side), kind)
    x[n//2:] = 255 if kind==np.uint8 else 1
    return explorer_page(x, dict(a=('score a', np.arange(n)), b=('score b', np.arange(n)%7)), np.arange(n)%3, classes, **kwargs)

@pytest.mark.skipif(not BROWSER, reason='no Chromium')
@pytest.mark.parametrize('n,side,kind,size', [(50, 512, np.float32, [6400, 128, 128]), (2000, 32, np.uint8, [1600, 1280, 32]),
    (1, 1, np.uint8, [1, 1, 1])])
def test_any_number_and_size_of_images(tmp_path, n, side, kind, size):
    *found,title,note,scaled = seen(in_browser(tmp_path, of(n, side, kind).replace('</body>', LOADED)))
    # A browser may spell the height out that the page leaves to it
    assert found==size and title=='cat (image 0)' and scaled.removesuffix(' auto')==f'{112*min(n, 50)}px'

def test_images_of_the_sprite_keep_their_place_when_they_are_made_smaller():
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(re.search(r'base64,([\w+/=]+)',
        of(3, 512, np.float32))[1]))).convert('RGB'))
    assert picture.shape==(128, 384, 3) and [picture[64, 64+128*i, 0]>128 for i in range(3)]==[False, True, True]

@pytest.mark.parametrize('many', [20_000, 200_000])
def test_more_rows_than_a_picture_holds_are_spread(many):
    "A picture of WebP has 16,383 pixels a side"
    columns = columns_for(many, 16)
    assert columns*16<=16383 and -(-many//columns)*16<=16383

@pytest.mark.parametrize('x,said', [(np.full((2, 3, 4, 4), 2.), 'floats from 0 to 1, got 2 to 2'),
    (np.full((2, 3, 4, 4), np.nan), 'floats from 0 to 1'), (np.zeros((2, 3, 4, 4), np.int64), 'got int64'),
    (np.zeros((2, 4, 4, 4), np.uint8), 'one or three channels'), (np.zeros((2, 3, 0, 0), np.uint8), 'one or three channels'),
    (np.zeros((2, 3, 4, 5), np.uint8), 'square')])
def test_images_that_cannot_be_shown_are_refused(x, said):
    with pytest.raises(ValueError, match=said): explorer_page(x, dict(a=('a', [0, 1]), b=('b', [0, 1])), [0, 1], CLASSES)

@pytest.mark.skipif(not BROWSER, reason='no Chromium')
def test_no_images_are_a_page_that_says_so(tmp_path):
    body = in_browser(tmp_path, of(0, 32, note='None of <them>.')).split('<body>')[1]
    assert re.sub(r'<.*?>', '', body).split()=='None of &lt;them&gt;. There are no images to show.'.split()

HOSTILE = ('<!--<script>', '</SCRIPT><b>', "/*SPRITE*/ /*DATA*/null \u2028 ${1} ' \" \\\\ &lt;")

class Scripts(HTMLParser):
    "The text of each script, as a parser of HTML sees it"
    def __init__(self): super().__init__(); self.found,self.open,self.tags = [],False,[]
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag=='script': self.open = True; self.found.append('')
    def handle_endtag(self, tag): self.open = self.open and tag!='script'
    def handle_data(self, data):
        if self.open: self.found[-1] += data

def test_no_name_or_note_begins_or_ends_a_script():
    parser = Scripts(); parser.feed(of(3, 8, classes=HOSTILE, note=''.join(HOSTILE)))
    script, = parser.found
    data = re.search(r'const data = (.*), sprite = "data:image', script)[1]
    assert '<' not in data and script.rstrip().endswith('`;') and 'b' not in parser.tags
    assert json.loads(data)['classes']==list(HOSTILE) and json.loads(data)['note']==''.join(HOSTILE)

@pytest.mark.skipif(not BROWSER, reason='no Chromium')
def test_any_text_is_shown_as_it_is(tmp_path):
    for i,name in enumerate(HOSTILE):
        *_,title,note,_ = seen(in_browser(tmp_path, of(3, 8, classes=HOSTILE, note=name, first=i).replace('</body>', LOADED)))
        assert ' '.join(title.split())==' '.join(f'{name} (image {i})'.split()) and ' '.join(note.split())==' '.join(name.split())

def test_without_data_the_page_is_not_empty(tmp_path, monkeypatch):
    monkeypatch.setenv('AVH_DATA', str(tmp_path))
    assert gap.summary().startswith('**People and networks disagree') and 'Handwritten digits' in gap.explorer()
    assert 'avh data cifar10 cifar10h' in gap.missing() and str(tmp_path) not in gap.missing()+gap.summary()+gap.explorer()

def depth(table, people, networks):
    "How far an image lies in a corner: the lesser of its two claims"
    return np.minimum(table.people if people>0 else 1-table.people, table.network_avh if networks>0 else 1-table.network_avh)

@pytest.mark.skipif(not available('cifar10', 'cifar10h'), reason='CIFAR-10 and CIFAR-10H are not below the data root')
def test_the_gap():
    t = gap.gap_table()
    assert len(t)==10000 and t.people.between(0, 1).all() and abs(t.people.mean()-.5)<1e-9
    for name,(people,networks) in gap.CORNERS.items():
        c = gap.corner(t, name, 'avh', 50)
        assert ((c.people>.5)==(people>0)).all() and ((c.network_avh>.5)==(networks>0)).all()
        assert depth(c, people, networks).min()>=depth(t.drop(c.index), people, networks).max() # nobody outside is deeper in the corner
    assert len(gap.explorer())<3_000_000
