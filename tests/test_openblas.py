"""Which of OpenBLAS's kernels a test may force, by the processor's flags."""

import pytest

from tests.openblas import core_types, core_types_here, processor_flags

ZEN_3 = "fpu sse sse2 pni ssse3 fma sse4_1 sse4_2 avx f16c bmi1 avx2 bmi2 vaes"
CORE_2 = "fpu sse sse2 pni ssse3 sse4_1"
SKYLAKE = f"{ZEN_3} avx512f avx512dq avx512cd avx512bw avx512vl"


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (ZEN_3, ["", "Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen"]),
        (CORE_2, ["", "Prescott"]),
        ("", [""]),
        (SKYLAKE, ["", "Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen", "SkylakeX"]),
        (f"{ZEN_3} avx512f avx512cd", ["", "Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen"]),  # Knights Landing
        (
            f"{SKYLAKE} avx512_bf16",
            ["", "Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen", "SkylakeX", "Cooperlake"],
        ),
    ],
)
def test_a_processor_is_asked_only_for_kernels_whose_instructions_it_has(flags: str, wanted: list[str]) -> None:
    assert core_types(set(flags.split())) == wanted


def test_the_flags_of_a_machine_are_those_of_all_its_processors() -> None:
    text = "processor\t: 0\nflags\t\t: pni avx avx2\nvmx flags\t: vnmi\n\nprocessor\t: 1\nflags\t\t: pni avx\n"
    assert processor_flags(text) == {"pni", "avx"}
    assert processor_flags("processor\t: 0\nFeatures\t: fp asimd\n") == set()


def test_every_machine_tests_the_kernels_that_openblas_itself_chooses() -> None:
    assert core_types_here()[0] == ""
