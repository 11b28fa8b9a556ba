"""What benchmarks/aot.py reads in an HLO text, and one program compiled for a TPU."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.aot import Operation, array_bytes, is_copy, operations_in_loops

TEXT = """
HloModule jit_advance, entry_computation_layout={(f32[8,128]{1,0})->f32[8,128]{1,0}}

%fused_write (p: f32[100,4], q: f32[1,4], i: s32[]) -> f32[100,4] {
  %p = f32[100,4]{1,0} parameter(0)
  ROOT %dus = f32[100,4]{1,0} dynamic-update-slice(%p, %q, %i, %i)
}

%inner_body (t: (s32[])) -> (s32[]) {
  %gathered = bf16[32,4]{1,0:T(8,128)(2,1)} gather(%x, %y), offset_dims={1}
  ROOT %tuple.2 = (s32[]) tuple(%k)
}

%branch_a (a: f32[2]) -> f32[2] {
  ROOT %neg = f32[2]{0} negate(%a)
}

%body (carry: (s32[], f32[100,4])) -> (s32[], f32[100,4]) {
  %copy.1 = f32[100,4]{0,1} copy(%storage)
  %write = f32[100,4]{1,0} fusion(%copy.1, %row, %i), kind=kLoop, calls=%fused_write
  %sum = f32[] all-reduce(%z), to_apply=%add
  %either = f32[2]{0} conditional(%p, %a, %a), branch_computations={%branch_a, %branch_a}
  %inner = (s32[]) while(%init), condition=%inner_condition, body=%inner_body
  ROOT %tuple = (s32[], f32[100,4]) tuple(%i, %write)
}

%inner_condition (t: (s32[])) -> pred[] {
  ROOT %less = pred[] compare(%a, %b), direction=LT
}

%condition (carry: (s32[], f32[100,4])) -> pred[] {
  ROOT %less.1 = pred[] compare(%a, %b), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %added = f32[] add(%a, %b)
}

ENTRY %main (storage: f32[100,4]) -> f32[100,4] {
  %outside = f32[100,4]{0,1} copy(%storage)
  %loop = (s32[], f32[100,4]) while(%outside), condition=%condition, body=%body
  ROOT %result = f32[100,4]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_operations_of_loops_are_read_with_what_they_call():
    operations = {operation.name: operation for operation in operations_in_loops(TEXT)}
    assert "outside" not in operations and "dus" not in operations  # of the entry, of a fusion
    assert {"copy.1", "write", "gathered", "neg", "added", "less"} <= set(operations)
    assert operations["write"].root == "dynamic-update-slice"
    assert operations["copy.1"].root == "copy" and operations["copy.1"].size == 1600
    assert operations["gathered"].size == 32 * 4 * 2 and operations["sum"].kind == "all-reduce"


def test_the_bytes_of_a_tuple_are_those_of_its_largest_array():
    assert array_bytes("pred[1,100000,10,10,4]{1,4,3,2,0:T(4,128)}") == 40_000_000
    assert array_bytes("(f32[84]{0}, bf16[128,84]{0,1}, s32[])") == 2 * 128 * 84


@pytest.mark.parametrize(
    ("kind", "shape", "copies"),
    [
        ("copy", "f32[1,10000,4]{2,1,0:T(8,128)S(1)}", True),
        ("copy-start", "(s32[9]{0:T(128)S(1)}, s32[9]{0:T(128)}, u32[]{:S(2)})", False),
        ("copy-start", "(s32[9,8]{0,1:T(128)}, s32[9,8]{1,0:T(128)}, u32[]{:S(2)})", True),
        ("gather", "f32[1,10000,4]{2,1,0}", False),
    ],
)
def test_a_move_between_memories_is_no_copy(kind, shape, copies):
    assert is_copy(Operation(kind, "x", shape, array_bytes(shape), kind)) == copies


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="needs libtpu")
def test_no_array_of_a_replay_is_copied_in_a_tpus_loop():
    script = Path(__file__).parents[1] / "benchmarks/aot.py"
    # Eight environments whose observations have three numbers.
    small = ["--set", "--replay.capacity", "1000000", "--env.num-envs", "8"]
    command = [sys.executable, str(script), "expectrl/pendulum", *small]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    heads, _, row = (line.split("|") for line in done.stdout.splitlines()[-3:])
    cells = dict(zip(map(str.strip, heads), map(str.strip, row), strict=True))
    assert cells["copies"] == "0" and float(cells["temp MB"]) < 1.2 * float(cells["state MB"])
