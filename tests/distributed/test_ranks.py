import threading
from concurrent.futures import ThreadPoolExecutor

from torch.distributed import HashStore

from reid.distributed.joining import Place
from reid.distributed.ranks import ProcessGroup


def test_ranks_meet_when_the_last_one_is_there_each_time() -> None:
    store, late, order = HashStore(), threading.Event(), list[str]()
    ranks = [ProcessGroup(Place(rank, 2, rank, 2, "127.0.0.1", 1), store) for rank in range(2)]

    def early() -> None:
        ranks[0].meet()
        order.append("met")
        ranks[0].meet()

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(early)
        assert not late.wait(0.2)  # as long as a machine may decode
        order.append("late")
        ranks[1].meet()
        ranks[1].meet()
        waiting.result()
    assert order == ["late", "met"]
