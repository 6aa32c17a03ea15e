# SPDX-License-Identifier: Apache-2.0
tessera_test(offload segregated LIBRARIES tessera_offload_static)
tessera_test(offload arena DEVICES host cuda SOURCES arena_rig.c
  LIBRARIES tessera_offload_static LABELS threads)
tessera_test(offload arena_failure DEVICES host cuda SOURCES arena_rig.c
  LIBRARIES tessera_offload_static)
