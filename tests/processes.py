"What tests of killed processes share."
import time

def wait_for(path, process, seconds=120):
    "Until a file is there, which a running process writes"
    end = time.monotonic()+seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic()<end, f'{path} did not come'
        time.sleep(.02)
