"""Threads that ask models: workers, one for a request of its own, one for a pull of a stream; the lower half of `Host`.

It owns none of them: a worker belongs to the version that started it, and every thread ends with what it does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from changeover.runtime.loaded import LoadedModel
from changeover.runtime.mailbox import Promise
from changeover.runtime.ports import Ports
from changeover.runtime.worker import Request, fail, handle

Ended = Callable[[BaseException | None], None]
"""Told, on the loop, that something in a thread is over, and with which error."""


class Serving:
    """The part of a host by which models are asked."""

    def __init__(self, ports: Ports) -> None:
        """Start threads by `ports`."""
        self._ports = ports

    def serve(self, loaded: LoadedModel, number: int, ended: Ended) -> None:
        """Start a worker thread that takes batches from the model's lane until that is closed."""
        name = f"worker {loaded.key} {number}"
        work = partial(handle, loaded)
        self._ports.offload.serve(name, loaded.lane, work, lambda _value, error: ended(error))

    async def work(self, loaded: LoadedModel, number: int) -> None:
        """Be responsible for one worker thread, which ends with its lane; raises what ended it before."""
        ended: Promise[None] = Promise()
        self.serve(loaded, number, lambda error: ended.fail(error) if error else ended.settle(None))
        await ended.wait()

    def run_aside(self, loaded: LoadedModel, request: Request) -> bool:
        """Answer one request in a thread of its own; False where as many are answered so as may be queued."""
        loaded.aside.add(request)  # announced first: of two threads neither gets in above the bound
        if len(loaded.aside) > loaded.spec.queue_limit:
            loaded.aside.discard(request)
            return False

        def ended(_value: None, error: BaseException | None) -> None:
            loaded.aside.discard(request)
            if error is not None:  # no thread could be started for it
                fail(loaded, request, error)

        work = partial(handle, loaded, [request])
        self._ports.offload.start(f"predict {loaded.key}", work, ended)
        return True

    def pull(self, loaded: LoadedModel, work: Callable[[], None], failed: Callable[[BaseException], None]) -> None:
        """Have a thread of its own do a piece of work for a stream; `failed` hears where none could be started."""
        began = False

        def run() -> None:
            nonlocal began
            began = True
            work()

        def ended(_value: None, error: BaseException | None) -> None:
            if not began and error is not None:
                failed(error)

        self._ports.offload.start(f"stream {loaded.key}", run, ended)
