import pytest

from reid.distributed.devices import CPU
from reid.distributed.joining import Machine, Place, first_host, machine_of, machines_there, place_of
from reid.distributed.launching import devices_here, require_machines
from reid.errors import SpecError

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "gpu1",
    "MASTER_PORT": "29500",
}
TRAINER = {
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "4",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "job-node-0-0.job",
    "PET_MASTER_PORT": "29400",
}
SLURM = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_NNODES": "2",
    "SLURM_NODELIST": "gpu[03-04]",
}


def test_an_empty_environment_names_nobody():
    assert (place_of({}), machine_of({}), machines_there({})) == (None, None, 1)


def test_torchruns_variables_give_the_rank():
    assert place_of(TORCHRUN) == Place(3, 4, 1, 2, "gpu1", 29500)
    assert machines_there(TORCHRUN) == 2
    assert place_of(TORCHRUN | TRAINER) == place_of(TORCHRUN)  # torchrun inside a pod of a TrainJob
    assert place_of(TORCHRUN | {"WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}) is None


def test_ranks_without_a_local_number_have_a_machine_each():
    plain = {name: TORCHRUN[name] for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")}
    assert place_of(plain) == Place(3, 4, 0, 1, "gpu1", 29500)
    assert machines_there(plain) == 4


def test_machines_with_unequal_numbers_of_ranks_are_refused():
    with pytest.raises(SpecError) as error:
        place_of(TORCHRUN | {"WORLD_SIZE": "5"})
    assert str(error.value) == (
        "the environment: 5 processes are started, 2 of them on this machine\n  want: equally many on each machine"
    )


def test_slurms_variables_give_the_rank_but_not_in_the_script_of_sbatch():
    assert place_of(SLURM) == Place(5, 8, 1, 4, "gpu03", 19567)
    assert place_of(SLURM | {"MASTER_ADDR": "here", "MASTER_PORT": "7"}) == Place(5, 8, 1, 4, "here", 7)
    assert place_of(SLURM | {"CUDA_VISIBLE_DEVICES": "3"}) == Place(5, 8, 0, 1, "gpu03", 19567)
    assert place_of(SLURM | {"SLURM_NTASKS": "1", "SLURM_NNODES": "1"}) is None
    assert place_of(SLURM | {"SLURM_STEP_ID": "4294967291"}) is None
    assert place_of({name: value for name, value in SLURM.items() if name != "SLURM_STEP_ID"}) is None


@pytest.mark.parametrize(
    ("listed", "first"),
    [("a", "a"), ("a,b", "a"), ("gpu[03-05,9],z", "gpu03"), ("r1n[7]", "r1n7"), ("n[1-2]-ib,n3", "n1-ib")],
)
def test_the_first_machine_of_slurms_list(listed, first):
    assert first_host(listed) == first


def test_the_trainers_variables_describe_the_machine():
    assert machine_of(TRAINER) == Machine(1, 2, 4, "job-node-0-0.job", 29400)
    assert place_of(TRAINER | {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}) is None
    assert machines_there(TRAINER) == 2
    assert machine_of(TRAINER | {"PET_NPROC_PER_NODE": "auto"}) == Machine(1, 2, None, "job-node-0-0.job", 29400)
    assert machine_of({"PET_NNODES": "1"}) == Machine(0, 1, None, "127.0.0.1", 29500)


def test_incomplete_variables_of_the_trainer_are_refused():
    with pytest.raises(SpecError) as error:
        machine_of({"PET_NNODES": "2", "PET_MASTER_ADDR": "a"})
    assert str(error.value) == (
        "PET_NNODES is 2, PET_NODE_RANK is not set, PET_MASTER_ADDR is a, PET_MASTER_PORT is not set\n"
        "  want: the number of machines, this machine's number from 0, and the address of machine 0"
    )


@pytest.fixture
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)


def test_the_processes_that_were_started_win_over_the_spec(monkeypatch, without_gpus):
    asked = {"num_gpus": 1, "gpu_ids": [0], "cpu_processes": 3}
    assert devices_here("train", **asked) == (CPU,) * 3
    for environment, ranks in ((TORCHRUN, 2), (TRAINER, 4), ({"PET_NNODES": "1"}, 3)):
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            assert devices_here("train", **asked) == (CPU,) * ranks
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    assert devices_here("train", num_gpus=1, gpu_ids=[0], cpu_processes=1) == ("cuda:0", "cuda:1")
    assert devices_here("train", num_gpus=2, gpu_ids=[1, 3], cpu_processes=1) == ("cuda:1", "cuda:3")


def test_several_machines_need_something_that_starts_them(monkeypatch, caplog):
    caplog.set_level("INFO")
    require_machines("train", num_nodes=1, num_gpus=1)
    with pytest.raises(SpecError) as error:
        require_machines("train", num_nodes=2, num_gpus=4)
    assert str(error.value) == (
        "train.num_nodes: 2 machines are asked for, and this one is alone\n"
        "  want: train.num_nodes=1; or on each of the machines, the first of which is HOST,\n"
        "  torchrun --nnodes=2 --nproc-per-node=4 --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 -m reid train -e SPEC"
    )
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    require_machines("train", num_nodes=2, num_gpus=4)
    assert caplog.messages == []
    require_machines("train", num_nodes=3, num_gpus=4)
    assert caplog.messages == ["train.num_nodes: 3, but 2 take part, as they were started"]
