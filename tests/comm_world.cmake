# SPDX-License-Identifier: Apache-2.0
tessera_test(comm world_env)
tessera_test(comm world TIMEOUT 120 LABELS threads)
tessera_test(comm world_exchange TIMEOUT 120 LABELS threads)
tessera_test(comm world_failure SOURCES watched_rig.c TIMEOUT 180 LABELS threads)
tessera_test(comm world_records SOURCES watched_rig.c TIMEOUT 180 LABELS threads)
tessera_test(comm world_stranger TIMEOUT 120 LABELS threads)
tessera_test(comm world_fault TIMEOUT 240 LABELS threads)
tessera_test(comm deserted TIMEOUT 120 LABELS threads)
# With a GPU the launcher also counts devices, before and after CUDA runs in its process.
tessera_test(comm launch DEVICES host cuda TIMEOUT 180)
if(TESSERA_HAVE_NVTX)
  tessera_test(comm world_trace LIBRARIES tessera_test_nvtx)
endif()
