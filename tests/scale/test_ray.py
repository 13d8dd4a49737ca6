"Ray makes the same parts as a loop, and is not let into what would hang it."
import importlib.util, secrets, sys, time
import pytest
from avh_nb.scale.ray import FileActor, on_paper, pool_size, score_with_ray
from avh_nb.scale.runs import StoreRun
from avh_nb.scale.shards import made_vectors, score_files

def parts(folder): return {p.name: p.read_bytes() for p in folder.rglob('part-*.parquet')}

@pytest.mark.parametrize('actors,cpus,want', [(None, 2, 1), (None, 2.5, 1), (1, 2, 1), (15, 16, 15), (None, 100, 99)])
def test_one_cpu_stays_free(actors, cpus, want): assert pool_size(actors, cpus)==want

@pytest.mark.parametrize('actors,cpus', [(None, 1), (None, 0), (2, 2), (16, 16), (3, 2), (0, 8), (-1, 8)])
def test_a_pool_that_would_hang_is_refused(actors, cpus):
    with pytest.raises(ValueError, match=r'actors: expected from 1 to .*Ray waits for ever \(ray-project/ray#44687\)'):
        pool_size(actors, cpus)

def test_without_ray_the_message_says_what_to_install(tmp_path, monkeypatch):
    made_vectors(tmp_path, 20, 4, 3)
    for name in [m for m in sys.modules if m.split('.')[0]=='ray']: monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(ImportError, match=r"this needs ray: pip install 'avh_nb\[ray\]'"):
        score_with_ray(tmp_path/'vectors', None, tmp_path/'scores')
    assert not (tmp_path/'scores').exists()

def test_an_actor_makes_the_parts_of_a_loop(tmp_path):
    _,head,_ = made_vectors(tmp_path, 100, 8, 5, n_files=5)
    score_files(tmp_path/'vectors', head, tmp_path/'loop', progress=False)
    a,b = (FileActor(tmp_path/'vectors', head, tmp_path/'actors') for _ in range(2))
    for actor,numbers in ((a, [4, 0]), (b, [1]), (b, [2, 3, 4])): # one twice, as where a machine was lost
        assert actor(dict(number=numbers))==dict(number=numbers, rows=[20]*len(numbers), invalid=[0]*len(numbers))
    assert parts(tmp_path/'loop')==parts(tmp_path/'actors')

@pytest.fixture
def cluster(monkeypatch):
    if importlib.util.find_spec('ray') is None: pytest.skip('ray is not installed')
    for k,v in dict(RAY_USAGE_STATS_ENABLED='0', RAY_AUTH_TOKEN=secrets.token_hex(32), RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO='0').items():
        monkeypatch.setenv(k, v) # no report, no file in the home folder, and no warning
    import ray
    try: ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    except Exception as e: pytest.skip(f'ray did not start: {e}')
    yield ray
    ray.shutdown()

@pytest.mark.filterwarnings('ignore:::ray', 'ignore::ResourceWarning')
def test_ray_makes_the_same_table(tmp_path, cluster):
    _,head,_ = made_vectors(tmp_path, 400, 16, 10)
    start = time.perf_counter()
    with pytest.raises(ValueError, match='actors: expected from 1 to 1, got 2: the cluster has 2 CPUs'):
        score_with_ray(tmp_path/'vectors', head, tmp_path/'ray', actors=2)
    assert parts(tmp_path/'ray')=={}
    score_files(tmp_path/'vectors', head, tmp_path/'loop', progress=False)
    score_files(tmp_path/'vectors', head, tmp_path/'ray', shard=(1, 4), progress=False) # begun without Ray
    assert score_with_ray(tmp_path/'vectors', head, tmp_path/'ray')==300
    assert score_with_ray(tmp_path/'vectors', head, tmp_path/'ray')==0
    assert parts(tmp_path/'ray')==parts(tmp_path/'loop')
    assert StoreRun(tmp_path/'ray', 'embeddings').table(['id', 'avh']).equals(StoreRun(tmp_path/'loop', 'embeddings').table(['id', 'avh']))
    (tmp_path/'vectors'/'00002.parquet').write_bytes(b'broken')
    with pytest.raises(Exception, match="00002.parquet': not a whole Parquet file"):
        score_with_ray(tmp_path/'vectors', head, tmp_path/'broken')
    assert len(parts(tmp_path/'broken'))<4
    print(f'{time.perf_counter()-start:.1f} s with Ray')

@pytest.mark.parametrize('network,disk,decode,rate,cores,limit,total', [
    (None, 1e9, 1e9, 1e9, 4, 'disk', 1024), (1e8, 1e9, 1e9, 1e9, 4, 'network', 10240), (None, 1e12, 1e9, 1e9, 1, 'decode', 1024+1),
    (None, 1e12, 1e12, 1e5, 2, 'engine', 5000+.512)])
def test_what_limits(network, disk, decode, rate, cores, limit, total):
    p = on_paper(1e9, 512, rate, cores, decode=decode, disk=disk, network=network)
    assert p['limit']==limit and p['total']==pytest.approx(total)
    twice = on_paper(2e9, 512, rate, cores, decode=decode, disk=disk, network=network)
    assert twice['total']==pytest.approx(2*p['total']) and twice['vectors']==2*p['vectors']
