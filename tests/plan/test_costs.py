"""FLOPs and bytes read from a compiled program's text, with its loops."""

import pytest

from bert_jax.plan.costs import Costs
from bert_jax.plan.hlo import Program

# Twelve layers in a loop; in each a matrix product in a fusion which also takes its layer's matrix out of the stack, and a product in windows, whose counter goes
# up by two, in which a batch of products is a convolution over a dilated axis. Its third operand is renamed, which costs nothing.
TEXT = """\
HloModule step, is_scheduled=true

%product (a.1: bf16[32,64], stack.1: bf16[12,64,128], i.1: s32[]) -> bf16[32,128] {
  %a.1 = bf16[32,64]{1,0} parameter(0)
  %stack.1 = bf16[12,64,128]{2,1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  %layer.1 = bf16[1,64,128]{2,1,0} dynamic-slice(%stack.1, %i.1), dynamic_slice_sizes={1,64,128}
  %matrix.1 = bf16[64,128]{1,0} bitcast(%layer.1)
  %product.1 = bf16[32,128]{1,0} convolution(%a.1, %matrix.1), dim_labels=bf_io->bf
  ROOT %sum.1 = bf16[32,128]{1,0} add(%product.1, %product.1)
}

%keep (all.2: bf16[12,32,128], one.2: bf16[32,128]) -> bf16[12,32,128] {
  %all.2 = bf16[12,32,128]{2,1,0} parameter(0)
  %one.2 = bf16[32,128]{1,0} parameter(1)
  %row.2 = bf16[1,32,128]{2,1,0} bitcast(%one.2)
  ROOT %kept.2 = bf16[12,32,128]{2,1,0} dynamic-update-slice(%all.2, %row.2)
}

%window_condition (p.3: (u32[], bf16[8])) -> pred[] {
  %limit.3 = u32[] constant(8)
  %p.3 = (u32[], bf16[8]) parameter(0)
  %i.3 = u32[] get-tuple-element(%p.3), index=0
  ROOT %lt.3 = pred[] compare(%i.3, %limit.3), direction=LT
}

%window_body (p.4: (u32[], bf16[8])) -> (u32[], bf16[8]) {
  %p.4 = (u32[], bf16[8]) parameter(0)
  %i.4 = u32[] get-tuple-element(%p.4), index=0
  %two.4 = u32[] constant(2)
  %left.4 = bf16[4,16,32]{2,1,0} custom-call(%p.4), custom_call_target="Something"
  %right.4 = bf16[4,32,8]{2,1,0} custom-call(%p.4), custom_call_target="Something"
  %products.4 = bf16[4,16,8]{2,1,0} convolution(%left.4, %right.4), window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf
  %same.4 = bf16[16,32,4]{2,1,0} custom-call(%left.4), custom_call_target="ConcatBitcast"
  %next.4 = u32[] add(%i.4, %two.4)
  ROOT %out.4 = (u32[], bf16[8]) tuple(%next.4, %x.4)
}

%layers_condition (p.5: (s32[], bf16[32,64])) -> pred[] {
  %limit.5 = s32[] constant(12)
  %p.5 = (s32[], bf16[32,64]) parameter(0)
  %i.5 = s32[] get-tuple-element(%p.5), index=0
  ROOT %lt.5 = pred[] compare(%i.5, %limit.5), direction=LT
}

%layers_body (p.6: (s32[], bf16[32,64])) -> (s32[], bf16[32,64]) {
  %p.6 = (s32[], bf16[32,64], bf16[12,64,128], bf16[12,32,128]) parameter(0)
  %i.6 = s32[] get-tuple-element(%p.6), index=0
  %x.6 = bf16[32,64]{1,0} get-tuple-element(%p.6), index=1
  %stack.6 = bf16[12,64,128]{2,1,0} get-tuple-element(%p.6), index=2
  %all.6 = bf16[12,32,128]{2,1,0} get-tuple-element(%p.6), index=3
  %fusion.6 = bf16[32,128]{1,0} fusion(%x.6, %stack.6, %i.6), kind=kOutput, calls=%product
  %fusion.7 = bf16[12,32,128]{2,1,0} fusion(%all.6, %fusion.6), kind=kLoop, calls=%keep
  %zero.6 = u32[] constant(0)
  %start.6 = (u32[], bf16[8]) tuple(%zero.6, %y)
  %while.6 = (u32[], bf16[8]) while(%start.6), condition=%window_condition, body=%window_body
  %one.6 = s32[] constant(1)
  %next.6 = s32[] add(%i.6, %one.6)
  ROOT %out.6 = (s32[], bf16[32,64]) tuple(%next.6, %x.6, %stack.6, %fusion.7)
}

ENTRY %main (param.0: s32[]) -> s32[] {
  %param.0 = s32[] parameter(0)
  %while.7 = (s32[], bf16[32,64]) while(%start), condition=%layers_condition, body=%layers_body
  %copy-start.7 = (bf16[8]{0:S(3)}, bf16[8]{0}, u32[]{:S(2)}) copy-start(%y)
  %copy-done.7 = bf16[8]{0:S(3)} copy-done(%copy-start.7)
  ROOT %out.7 = s32[] get-tuple-element(%while.7), index=0
}
"""
PRODUCT, ELEMENTS = 2 * 32 * 64 * 128, 32 * 128
WINDOW = 4 * 2 * 16 * 32 * 8  # four products of the batch
COUNTER = 1  # an addition


@pytest.fixture(scope="module")
def costs():
    return Costs(Program(TEXT))


def test_loops_run_as_often_as_their_counter_needs(costs):
    assert costs.program.times == {"main": 1, "layers_body": 12, "window_body": 48}


def test_flops_are_those_of_products_and_of_elements(costs):
    assert costs.flops("layers_body") == PRODUCT + ELEMENTS + COUNTER
    assert costs.flops("window_body") == WINDOW + COUNTER
    assert costs.products() == 12 * PRODUCT + 48 * WINDOW
    assert costs.repeated_flops() == 11 * (PRODUCT + ELEMENTS + COUNTER) + 47 * (WINDOW + COUNTER)


def test_bytes_are_those_that_are_touched(costs):
    layer = {one.name: costs.bytes(one, "layers_body") for one in costs.program.computations["layers_body"]}
    assert layer["fusion.6"] == 2 * (32 * 64 + 64 * 128 + 32 * 128) + 4  # of the stack one layer
    assert layer["fusion.7"] == 2 * (32 * 128 + 32 * 128)  # of all that is kept one row
    window = {one.name: costs.bytes(one, "window_body") for one in costs.program.computations["window_body"]}
    assert window["products.4"] == 2 * (4 * 16 * 32 + 4 * 32 * 8 + 4 * 16 * 8) and window["same.4"] == 0
    entry = sum(costs.bytes(one, "main") for one in costs.program.computations["main"])
    assert entry == 2 * 16  # read here, written there
    assert costs.moved() == entry + 12 * sum(layer.values()) + 48 * sum(window.values())
