"""The sample of reads: near the truth, bounded, apart by tenant, and sent to where it is collected."""

import os
import random
import threading
from collections import Counter
from collections.abc import Sequence
from itertools import repeat

import pytest

from stoker.cache import Cache, CacheConfig, hot, hot_reports, keys
from stoker.cache.hot import MOST_BYTES, MOST_POINTS, MOST_REPORTS, Report, Sample
from stoker.cache.traffic import FLUSH_EVERY_S, FULL_EVERY_S, Traffic
from tests.cache.conftest import MakeCache


def read(sample: Sample, names: Sequence[hot.Name]) -> None:
    """Show these reads to the sample, one after the other."""
    left = 1
    for name in names:
        left -= 1
        if left <= 0:
            left = sample.add(name)


def taken(sample: Sample) -> hot.Reads:
    report = sample.take()
    assert report is not None
    return report.reads()


def test_a_sample_of_a_zipf_workload_knows_how_often_the_hottest_keys_were_read() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201 - shown if it fails
    randomness = random.Random(seed)
    names: list[hot.Name] = [(None, f"k{rank}") for rank in range(20_000)]
    reads = randomness.choices(names, [1 / (rank + 1) for rank in range(20_000)], k=200_000)
    # When the same reads are sampled ten times, as by so many processes
    sums: Counter[str] = Counter()
    for number in range(10):
        sample = Sample(random.Random(seed + number))
        read(sample, reads)
        assert sample.every >= 128
        sums.update(taken(sample)[None])
    # Then the hottest are known, each with its reads, and all together with all
    truth = Counter(key for _, key in reads)
    assert sum(sums.values()) / 10 == pytest.approx(len(reads), rel=0.1)
    assert {key for key, _ in sums.most_common(10)} >= {key for key, _ in truth.most_common(7)}
    for key, count in truth.most_common(7):
        assert sums[key] / 10 == pytest.approx(count, rel=0.35)


def test_few_reads_are_all_counted() -> None:
    sample = Sample()
    read(sample, [("acme", "a")] * 3 + [(None, "a")] + [("acme", "b")])
    assert taken(sample) == {"acme": {"a": 3, "b": 1}, None: {"a": 1}}
    assert sample.take() is None


def test_a_million_different_keys_take_no_more_room_than_some_thousand() -> None:
    sample = Sample()
    left, largest = 1, 0
    for number in range(1_000_000):
        left -= 1
        if left <= 0:
            left = sample.add(("acme", f"{number}"))
            largest = max(largest, len(sample._points))
    assert largest <= MOST_POINTS
    assert sum(taken(sample)["acme"].values()) == pytest.approx(1_000_000, rel=0.2)


def test_a_report_of_the_longest_names_is_cut_to_its_most_read_keys() -> None:
    points = {"acme": {"hot": 900, **{f"{number:04}".ljust(500, "é"): 1 for number in range(1100)}}}
    packed = hot.pack(Report(1, 4, points))
    assert len(packed) <= MOST_BYTES
    reads = hot.unpack(packed)
    assert reads is not None
    assert reads["acme"]["hot"] == 3600
    assert len(reads["acme"]) > 10


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\xc1",
        b"\x93\x01\x01",
        hot.pack(Report(2, 1, {"": {"k": 1}})),  # type: ignore[arg-type]
        hot.pack(Report(1, 0, {"": {"k": 1}})),
        hot.pack(Report(1, 1, {"": {"k": -1}})),
        hot.pack(Report(1, 1, {"": {"": 1}})),
        hot.pack(Report(1, 1, {"a:b": {"k": 1}})),
        hot.pack(Report(1, 1, {"": {"k" * 2000: 1}})),
        b"\x91" * 100_000,
        b"\x91" * 60_000,
    ],
    ids=range(11),
)
def test_what_is_no_report_is_left_out(rubbish: bytes) -> None:
    assert hot.unpack(rubbish) is None


def test_a_sample_that_is_full_is_sent_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("stoker.cache.traffic.time.monotonic", lambda: now)
    few, many = Traffic(shared=True), Traffic(shared=True)
    assert not few.note(None, "k", hit=True)
    assert not any(many.note(None, f"{n}", hit=True) for n in range(MOST_POINTS + 1))
    now = FULL_EVERY_S
    assert many.note(None, "k", hit=True)
    assert not few.note(None, "k", hit=True)
    now = FLUSH_EVERY_S
    assert few.note(None, "k", hit=True)


def test_threads_add_without_a_lock_and_nothing_breaks_or_grows() -> None:
    traffic = Traffic(shared=True)
    failures: list[BaseException] = []
    done = threading.Event()

    def readers(number: int) -> None:
        try:
            for at in range(60_000):
                traffic.note("acme", f"k{at % 7}" if at % 2 else f"{number}:{at}", hit=True)
        except BaseException as error:
            failures.append(error)

    def flushes() -> None:
        try:
            while not done.is_set():
                report = traffic._sample.take()
                assert report is None or sum(map(len, report.points.values())) <= MOST_POINTS + 8
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=readers, args=(number,)) for number in range(4)]
    flusher = threading.Thread(target=flushes)
    for thread in [*threads, flusher]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    flusher.join()
    assert failures == []
    assert len(traffic._sample._points) <= MOST_POINTS + 8


def test_a_forked_child_counts_from_zero_even_if_it_was_forked_while_the_sample_was_being_thinned() -> None:
    traffic = Traffic(shared=True)
    traffic.note(None, "parent", hit=True)
    with traffic._sample._lock:
        child = os.fork()
        if child == 0:
            known = dict(traffic.totals())
            for number in range(3 * MOST_POINTS):
                traffic.note(None, f"{number}", hit=True)
            os._exit(0 if known == {} and len(traffic._sample._points) <= MOST_POINTS else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert list(traffic.totals()) == [(None, "parent")]


def test_hits_and_misses_of_every_process_are_collected_once_apart_by_tenant(make_redis: MakeCache) -> None:
    one, other = make_redis(), make_redis()
    one.set("a:1", 1, "acme")
    one.get("a:1", "acme")
    one.get_many(["a:1", "a:2"], "acme")
    other.get_or_load("a:1", lambda: 7, "globex")
    other.get("a:1")
    one.close()
    other.close()
    worker = make_redis()
    assert hot.added_up(hot_reports.collect(worker)) == {
        "acme": {"a:1": 2, "a:2": 1},
        "globex": {"a:1": 1},
        None: {"a:1": 1},
    }
    assert hot_reports.collect(worker) == []


def test_reports_that_nobody_collects_are_bounded_and_expire(make_redis: MakeCache, client: object) -> None:
    cache = make_redis()
    key = keys.samples(cache.config.namespace)
    for _ in repeat(None, MOST_REPORTS + 3):
        cache._core.traffic.note(None, "k", hit=True)
        cache._do(cache._core.flush_traffic())
    assert client.llen(key) == MOST_REPORTS  # type: ignore[attr-defined]
    assert 0 < client.pttl(key) <= hot.KEPT_MS  # type: ignore[attr-defined]
    client.rpush(key, b"rubbish")  # type: ignore[attr-defined]
    assert len(hot_reports.collect(cache)) == MOST_REPORTS


def test_a_cache_in_one_process_has_no_fleet_to_learn_from() -> None:
    with Cache(CacheConfig()) as cache:
        cache.get("k")
        assert cache._core.traffic._sample.take() is None
        assert hot_reports.collect(cache) == []
