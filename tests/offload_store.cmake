# SPDX-License-Identifier: Apache-2.0
foreach(topic store store_random store_crash store_fault store_limits)
  tessera_test(offload ${topic} SOURCES store_rig.c
    LIBRARIES tessera_offload_static TIMEOUT 300 LABELS threads)
endforeach()
if(TESSERA_HAVE_NVTX)
  tessera_test(offload store_trace SOURCES store_rig.c
    LIBRARIES tessera_test_nvtx tessera_offload_static)
endif()
