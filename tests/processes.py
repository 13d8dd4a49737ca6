"What tests of killed processes share."
import time

def wait_for(path, process, seconds=120, filled=False):
    "Until a file is there, which a running process writes, and holds something if it is to be `filled`"
    end = time.monotonic()+seconds
    while not (path.exists() and (path.stat().st_size or not filled)):
        assert process.poll() is None and time.monotonic()<end, f'{path} did not come'
        time.sleep(.02)
