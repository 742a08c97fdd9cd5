"""Test what the ledger remembers of units, processes and GPUs, without Ray."""

from dataclasses import replace

from pipeline.run.guard.incidents import DIED, LOST, NOT_LOADED, RETIRED
from pipeline.run.guard.ledger import ActorStart, Ledger, WorkItem
from pipeline.run.guard.location import Location, WorkerProcess

GPU0, GPU1 = (Location("node-a", "a", (gpu,)) for gpu in "01")
CPU = Location("node-a", "a")
UNIT, OTHER = WorkItem("generate", 0, 0), WorkItem("generate", 0, 64)


def process(location: Location, pid: int = 1, actor: str = "x") -> WorkerProcess:
    return WorkerProcess(location, pid, actor)


def test_the_first_loss_is_no_death_and_later_ones_are_the_units_that_met_them():
    ledger = Ledger()
    for pid, deaths in ((1, 0), (2, 0), (3, 1), (4, 2)):
        here = process(GPU0, pid)
        apart = frozenset([UNIT] if pid == 4 else [])
        assert ledger.start("generate", here) == ActorStart(0, apart=apart, is_restart=pid > 1)
        ledger.end(WorkItem("generate (start of actor x)"))
        assert ledger.begin(UNIT, here) == deaths
        assert ledger.begin(OTHER, here) == 0, "it was in the same process"
        ledger.lose(UNIT, here, "CUDA error")
    (incident,) = ledger.incidents()
    assert (incident.event, incident.location, incident.times) == (LOST, GPU0, 4)
    ledger.end(UNIT)
    assert ledger.begin(UNIT, process(GPU0, 5)) == 0


def test_several_units_of_one_process_meet_one_error():
    ledger, here = Ledger(), process(GPU0)
    for item in (UNIT, OTHER):
        ledger.begin(item, here)
    for item in (UNIT, OTHER):
        ledger.lose(item, here, "CUDA error")
    assert [incident.times for incident in ledger.incidents()] == [1]
    assert ledger.in_work()[1] == []


def test_processes_that_lose_their_gpu_one_after_the_other_put_the_unit_apart():
    """Each unit meets its first error, and no unit ends between."""
    ledger = Ledger()
    for pid in range(3):
        item, here = WorkItem("generate", 0, pid), process(GPU0, pid)
        ledger.begin(item, here)
        ledger.lose(item, here, "CUDA error")
    assert ledger.start("generate", process(GPU0, 3)).apart == {WorkItem("generate", 0, 2)}


def test_what_happened_on_a_gpu_that_is_given_up_counts_no_more():
    ledger = Ledger()
    for pid, (item, location) in enumerate([(UNIT, GPU1), (UNIT, GPU0), (OTHER, GPU1), (UNIT, GPU1)]):
        ledger.begin(item, process(location, pid))
    assert ledger.begin(UNIT, process(GPU1, 9)) == 3, "on GPU 1, on GPU 0, and on GPU 1 again"
    ledger.begin(OTHER, process(GPU1, 9))
    ledger.retire("generate", process(GPU1, 9), None, "no sample is answered")
    assert ledger.in_work()[1] == [], "its units begin elsewhere without another death"
    assert (ledger.begin(UNIT, process(GPU0, 10)), ledger.begin(OTHER, process(GPU0, 10))) == (1, 0)
    assert ledger.start("generate", process(GPU1, 11)).retired == "no sample is answered"
    assert ledger.start("generate", process(GPU0, 12)).retired is None
    assert ledger.start("encode", process(GPU1, 13)).retired is None, "it may still do for CLIP"
    told = {(one.event, one.location.gpus): one for one in ledger.incidents()}
    assert told[DIED, ("1",)].times == 3 and told[DIED, ("0",)].times == 1
    assert told[RETIRED, ("1",)].line == (
        "stage generate: GPU 1 of node node-a was given up, and its units went to another: "
        "no sample is answered"
    )


def test_a_start_that_fails_is_counted_with_its_reason():
    ledger = Ledger()
    ledger.start("generate", process(GPU1))
    ledger.begin(UNIT, process(GPU1))  # the model is loaded late, after a unit that ran apart
    ledger.fail_start("generate", process(GPU1), "RuntimeError: 429")
    assert ledger.start("generate", process(GPU1, 2)) == ActorStart(1, "RuntimeError: 429", is_restart=True)
    assert [(one.event, one.times) for one in ledger.incidents()] == [(NOT_LOADED, 1)]
    assert ledger.begin(UNIT, process(GPU1, 2)) == 0


def test_deaths_on_cpus_are_no_incidents():
    ledger = Ledger()
    for pid in range(3):
        ledger.begin(UNIT, process(CPU, pid, actor=""))
        ledger.start("generate", process(CPU, pid))
        ledger.fail_start("generate", process(CPU, pid), "RuntimeError: 429")
    assert ledger.incidents() == []


def test_a_location_reads_well():
    assert str(GPU1) == "GPU 1 of node node-a"
    assert str(replace(GPU1, gpus=("0", "3"))) == "GPUs 0, 3 of node node-a"
    assert str(CPU) == "node node-a"


# --- GPUs that are sick at times ---


def crash_at(ledger: Ledger, *units: int, location: Location = GPU1, first_pid: int = 100) -> None:
    """Let a process die in each of these units, which end well when they are taken up again."""
    for number, unit in enumerate(units):
        item = WorkItem("generate", 0, unit)
        ledger.begin(item, process(location, first_pid + number))
        ledger.begin(item, process(location, first_pid + number + 1))
        ledger.end(item)


def end_well(ledger: Ledger, count: int, location: Location) -> None:
    for unit in range(1000, 1000 + count):
        ledger.begin(WorkItem("generate", 0, unit), process(location, 50))
        ledger.end(WorkItem("generate", 0, unit))


def test_a_gpu_whose_processes_die_at_many_units_is_sick_although_each_ends_at_last():
    ledger = Ledger()
    end_well(ledger, 3, GPU0)
    crash_at(ledger, 0, 1, 2)
    assert ledger.start("generate", process(GPU1, 200)).retired is None, "three times"
    crash_at(ledger, 3, first_pid=110)
    reason = "4 processes ended there by a fault, and 4 units well"
    assert ledger.start("generate", process(GPU1, 201)).retired == reason
    assert ledger.start("generate", process(GPU0, 202)).retired is None


def test_a_gpu_is_not_given_up_for_few_faults_among_many_units_nor_without_another():
    ledger = Ledger()
    crash_at(ledger, 0, 1, 2, 3)
    assert ledger.start("generate", process(GPU1, 200)).retired is None, "no other GPU has answered anything"
    end_well(ledger, 100, GPU0)
    end_well(ledger, 100, GPU1)
    assert ledger.start("generate", process(GPU1, 201)).retired is None


def test_units_that_kill_everywhere_do_not_make_a_gpu_sick():
    ledger = Ledger()
    end_well(ledger, 3, GPU0)
    for unit in range(4):
        item = WorkItem("generate", 0, unit)
        for pid in (1, 2):
            ledger.begin(item, process(GPU1, 10 * unit + pid))
        assert ledger.start("generate", process(GPU1, 10 * unit + 3)).apart == {item}
        ledger.begin(item, process(GPU1, 10 * unit + 3))
        ledger.end(item)
    assert ledger.start("generate", process(GPU1, 99)).retired is None
