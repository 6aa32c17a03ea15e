# SPDX-License-Identifier: Apache-2.0
foreach(topic adam adam_bits adam_values adam_random adam_state scale converge)
  tessera_test(optim ${topic} DEVICES host cuda SOURCES optim_rig.c
    LIBRARIES tessera_optim_static TIMEOUT 300)
endforeach()
foreach(topic step gradient)
  tessera_test(optim ${topic} DEVICES host cuda SOURCES optim_rig.c
    LIBRARIES tessera_optim_static TIMEOUT 300 LABELS threads)
endforeach()
foreach(topic twins fault)
  tessera_test(optim ${topic} SOURCES optim_rig.c LIBRARIES tessera_optim_static TIMEOUT 300)
endforeach()
if(TESSERA_HAVE_NVTX)
  tessera_test(optim trace DEVICES host cuda SOURCES optim_rig.c
    LIBRARIES tessera_test_nvtx tessera_optim_static)
endif()

# Only a GPU runs these.
if(TESSERA_HAVE_CUDA)
  foreach(topic cuda_twin large)
    tessera_test(optim ${topic} DEVICES cuda SOURCES optim_rig.c
      LIBRARIES tessera_optim_static TIMEOUT 300)
  endforeach()
  tessera_test(optim graph DEVICES cuda SOURCES optim_rig.c
    LIBRARIES tessera_optim_static tessera::dep_cudart TIMEOUT 300)
endif()
