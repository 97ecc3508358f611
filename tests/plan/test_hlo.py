"""What is read from a compiled program's text: loops' trips, collectives in all notations, cycles, kernels' stated costs."""

from pathlib import Path

import pytest

from bert_jax.plan.hlo import Program, group_of, shape_bytes


@pytest.fixture(scope="module")
def program():
    return Program((Path(__file__).parent / "compiled_program.hlo.txt").read_text())


def test_nested_loops_multiply(program):
    assert program.times == {"main.85_spmd": 1, "outer_body": 3, "inner_body": 36}
    assert [(one.opcode, one.count, one.cycles) for one in program.operations()] == [("fusion", 37, 36 * 1000 + 7), ("convert", 3, 3 * 50)]


def test_a_number_of_cycles_that_ran_over_is_not_believed():
    """The compiler's of a softmax over 8 x 12 x 8192 x 8192 scores, which it counts in 64 bits."""
    text = (Path(__file__).parent / "compiled_program.hlo.txt").read_text().replace('"estimated_cycles":"50"', '"estimated_cycles":"9223372036854775807"')
    assert [(one.opcode, one.cycles) for one in Program(text).operations(lambda instruction, computation: 40.4 * (computation == "outer_body"))][1] == ("convert", 3 * 40)


def test_collectives_with_sizes_groups_and_counts(program):
    found = {(one.kind, one.count): one for one in program.collectives(devices=4)}
    assert set(found) == {("all-gather", 36), ("reduce-scatter", 36), ("all-reduce", 1)}
    gathered = found["all-gather", 36]  # of an asynchronous pair's (operand, result) only the result
    assert (gathered.bytes, gathered.devices) == (768 * 768 * 2, (0, 1, 2, 3))
    scattered = found["reduce-scatter", 36]  # a fusion of all-reduce and slice, of which no device keeps the whole
    assert (scattered.bytes, scattered.devices) == (512 * 128 * 2, (0, 2))
    reduced = found["all-reduce", 1]  # several arrays at once
    assert (reduced.bytes, reduced.devices) == (768 * 4 + 30592 * 768 * 2 + 4, (0, 1))


def test_kernels_with_their_stated_cost(program):
    (kernel,) = program.kernels()
    assert (kernel.count, kernel.flops, kernel.bytes) == (36, 123456789.0, 1e6)
    assert kernel.traffic == 16 * 768 * 2 + 768 * 768 * 2 + 16 * 768 * 4
    assert kernel.moved == 1e6


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("replica_groups={{0,1},{2,3}}, x", (0, 1)),
        ("replica_groups=[2,2]<=[4], x", (0, 1)),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", (0, 2)),
        ("replica_groups=mesh['data'=2,'fsdp'=2] {'data'}, x", (0, 2)),
        ("replica_groups=mesh['data'=2,'fsdp'=2] {'fsdp'}, x", (0, 1)),
        ("source_target_pairs={{0,3},{1,0}}, x", (0, 3)),
        ("replica_groups={}, x", (0, 1, 2, 3)),
    ],
)
def test_groups_in_every_notation(text, group):
    assert group_of(text, 4) == group


def test_shapes_have_their_bytes():
    assert shape_bytes("(pred[2,8], /*index=1*/bf16[3]{0:T(1024)(128)(2,1)S(3)}, u32[], f8e4m3fn[5])") == [16, 6, 4, 5]


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        Program("nothing")
