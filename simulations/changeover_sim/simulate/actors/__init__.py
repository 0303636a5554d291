"""Who acts in a run, by name: clients that use models, operators that order changes. Each is one task that loops."""

from collections.abc import Mapping

from changeover_sim.simulate.actors import clients, holders, operators, steering
from changeover_sim.simulate.life import Actor

ACTORS: Mapping[str, Actor] = {
    "asker": clients.asker,
    "keyed asker": clients.keyed_asker,
    "streamer": clients.streamer,
    "set asker": clients.set_asker,
    "bystander": clients.bystander,
    "leaser": holders.leaser,
    "waiting leaser": holders.waiting_leaser,
    "set leaser": holders.set_leaser,
    "thread": holders.thread,
    "tracker": holders.tracker,
    "waiter": holders.waiter,
    "reader": holders.reader,
    "swapper": operators.swapper,
    "group swapper": operators.group_swapper,
    "loader": operators.loader,
    "unloader": operators.unloader,
    "hasty unloader": operators.hasty_unloader,
    "warmer": operators.warmer,
    "registrar": operators.registrar,
    "steerer": steering.steerer,
    "turner": steering.turner,
    "undoer": steering.undoer,
}
