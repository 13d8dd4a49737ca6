"The explorer in a real browser, where there is one; and what it is made of."
import base64, io, json, re, shutil, subprocess
import numpy as np, pytest
from PIL import Image
from avh_nb.data.sets import available
from avh_nb.report.explorer import explorer_page, framed, sprite
from avh_nb.paper import gap

BROWSER = next((b for b in ('chromium', 'chromium-browser', 'google-chrome') if shutil.which(b)), None)
rng = np.random.default_rng(0)
N,CLASSES = 60,('cat', 'dog', 'frog')

def page():
    return explorer_page(rng.integers(0, 256, (N, 3, 8, 8), dtype=np.uint8), dict(a=('score a', np.arange(N)), b=('score b', np.arange(N)%7)), np.arange(N)%3, CLASSES,
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
    import html
    whole = page()
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', framed(whole))[1])==whole

# What a reader does: hover over the point of image 30, choose another axis, draw a rectangle round everything, press a key
DRIVE = """<script>
const seen = [], send = (kind, x, y) => { const r = canvas.getBoundingClientRect(); canvas.dispatchEvent(new PointerEvent(kind, {clientX: r.left+x, clientY: r.top+y, pointerId: 1})); };
window.onerror = m => seen.push('error: '+m);
const rows = () => [...document.querySelectorAll('#votes tr')].map(r => r.innerText.replace(/\\s+/g, ' '));
send('pointermove', px[30]+1, py[30]-1);
seen.push(document.querySelector('#card h2').innerText, rows(), getComputedStyle($('thumb')).backgroundImage.slice(0, 27));
$('x').value = 'b'; $('x').onchange(); seen.push(Math.abs(px[0]-px[7]) < 1e-9 && px[0] < px[1]);
send('pointerdown', 0, 0); send('pointermove', width, height); send('pointerup', width, height);
seen.push($('chosen').innerText.slice(0, 9), document.querySelectorAll('#grid button').length);
document.querySelectorAll('#grid button')[12].onmouseenter(); seen.push(document.querySelector('#card h2').innerText);
canvas.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'})); seen.push(document.querySelector('#card h2').innerText != 'cat (image 112)');
const out = document.createElement('pre'); out.id = 'seen'; out.textContent = JSON.stringify(seen); document.body.append(out);
</script></body>"""

@pytest.mark.skipif(not BROWSER, reason='no Chromium')
@pytest.mark.parametrize('width', [1200, 390])
def test_hovering_brushing_and_keys(tmp_path, width):
    (tmp_path/'page.html').write_text(page().replace('</body>', DRIVE), encoding='utf-8')
    done = subprocess.run([BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync',
        f'--user-data-dir={tmp_path}/profile', f'--window-size={width},900', '--dump-dom', f'file://{tmp_path}/page.html'], capture_output=True, text=True, timeout=120)
    seen = json.loads(re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)[1].replace('&gt;', '>').replace('&quot;', '"'))
    assert seen==['cat (image 130)', ['cat 30', 'dog 2'], 'url("data:image/webp;base64', True, '60 images', 60, 'cat (image 112)', True]

def test_without_data_the_page_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv('AVH_DATA', str(tmp_path))
    for said in (gap.summary(), gap.explorer()): assert 'avh_data cifar10 cifar10h' in said and str(tmp_path) in said

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
