"""Tests calm_jax/planning/collectives.py on the text of a small program."""

import pytest

from calm_jax.planning.collectives import Collective, find_collectives

_GATHER = (
  "all-gather(%x), channel_id=7, replica_groups=mesh['a'=2,'b'=4],"
  " device_ids=([4,2]T(1,0)) {'b'}, dimensions={0}, metadata={op_name="
  '"jit(step)/jvp(Model.hidden)/backbone/while/body/dot_general"}'
)
# A gather of 8 × 100 bfloat16 numbers that goes on beside other work, in a loop
# of three passes; sums, one of two arrays at once; and what stays on a device.
_TEXT = f"""HloModule jit_step

%start.1 (x: bf16[2,100]) -> bf16[8,100] {{
  %all-gather.1 = bf16[8,100]{{1,0:T(8,128)(2,1)}} {_GATHER}
  ROOT %custom-call.1 = (bf16[2,100]{{1,0}}, u32[]{{:S(2)}}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}}

%done.1 (x: bf16[2,100]) -> bf16[8,100] {{
  ROOT %all-gather.2 = bf16[8,100]{{1,0:T(8,128)(2,1)}} {_GATHER}
}}

%all-reduce-scatter.3 (y: f32[64]) -> f32[8] {{
  %all-reduce.9 = f32[64]{{0}} all-reduce(%y), channel_id=3, replica_groups={{{{0,1,2,3,4,5,6,7}}}}
  ROOT %slice.1 = f32[8]{{0}} dynamic-slice(%all-reduce.9, %i)
}}

%condition.1 (t: (s32[], f32[5])) -> pred[] {{
  %constant.4 = s32[]{{:T(128)}} constant(3)
  ROOT %lt = pred[] compare(%i, %constant.4), direction=LT
}}

%body.1 (t: (s32[], f32[5])) -> (s32[], f32[5]) {{
  %fusion.1 = bf16[8,100]{{1,0}} fusion(%x), kind=kCustom, calls=%start.1
  %fusion.2 = bf16[8,100]{{1,0}} fusion(%x), kind=kCustom, calls=%done.1
  ROOT %tuple = (s32[], f32[5]{{0}}) tuple(%i, %v)
}}

ENTRY %main.5 (p: f32[5]) -> f32[5] {{
  %while.1 = (s32[], f32[5]{{0}}) while(%p), condition=%condition.1, body=%body.1
  %fusion.3 = f32[8]{{0}} fusion(%y), kind=kCustom, calls=%all-reduce-scatter.3
  %all-reduce.4 = (f32[10]{{0}}, /*index=1*/bf16[6]{{0}}) all-reduce(%a, %b), channel_id=4, replica_groups=[2,4]<=[8], to_apply=%add
  %all-reduce.5 = f32[10]{{0}} all-reduce(%a), channel_id=5, replica_groups={{{{0}},{{1}}}}
  %collective-permute-start.1 = (f32[4]{{0}}, f32[4]{{0}}, u32[]) collective-permute-start(%c), channel_id=1, source_target_pairs={{{{0,1}}}}
  %collective-permute-start.2 = (f32[4]{{0}}, f32[4]{{0}}, u32[]) collective-permute-start(%d), channel_id=1, source_target_pairs={{{{0,1}}}}
}}
"""  # noqa: E501


def test_every_collective_counts_as_often_as_it_runs():
  gather, scatter, total, permute = find_collectives(_TEXT, 8)
  assert gather == Collective(
    "all-gather", 4, "backbone, forward", 3, 3 * 8 * 100 * 2
  )
  assert scatter == Collective("reduce-scatter", 8, "other", 1, 64 * 4)
  assert total == Collective("all-reduce", 4, "other", 1, 10 * 4 + 6 * 2)
  assert permute == Collective("collective-permute", 8, "other", 2, 2 * 4 * 4)


@pytest.mark.parametrize(
  ("kind", "received"),
  [
    ("all-gather", 300.0),
    ("reduce-scatter", 300.0),
    ("all-to-all", 300.0),
    ("all-reduce", 600.0),
    ("collective-permute", 400.0),
  ],
)
def test_received_bytes(kind, received):
  assert Collective(kind, 4, "", 1, 400).received_bytes == received
