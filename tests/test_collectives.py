"""Collectives are read from programs as XLA writes them: four ways to write groups, loops with and without a stated length, asynchronous pairs."""

import pytest

from bert_jax.collectives import collectives, totals

# Lines of programs compiled for CPU and for TPU v4, shortened.
PROGRAM = """
HloModule jit_step

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%body (p: (s32[], f32[16,4])) -> (s32[], f32[16,4]) {
  %all-gather.1 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%p), replica_groups=[4,2]<=[4,2]T(1,0), dimensions={1}, metadata={op_name="layer/gather"}
}

%condition (p: (s32[], f32[16,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(24)
  ROOT %lt = pred[] compare(%counter, %limit), direction=LT
}

%inner (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %all-reduce.2 = (f32[4]{0}, /*index=1*/pred[8]{0}) all-reduce(%p, %q), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
}

%outer (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %while.2 = (s32[], f32[4]) while(%p), condition=%anything, body=%inner, backend_config={"known_trip_count":{"n":"3"}}
}

%fused (p: f32[8]) -> f32[8] {
  %reduce-scatter.1 = f32[2,3]{1,0} reduce-scatter(%p), replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([2,2,2]T(1,0,2)) {'axis_0'}, dimensions={1}, to_apply=%add
}

%never (p: f32[8]) -> f32[8] {
  %all-reduce.9 = f32[8] all-reduce(%p), replica_groups={}, to_apply=%add
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %while.1 = (s32[], f32[16,4]) while(%t), condition=%condition, body=%body
  %while.3 = (s32[], f32[4]) while(%t), condition=%anything, body=%outer, backend_config={"known_trip_count":{"n":"2"}}
  %fusion.1 = f32[2,3] fusion(%a), kind=kCustom, calls=%fused
  %start = (f32[4]{0}, f32[32]{0}) all-gather-start(%a), replica_groups=[1,8]<=[8], dimensions={0}
  %done = f32[32]{0} all-gather-done(%start)
  %permute = (bf16[4], bf16[4], u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}
  ROOT %all-to-all.1 = (f32[1,6]{1,0}, f32[1,6]{1,0}) all-to-all(%a, %b), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0':(2)2}
}
"""
SIZES = {"data": 2, "fsdp": 2, "tensor": 2}


def test_kinds_sizes_groups_and_counts():
    found = {one.kind + str(one.times): one for one in collectives(PROGRAM)}
    assert totals(collectives(PROGRAM)) == {
        "all-reduce": (6, 6 * 24), "all-gather": (25, 24 * 256 + 128), "reduce-scatter": (1, 48), "all-to-all": (1, 48), "collective-permute": (1, 8),
    }
    gather = found["all-gather24"]
    assert (gather.arrays, gather.source, gather.size, gather.sent) == ((("bf16", (16, 8)),), "layer/gather", 2, 128)
    assert gather.groups == ((0, 2), (4, 6), (1, 3), (5, 7)) and gather.axes(SIZES) == ("fsdp",)
    assert found["all-reduce6"].axes(SIZES) == ("tensor",) and found["all-reduce6"].sent == 24
    assert found["all-gather1"].axes(SIZES) == ("data", "fsdp", "tensor") and found["all-gather1"].sent == 112
    scatter = found["reduce-scatter1"]
    assert scatter.arrays == (("f32", (2, 6)),) and scatter.axes(SIZES) == ("fsdp",) and scatter.groups[0] == (0, 2)
    assert found["all-to-all1"].axes(SIZES) == ("fsdp",)


def test_unknown_loops_and_devices_are_named():
    with pytest.raises(ValueError, match="in a loop whose length is not to be found: condition"):
        collectives(PROGRAM.replace("constant(24)", "negate(%a)"))
    with pytest.raises(ValueError, match="in an unknown way: %start"):
        collectives(PROGRAM.replace("[1,8]<=[8]", "everyone"))
