"""Which number of threads is chosen, as times are: those of made-up work."""

import random

import pytest

from fastnet._engine import tuned


def seconds_of(threads_and_times, took_by, pieces=None):
    """Seconds of all pieces, with the threads that they were given."""
    time = 0.0
    for threads in threads_and_times[:pieces]:
        time += took_by(threads, time)
    return time


@pytest.mark.parametrize("sure", [False, True])
@pytest.mark.parametrize("piece", [2e-5, 4e-4, 1e-2, 0.3])
def test_two_threads_that_pay_are_kept(piece, sure):
    def took_by(threads, time):
        return piece / threads**0.8

    pieces = max(50, int(2 / piece))
    found = tuned(took_by, pieces, 2, sure)
    window = max(1, round(4e-3 / piece)) + 1
    assert found[0] == (2 if sure else 1)
    late = found[9 * window:]           # after a comparison, or three in a row
    assert late.count(2) > 0.95 * len(late)


@pytest.mark.parametrize("sure", [False, True])
@pytest.mark.parametrize("piece", [2e-5, 4e-4, 1e-2, 0.3])
def test_two_threads_that_do_not_pay_are_tried_ever_less(piece, sure):
    def took_by(threads, time):
        return piece * (1.5 if threads > 1 else 1)

    pieces = max(50, int(20 / piece))
    found = tuned(took_by, pieces, 2, sure)
    alone = piece * pieces
    # Of the time 1/32 at most is lost, and what the first comparison costs.
    assert seconds_of(found, took_by) - alone < alone / 32 + max(2 * piece, 0.01)
    trials = [i for i in range(1, pieces) if found[i] > found[i - 1]]
    assert len(trials) <= 12


def test_a_neighbour_comes_and_goes():
    """Two threads take three times as long while another process has one of the two cores."""
    def took_by(threads, time):
        busy = 3 <= time < 9
        return 4e-4 * (1 if threads == 1 else 3 if busy else 0.6)

    found = tuned(took_by, 60_000, 2)
    time, share = 0.0, {}
    for threads in found:
        phase = "before" if time < 3 else "busy" if time < 9 else "after"
        share.setdefault(phase, []).append(threads)
        time += took_by(threads, time)
    assert time > 14
    assert share["before"].count(2) > 0.9 * len(share["before"])
    assert share["busy"].count(1) > 0.97 * len(share["busy"])
    late = share["after"][len(share["after"]) // 2:]    # waits are 4 s at most
    assert late.count(2) > 0.97 * len(late)


@pytest.mark.parametrize("piece", [4e-4, 6e-3])
def test_what_disturbs_for_a_moment_does_not_cost_seconds(piece):
    """Every second something else runs for 30 ms on one of the cores."""
    def took_by(threads, time):
        return piece * (1 if threads == 1 else 2 if time % 1 < 0.03 else 0.6)

    found = tuned(took_by, int(20 / piece), 2)
    late = found[len(found) // 10:]
    assert late.count(2) > 0.85 * len(late)


@pytest.mark.parametrize("pieces, piece", [(3, 5e-3), (4, 3e-3), (60, 4e-4)])
def test_the_first_piece_of_a_burst_says_little(pieces, piece):
    """Some pieces, 0.3 s of something else, and so on: first threads sleep, caches are cold."""
    state = {"number": -1}

    def pause_before(time):
        state["number"] += 1
        return 0 if state["number"] % pieces else 0.3

    def took_by(threads, time):
        if state["number"] % pieces == 0:
            return piece * (1.2 if threads == 1 else 2)
        return piece * (1 if threads == 1 else 0.57)

    found = tuned(took_by, max(3000, 50 * pieces), 2, False, pause_before)
    late = found[len(found) // 10:]
    assert late.count(2) > 0.9 * len(late)


@pytest.mark.parametrize("begin", [20, 21, 22, 23])
def test_a_neighbour_is_noticed_at_once_however_long_all_was_well(begin):
    times = []

    def took_by(threads, time):
        times.append(time)
        return 4e-4 * (1 if threads == 1 else 3 if time > begin else 0.6)

    found = tuned(took_by, 110_000, 2)
    soon = [threads for threads, time in zip(found, times, strict=True)
            if begin + 0.1 < time < begin + 0.6]
    assert soon.count(1) > 0.9 * len(soon) > 0


@pytest.mark.parametrize("slower", [0.6, 1.5])
def test_pieces_that_all_come_after_a_pause_count(slower):
    found = tuned(lambda threads, time: 1e-3 * (1 if threads == 1 else slower), 2000, 2, False,
                  lambda time: 0.05)
    late = found[500:]
    assert late.count(1 if slower > 1 else 2) > 0.9 * len(late)


def test_stalls_in_a_few_pieces_count():
    """Half of the pieces are quick and some take a slice of the scheduler: the mean decides."""
    state = {"pieces": 0}

    def took_by(threads, time):
        state["pieces"] += 1
        if threads == 1:
            return 2e-4
        return 4e-3 if state["pieces"] % 12 == 0 else 1.2e-4

    found = tuned(took_by, 50_000, 2)
    assert found.count(1) > 0.95 * len(found)


def test_noise_is_no_reason_for_more_threads():
    """Two busy processes on two cores: windows of either kind are good or bad by chance."""
    rng = random.Random(0)

    def took_by(threads, time):
        mean = 1e-2 if threads == 1 else 1.2e-2
        return mean * (0.4 if rng.random() < 0.5 else 1.6)

    found = tuned(took_by, 5_000, 2)
    assert found.count(1) > 0.99 * len(found)


@pytest.mark.parametrize("best", [1, 2, 4, 8, 16])
def test_of_many_threads_the_best_number_is_found(best):
    def took_by(threads, time):
        return 1e-3 * (1 + abs(best.bit_length() - threads.bit_length()))

    found = tuned(took_by, 20_000, 16)
    late = found[10_000:]
    assert late.count(best) > 0.97 * len(late)


def test_more_or_fewer_threads_allowed_begin_anew():
    assert set(tuned(lambda threads, time: 1e-3, 100, 1)) == {1}
