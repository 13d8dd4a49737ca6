"A trace is written whole or not at all."
import pandas as pd, pytest
from avh_nb.watch.tracker import Tracker, read_trace, write_parquet

def test_an_epoch_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    frame = pd.DataFrame(dict(avh=[.1, .2], pred=[0, 1]))
    write_parquet(frame, tmp_path/'new'/'epoch-001.parquet')
    def fails(self, path, **kwargs):
        path.write_bytes(b'half of it')
        raise OSError('disk full')
    monkeypatch.setattr(pd.DataFrame, 'to_parquet', fails)
    for epoch in (1, 2):
        with pytest.raises(OSError, match='disk full'): write_parquet(frame*2, tmp_path/'new'/f'epoch-{epoch:03d}.parquet')
    assert [p.name for p in (tmp_path/'new').iterdir()]==['epoch-001.parquet']
    assert read_trace(tmp_path/'new')[['avh', 'pred']].equals(frame)

def test_writers_of_one_file_do_not_meet(tmp_path):
    "Each process writes to a file of its own, and no other file of the folder is touched"
    (tmp_path/'epoch-001.part').write_text('of another')
    write_parquet(pd.DataFrame(dict(avh=[.1])), tmp_path/'epoch-001.parquet')
    assert (tmp_path/'epoch-001.part').read_text()=='of another' and Tracker(folder=tmp_path).epochs()==[1]
