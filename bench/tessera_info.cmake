# SPDX-License-Identifier: Apache-2.0
# tessera-info: what this machine and this build offer, for bug reports.

# One row a library, as the configuration's table has it.
set(rows "")
foreach(library CUDA CUBLAS NCCL UCX NVTX BLAS)
  if(TESSERA_HAVE_${library})
    set(built 1)
    string(REPLACE ";" " " where "${TESSERA_${library}_WHERE}")
  else()
    set(built 0)
    string(REPLACE ";" " " where "${TESSERA_${library}_WHY}")
  endif()
  string(REPLACE "\"" "'" where "${where}")
  list(APPEND rows
    "    X(\"${library}\", ${built}, \"${TESSERA_${library}_VERSION}\", \"${where}\")")
endforeach()
list(JOIN rows " \\\n" INFO_BUILD_LIBRARIES)
configure_file("${CMAKE_CURRENT_LIST_DIR}/info_build.h.in"
  "${CMAKE_CURRENT_BINARY_DIR}/info/info_build.h" @ONLY)

set(info_sources tessera_info.c info_report.c info_machine.c info_devices.c info_environment.c)
set(info_libraries tessera_comm_static tessera_core_static tessera::dep_jansson)
if(TESSERA_HAVE_CUDA)
  list(APPEND info_sources info_cuda.c info_nvml.c)
  list(APPEND info_libraries tessera::dep_cudart ${CMAKE_DL_LIBS})
else()
  list(APPEND info_sources info_cuda_none.c)
endif()
list(TRANSFORM info_sources PREPEND "${CMAKE_CURRENT_LIST_DIR}/")
tessera_program(tessera-info SOURCES ${info_sources} LIBRARIES ${info_libraries})
target_include_directories(tessera-info PRIVATE "${CMAKE_CURRENT_BINARY_DIR}/info")
