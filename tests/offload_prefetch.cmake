# SPDX-License-Identifier: Apache-2.0
foreach(topic prefetch prefetch_store)
  tessera_test(offload ${topic} DEVICES host cuda SOURCES offload_prefetch_rig.c
    LIBRARIES tessera_offload_static TIMEOUT 300 LABELS threads)
endforeach()
tessera_test(offload prefetch_overlap SOURCES offload_prefetch_rig.c
  LIBRARIES tessera_offload_static TIMEOUT 60 LABELS threads)
tessera_test(offload prefetch_fault DEVICES host cuda SOURCES offload_prefetch_rig.c
  LIBRARIES tessera_offload_static TIMEOUT 300 LABELS threads)
tessera_test(offload prefetch_link DEVICES host cuda LIBRARIES tessera_offload_static)
if(TESSERA_HAVE_NVTX)
  tessera_test(offload prefetch_trace DEVICES host cuda SOURCES offload_prefetch_rig.c
    LIBRARIES tessera_test_nvtx tessera_offload_static)
endif()
