"A browser without a window, spoken to over DevTools: one process for many pages."
import json, shutil, subprocess, time, urllib.request
from pathlib import Path

CHROMIUM = next((b for b in ('chromium', 'chromium-browser', 'google-chrome') if shutil.which(b)), None)
FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', '--disable-component-update',
    '--disable-sync', '--disable-extensions', '--hide-scrollbars', '--remote-allow-origins=*', '--remote-debugging-port=0')

class Browser:
    "Opens pages, at any width, in either mode, and evaluates JavaScript in them"
    def __init__(self, profile):
        import websocket
        self.process = subprocess.Popen([CHROMIUM, *FLAGS, f'--user-data-dir={profile}', 'about:blank'], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        told,end = Path(profile)/'DevToolsActivePort',time.monotonic()+60
        while not (told.exists() and told.read_text().count('\n')):
            assert self.process.poll() is None and time.monotonic()<end, 'the browser did not start'
            time.sleep(.05)
        port = told.read_text().split()[0]
        with urllib.request.urlopen(f'http://127.0.0.1:{port}/json/list') as f: pages = json.load(f)
        self.socket = websocket.create_connection(next(p for p in pages if p['type']=='page')['webSocketDebuggerUrl'], timeout=120,
            suppress_origin=True)
        self.n = 0
        self.say('Page.enable')
    def __enter__(self): return self
    def __exit__(self, *args):
        self.socket.close(); self.process.terminate(); self.process.wait()
    def say(self, method, until=None, **params):
        "The answer to a command; with `until`, when that event has come as well"
        self.n += 1
        self.socket.send(json.dumps(dict(id=self.n, method=method, params=params)))
        answer = None
        while answer is None or until:
            got = json.loads(self.socket.recv())
            if got.get('id')==self.n: answer = got
            if until and got.get('method')==until: until = None
        assert 'error' not in answer, answer
        return answer['result']
    def open(self, path): self.say('Page.navigate', until='Page.loadEventFired', url=Path(path).resolve().as_uri())
    def size(self, width, height=900):
        self.say('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=1, mobile=False)
    def mode(self, scheme): self.say('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value=scheme)])
    def run(self, script):
        got = self.say('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True)
        assert 'exceptionDetails' not in got, got['exceptionDetails']
        return got['result'].get('value')
    def key(self, key):
        for kind in ('keyDown', 'keyUp'):
            self.say('Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=dict(Tab=9, Enter=13)[key],
                **(dict(text='\r') if key=='Enter' and kind=='keyDown' else {}))
